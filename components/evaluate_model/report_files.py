"""The files and the manifest of an evaluation, of raw dialogues and of vectors alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistere.artifacts.manifests import ChampionEvaluation, EvaluationReport, MoEModel
from mistere.evaluation.gate_timeline import TIMELINES_FILE, GateTimeline, write_timelines
from mistere.evaluation.mixture_evaluation import MixtureEvaluation
from mistere.serving.example_dialogue import Example, write_example


@dataclass(frozen=True)
class Findings:
    """What an evaluation found beside the predictions.

    Attributes:
        metrics: flat metrics of the model and of the champion.
        runtime: cost of the model on this machine.
        timelines: of some dialogues.
        example: a dialogue for the smoke test; None if none fits into a request.
        baselines: the champion and the anchor on the same test split, as far as there are any, by name.
    """

    metrics: dict[str, float]
    runtime: dict[str, float]
    timelines: Sequence[GateTimeline]
    example: Example | None
    baselines: Mapping[str, ChampionEvaluation]


def write_report(folder: Path, model: MoEModel, evaluated: MixtureEvaluation, findings: Findings) -> EvaluationReport:
    """Write the report's files but the predictions, and return its manifest.

    Args:
        folder: of the report.
        model: the mixture.
        evaluated: its predictions of the test split.
        findings: everything else.
    """
    for name, figures in (("metrics.json", findings.metrics), ("runtime.json", findings.runtime)):
        (folder / name).write_text(json.dumps(figures, indent=1, sort_keys=True), encoding="utf-8")
    write_timelines(folder / TIMELINES_FILE, findings.timelines)
    if findings.example is not None:
        write_example(folder, findings.example)
    labelled = len(evaluated.scored.labels)
    return EvaluationReport(
        labels=model.labels,
        experts=model.experts,
        test_digest=model.test_digest,
        utterances=labelled,
        context=sum(map(len, evaluated.labels)) - labelled,
        dialogues=len(evaluated.names),
        metrics=findings.metrics,
        runtime=findings.runtime,
        confusion=evaluated.confusion.tolist(),
        champion=findings.baselines.get("champion"),
        anchor=findings.baselines.get("anchor"),
    )
