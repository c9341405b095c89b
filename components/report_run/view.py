"""From what was gathered to the page: figures are drawn here, words chosen, and the template filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.core.gate_statistics import collapsed_gate
from components.core.manifests import EvaluationReport
from components.core.missing_curve import curve_from_metrics
from components.core.outcome import Estimate, Outcome, base_task, ordered_tasks
from components.core.page import render_page
from components.core.stage import StageRecord
from components.report_run import plots
from components.report_run.curves import missing_modality_plot
from components.report_run.material import Material
from components.report_run.timing import Timing, duration, time_sentences
from components.report_run.wording import TITLES, NextStep, consequence, headline, pill, status_word

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = Path(__file__).parent / "report.html"


def render(
    outcome: Outcome, material: Material, timing: Timing, steps: list[NextStep], profile: str, model_name: str
) -> str:
    """The page as HTML."""
    info = material.info
    word, tone = pill(outcome)
    return render_page(
        TEMPLATE,
        outcome=outcome,
        material=material,
        model_name=model_name,
        profile=str(info.get("profile") or profile or ""),
        started=_when(info.get("started")),
        headline=headline(outcome),
        consequence=consequence(outcome, material.champion_now),
        pill=word,
        tone=tone,
        wall=duration(timing.wall),
        figures=_figures(outcome, material),
        stages=_stages(outcome, timing),
        time_sentences=time_sentences(timing, outcome),
        lineage=_lineage(outcome, material),
        settings=yaml.safe_dump(info["config"], sort_keys=False, allow_unicode=True) if info.get("config") else "",
        steps=steps,
    )


def _when(started: Any) -> str:
    if not isinstance(started, int | float) or not math.isfinite(started):
        return ""
    return datetime.fromtimestamp(started, UTC).strftime("%-d %B %Y, %H:%M UTC")


def estimate_text(estimate: Estimate | None) -> str:
    """``0.612 (0.550 to 0.670)``."""
    if estimate is None:
        return "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _figures(outcome: Outcome, material: Material) -> dict[str, Any] | None:
    """Pictures and the numbers beside them; None where the run did not come to an evaluation that can be read."""
    histories = _histories(material)
    evaluation = material.evaluation
    if evaluation is None:
        return {"evaluated": False, "histories": histories} if histories else None
    metrics = evaluation.metrics
    scores = {label: metrics[f"test.f1.{label}"] for label in evaluation.labels if f"test.f1.{label}" in metrics}
    support = {label: metrics.get(f"test.support.{label}", 0.0) for label in evaluation.labels}
    curve = curve_from_metrics(metrics)
    means = {name: metrics[key] for name in evaluation.experts if (key := f"test.gate.{name}.mean") in metrics}
    return {
        "evaluated": True,
        "histories": histories,
        "interval": f"{100 * float(_interval(evaluation)):g} %",
        "f1": f"{outcome.weighted_f1.value:.3f}" if outcome.weighted_f1 else "unknown",
        "f1_text": estimate_text(outcome.weighted_f1),
        "range": _range(outcome.weighted_f1),
        "majority": outcome.majority_weighted_f1,
        "champion": outcome.champion_weighted_f1,
        "best_expert": _best_expert(outcome),
        "expert_texts": [(plots.spoken(name), estimate_text(value)) for name, value in outcome.experts.items()],
        "experts": _drawn(material, lambda: _experts(outcome)),
        "gate": _drawn(material, lambda: plots.gate_plot(means)) if len(means) > 1 else None,
        "collapse": collapsed_gate(metrics, evaluation.experts),
        "leads": _leads(metrics, evaluation.experts),
        "missing": _drawn(material, lambda: missing_modality_plot({"": curve})) if curve else None,
        "classes": _drawn(material, lambda: plots.classes_plot(scores, support)) if scores else None,
        "confusion": _drawn(material, lambda: plots.confusion_plot(evaluation.confusion, evaluation.labels)),
        "dialogues": _dialogues(material, evaluation),
        "legend": [(plots.spoken(n), plots.expert_color(n, i)) for i, n in enumerate(evaluation.experts)],
    }


def _interval(evaluation: EvaluationReport) -> float:
    return float(evaluation.made_by.config.get("interval", 0.95)) if evaluation.made_by else 0.95


def _range(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _best_expert(outcome: Outcome) -> str:
    """Whether mixing has paid, in a sentence."""
    if outcome.weighted_f1 is None or len(outcome.experts) < 2:
        return ""
    name, best = max(outcome.experts.items(), key=lambda item: item[1].value)
    gain = outcome.weighted_f1.value - best.value
    if abs(gain) < 0.0005:
        return f"The mixture does as well as its best expert alone ({plots.spoken(name)})."
    side = "above" if gain > 0 else "below"
    return f"The mixture is {abs(gain):.3f} {side} its best expert alone ({plots.spoken(name)}, {best.value:.3f})."


def _leads(metrics: Mapping[str, float], experts: list[str]) -> str:
    """How often each expert weighs most, in a sentence."""
    shares = {name: metrics[key] for name in experts if (key := f"test.gate.{name}.led") in metrics}
    if len(shares) < 2:
        return ""
    told = ", ".join(f"{plots.spoken(name)} {100 * share:.0f} %" for name, share in shares.items())
    entropy = metrics.get("test.gate.entropy")
    return f"leads: {told}" + (f"; evenness {entropy:.2f} of 1" if entropy is not None else "")


def _experts(outcome: Outcome) -> Markup | None:
    if outcome.weighted_f1 is None:
        return None
    majority, champion = outcome.majority_weighted_f1, outcome.champion_weighted_f1
    return plots.experts_plot(outcome.weighted_f1, outcome.experts, majority, champion)


def _drawn(material: Material, draw: Callable[[], Markup | None]) -> Markup | None:
    """A picture, or a sentence about why it could not be drawn: one odd figure must not cost the page."""
    try:
        return draw()
    except (ValueError, IndexError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        material.unreadable.append(f"One picture could not be drawn from the recorded figures ({reason}).")
        return None


def _dialogues(material: Material, evaluation: EvaluationReport) -> list[tuple[str, Markup, bool]]:
    """Name, picture, and whether a turn in it lacks a modality."""
    everything = max((m for d in material.examples for m in d.modalities), key=len, default="")
    drawn = []
    for dialogue in material.examples:
        picture = _drawn(material, partial(plots.dialogue_plot, dialogue, evaluation.experts, everything))
        if picture is not None:
            drawn.append((dialogue.name, picture, any(m != everything for m in dialogue.modalities)))
    return drawn


def _histories(material: Material) -> list[tuple[str, Markup]]:
    trained = [
        (f"{e.modality} encoder", e.history, plots.expert_color(e.modality)) for e in material.encoders if e.history
    ]
    if material.mixture and material.mixture.history:
        trained.append(("mixture of experts", material.mixture.history, plots.MIXTURE_COLOR))
    drawn = []
    for name, history, color in trained:
        picture = _drawn(material, partial(plots.history_plot, history, color))
        if picture is not None:
            drawn.append((name, picture))
    return drawn


def _title(task: str, record: StageRecord | None) -> str:
    """What the task does, and what of the data it had to leave out."""
    title = TITLES[base_task(task)]
    lost = record.values.get("undecodable") if record else None
    return f"{title}; {lost} utterances did not decode and count as missing" if lost else title


def _stages(outcome: Outcome, timing: Timing) -> list[dict[str, Any]]:
    rows = []
    for task in ordered_tasks(record.task for record in outcome.stages):
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


def _lineage(outcome: Outcome, material: Material) -> dict[str, Any]:
    """Commit, and every artifact with what made it; an artifact found finished may come from an earlier commit."""
    made = [(artifact, artifact.made_by) for artifact in material.artifacts]
    commit = str(material.info.get("commit") or next((by.commit for _, by in made if by and by.commit), ""))
    return {
        "commit": commit,
        "dirty": bool(material.info.get("dirty", False)),
        "command": str(material.info.get("command") or ""),
        "artifacts": [
            {
                "kind": artifact.kind,
                "digest": artifact.digest,
                "stage": by.stage if by else "",
                "commit": (by.commit[:12] + (" with changes" if by.dirty else "")) if by else "",
            }
            for artifact, by in made
        ],
        "bundle": outcome.bundle,
        "bundle_digest": outcome.bundle_digest,
    }
