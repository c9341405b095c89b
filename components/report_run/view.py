"""Render the report page: prepare plots, tables and sentences, and fill the template."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.report_run.cost_view import RunCosts
from components.report_run.run_artifacts import RunArtifacts
from components.report_run.timing import Timing, duration, time_sentences
from mistere.common.counting import counted, plural
from mistere.config.stages import task_title
from mistere.engine.stage import StageRecord
from mistere.metrics.modality_choice import choice_from_metrics
from mistere.reports import plots
from mistere.reports.evaluated_model import COVERAGE, Evaluated, bounds_text
from mistere.reports.evaluation_view import MACROS, drawn, evaluation_view
from mistere.reports.html_page import render_page
from mistere.reports.rule_rows import rule_rows, shown_reasons
from mistere.reports.wording import NextStep, consequence, headline, is_scoring, pill, status_word
from mistere.runs.outcome import Estimate, Outcome
from mistere.runs.tasks import base_task, ordered_tasks

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = Path(__file__).parent / "report.html"


def render(
    outcome: Outcome,
    artifacts: RunArtifacts,
    timing: Timing,
    costs: RunCosts,
    steps: list[NextStep],
    profile: str,
    model_name: str,
) -> str:
    """Render the page as HTML."""
    info = artifacts.info
    word, tone = pill(outcome)
    return render_page(
        TEMPLATE,
        MACROS,
        counted=counted,
        outcome=outcome,
        artifacts=artifacts,
        model_name=model_name,
        profile=str(info.get("profile") or profile or ""),
        started=_when(info.get("started")),
        headline=headline(outcome),
        is_scoring=is_scoring(outcome),
        consequence=consequence(outcome, artifacts.champion_now),
        pill=word,
        tone=tone,
        wall=duration(timing.wall),
        evaluated=_evaluated(outcome, artifacts),
        rules=rule_rows(artifacts.gate.rules) if artifacts.gate else [],
        choice=choice_from_metrics(artifacts.evaluation.metrics) if artifacts.evaluation else None,
        reasons=shown_reasons(outcome, artifacts.gate),
        histories=_histories(artifacts),
        automatic=_automatic(artifacts),
        stages=_stages(outcome, timing),
        time_sentences=time_sentences(timing, outcome),
        costs=costs.view(),
        lineage=_lineage(outcome, artifacts),
        settings=yaml.safe_dump(info["config"], sort_keys=False, allow_unicode=True) if info.get("config") else "",
        steps=steps,
    )


def _when(started: Any) -> str:
    if not isinstance(started, int | float) or not math.isfinite(started):
        return ""
    return datetime.fromtimestamp(started, UTC).strftime("%-d %B %Y, %H:%M UTC")


def _evaluated(outcome: Outcome, artifacts: RunArtifacts) -> dict[str, Any] | None:
    """The evaluation's part of the page; None without a readable evaluation."""
    evaluation = artifacts.evaluation
    if evaluation is None:
        return None
    model = Evaluated(evaluation, artifacts.predictions, artifacts.timelines)
    champion = outcome.champion_weighted_f1
    return {
        "view": evaluation_view([model], artifacts.unreadable.append, champion, _compared(outcome)),
        "tiles": _tiles(outcome, model, champion),
        "best_expert": _best_expert(outcome),
    }


def _tiles(outcome: Outcome, model: Evaluated, champion: Estimate | None) -> list[tuple[str, list[str]]]:
    """The most important metrics, each with the lines below it."""
    whole, majority = outcome.weighted_f1, outcome.majority_weighted_f1
    tiles = [
        (
            f"{whole.value:.3f}" if whole else "unknown",
            ["weighted F1 on the test split", *_interval(whole)],
        ),
        _champion_tile(outcome, model, champion),
    ]
    if majority is not None:
        tiles.append((f"{majority:.3f}", ["baseline: always the most frequent emotion"]))
    evaluation = model.evaluation
    split = f"{plural(evaluation.utterances, 'test utterance')} in {counted(evaluation.dialogues, 'dialogue')}"
    context = [f"with {counted(evaluation.context, 'turn')} of context"] if evaluation.context else []
    return [*tiles, (f"{evaluation.utterances:,}", [split, *context])]


def _compared(outcome: Outcome) -> str:
    return "teacher" if outcome.teacher else "previous champion"


