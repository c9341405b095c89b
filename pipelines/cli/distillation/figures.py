"""The student's figures beside the teacher's, as ``distill.json`` and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from components.gate_model.rules.champion_comparison import DIFFERENCE
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet, EvaluationReport, MoEModel, RuleResult
from mistere.config.distillation import DistillationConfig
from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.footprint import Footprint
from mistere.reports.evaluated_model import estimate_text
from mistere.runs.outcome import Estimate
from pipelines.cli.output.tables import Column, print_table

JSON_FILE = "distill.json"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class ModelFigures:
    """One model's column.

    Attributes:
        location: of its bundle.
        size_mb: its weights with those of the bases, in MiB.
        cost: time and memory on one core; None if they could not be measured.
        dev_weighted_f1: on dev, by which settings are chosen.
        weighted_f1: on test.
    """

    location: str
    size_mb: float
    cost: Footprint | None
    dev_weighted_f1: Estimate
    weighted_f1: Estimate


def dev_weighted_f1(
    model: ArtifactHandle[MoEModel], vectors: Mapping[str, ArtifactHandle[EmbeddingSet]], config: EvaluationConfig
) -> Estimate:
    """Weighted F1 of a mixture on dev.

    Args:
        model: the mixture.
        vectors: of its encoders, by modality.
        config: resamples and seed of the interval.
    """
    from mistere.metrics.classification import DialogueBootstrap
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.mixture.prediction import load_mixture, predict_split

    mixture = load_mixture(model.path)
    names = list(mixture.dimensions)
    dev = predict_split(mixture, EmbeddedDialogues.open([vectors[name] for name in names]).only(names), "dev")
    bootstrap = DialogueBootstrap(dev.dialogues, config.resamples, config.seed)
    found = bootstrap.weighted_f1(dev.labels, dev.probabilities.argmax(1), len(model.manifest.labels))
    return Estimate(value=round(found.value, 8), low=round(found.low, 8), high=round(found.high, 8))


def as_json(
    teacher: ModelFigures,
    student: ModelFigures,
    report: EvaluationReport,
    result: RuleResult,
    config: DistillationConfig,
) -> dict[str, Any]:
    """The content of ``distill.json``."""
    speedup = None
    if teacher.cost is not None and student.cost is not None:
        speedup = teacher.cost.turn_ms / max(student.cost.turn_ms, 1e-9)
    difference = Estimate.of(report.metrics, DIFFERENCE)
    return {
        "verdict": result.outcome,
        "sentence": result.sentence,
        "margin": config.margin,
        "teacher": _model(teacher),
        "student": _model(student),
        "difference": None if difference is None else difference.model_dump(),
        "speedup": None if speedup is None else round(speedup, 2),
        "goals": {
            "size_mb": {"at_most": config.max_mb, "met": student.size_mb <= config.max_mb},
            "speedup": {
                "at_least": config.min_speedup,
                "met": None if speedup is None else speedup >= config.min_speedup,
            },
        },
        "test_utterances": report.utterances,
        "settings": config.model_dump(mode="json"),
    }


def write_json(folder: Path, content: dict[str, Any]) -> Path:
    """Write ``distill.json`` and return its path."""
    path = folder / JSON_FILE
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)
    return path


def show(
    console: Console, teacher: ModelFigures, student: ModelFigures, content: dict[str, Any], result: RuleResult
) -> None:
    """Print the table and what it means."""
    columns = (Column(""), Column("teacher", right=True), Column("student", right=True))
    models = (teacher, student)
    rows = [
        ("size with base weights (MiB)", *(f"{one.size_mb:.1f}" for one in models)),
        ("a turn on one core (ms)", *(f"{one.cost.turn_ms:.1f}" if one.cost else NOT_MEASURED for one in models)),
        (
            "peak memory of the process (MiB)",
            *(f"{one.cost.peak_mb:.0f}" if one.cost else NOT_MEASURED for one in models),
        ),
        ("weighted F1 on dev", *(estimate_text(one.dev_weighted_f1) for one in models)),
        ("weighted F1 on test", *(estimate_text(one.weighted_f1) for one in models)),
    ]
    print_table(console, columns, rows)
    goals = content["goals"]
    speed = NOT_MEASURED
    if content["speedup"] is not None:
        speed = f"{content['speedup']:.1f} × the teacher's (goal: {goals['speedup']['at_least']:g}, {_met(goals['speedup'])})"
    lines = [
        result.sentence,
        f"Speed: {speed}; size: {student.size_mb:.1f} MiB (goal: at most {goals['size_mb']['at_most']:g}, {_met(goals['size_mb'])}).",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _met(goal: dict[str, Any]) -> str:
    return "met" if goal["met"] else "not met"


def _model(one: ModelFigures) -> dict[str, Any]:
    return {
        "bundle": one.location,
        "size_mb": one.size_mb,
        "turn_ms": one.cost and one.cost.turn_ms,
        "peak_mb": one.cost and one.cost.peak_mb,
        "timed_turns": one.cost and one.cost.turns,
        "dev_weighted_f1": one.dev_weighted_f1.model_dump(),
        "weighted_f1": one.weighted_f1.model_dump(),
    }