def _champion_tile(outcome: Outcome, model: Evaluated, champion: Estimate | None) -> tuple[str, list[str]]:
    against = model.evaluation.champion
    other = _compared(outcome)
    if champion is None:
        if not outcome.teacher and not outcome.champion_before and against is None:
            return "none", ["no champion before this run"]
        if against is not None and against.incomparable:
            return "not comparable", [f"{other}: {against.incomparable}"]
        return "not comparable", [f"{other}: evaluated on another test split"]
    lines = [f"{other} on the same test split", *_interval(champion)]
    difference = model.estimate("champion.difference.weighted_f1")
    if difference is not None:
        bounds = "" if difference.exactly_zero else bounds_text(difference, signed=True)
        change = "none" if difference.exactly_zero else f"{difference.value:+z.3f}"
        lines.append(
            f"difference of the {'student' if outcome.teacher else 'new model'}: {change}"
            + (f" ({bounds}, paired)" if bounds else "")
        )
    return f"{champion.value:.3f}", lines


def _interval(estimate: Estimate | None) -> list[str]:
    bounds = bounds_text(estimate) if estimate else ""
    return [f"{COVERAGE} interval {bounds}"] if bounds else []


def _best_expert(outcome: Outcome) -> str:
    """A sentence that compares the mixture with its best expert."""
    if outcome.weighted_f1 is None or len(outcome.experts) < 2:
        return ""
    name, best = max(outcome.experts.items(), key=lambda item: item[1].value)
    gain = outcome.weighted_f1.value - best.value
    if abs(gain) < 0.0005:
        return f"The mixture is as good as its best expert alone ({plots.spoken(name)})."
    side = "above" if gain > 0 else "below"
    return f"The mixture is {abs(gain):.3f} {side} its best expert alone ({plots.spoken(name)}, {best.value:.3f})."


def _histories(artifacts: RunArtifacts) -> list[tuple[str, Markup]]:
    trained = [
        (f"{e.modality} encoder", e.history, plots.expert_color(e.modality)) for e in artifacts.encoders if e.history
    ]
    if artifacts.mixture and artifacts.mixture.history:
        trained.append(("mixture of experts", artifacts.mixture.history, plots.MIXTURE_COLOR))
    figures = []
    for name, history, color in trained:
        figure = drawn(artifacts.unreadable.append, partial(plots.history_plot, history, color))
        if figure is not None:
            figures.append((name, figure))
    return figures


def _automatic(artifacts: RunArtifacts) -> str:
    """The values of the mixture's settings that were chosen by the size of train, in one line."""
    values = artifacts.mixture.automatic if artifacts.mixture else {}
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items() if value != {})


def _title(task: str, record: StageRecord | None) -> str:
    """The title of a task, with the number of utterances that it could not decode."""
    title = task_title(base_task(task))
    undecodable = record.values.get("undecodable") if record else None
    return (
        f"{title}; {counted(int(undecodable), 'utterance')} could not be decoded and {plural(int(undecodable), 'counts', 'count')} as missing"
        if undecodable
        else title
    )


def _stages(outcome: Outcome, timing: Timing) -> list[dict[str, Any]]:
    rows = []
    for task in ordered_tasks((record.task for record in outcome.stages), outcome.modalities):
        record = outcome.record(task)
        word, tone = status_word(record.status if record else None)
        share = record.seconds / timing.wall if record and timing.wall > 0 else 0.0
        rows.append(
            {
                "task": task,
                "title": _title(task, record),
                "status": word,
                "tone": tone,
                "seconds": duration(record.seconds) if record else "",
                "share": f"{100 * share:.0f} %" if record else "",
                "width": f"{100 * min(share, 1.0):.1f}%",
                "memory": _memory(record.peak_memory_mb) if record and record.peak_memory_mb else "",
            }
        )
    return rows


def _memory(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"


def _lineage(outcome: Outcome, artifacts: RunArtifacts) -> dict[str, Any]:
    """Commit and artifacts; a reused artifact may come from an earlier commit."""
    origins = [(artifact, artifact.made_by) for artifact in artifacts.manifests]
    commit = str(
        artifacts.info.get("commit")
        or next((origin.run.commit for _, origin in origins if origin and origin.run.commit), "")
    )
    return {
        "commit": commit,
        "dirty": bool(artifacts.info.get("dirty", False)) or any(origin.run.dirty for _, origin in origins if origin),
        "command": str(artifacts.info.get("command") or ""),
        "artifacts": [
            {
                "kind": artifact.kind,
                "digest": artifact.digest,
                "stage": origin.stage if origin else "",
                "commit": (origin.run.commit[:12] + (" with uncommitted changes" if origin.run.dirty else ""))
                if origin
                else "",
            }
            for artifact, origin in origins
        ],
        "bundle": outcome.bundle,
        "bundle_digest": outcome.bundle_digest,
    }
