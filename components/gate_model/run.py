"""``gate_model``: every rule judges; one reject rejects, one hold holds, and only agreement promotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core.artifact_io import Opened
from components.core.champion import NO_CHAMPION
from components.core.config.gate import GateConfig
from components.core.manifests import EvaluationReport, GateVerdict, RuleResult
from components.core.stage import Result, Stage, Step

if TYPE_CHECKING:
    from components.core.metrics import Interval

STAGE = Stage(
    name="gate_model",
    config=GateConfig,
    inputs={"report": EvaluationReport},
    outputs={"verdict": GateVerdict},
    reports={"verdict": ("verdict.json",)},
    imports=("numpy", "pyarrow.parquet"),
)


def run(
    config: GateConfig, step: Step, report: Opened[EvaluationReport], verdict: Path, champion_digest: str
) -> Result:
    """Judge.

    Args:
        config: the thresholds.
        step: this execution.
        report: the candidate's evaluation, with the champion's predictions where there is a champion.
        verdict: folder of the output artifact.
        champion_digest: the champion's bundle, or ``none``.
    """
    from components.gate_model.candidate import Candidate
    from components.gate_model.rules import rules

    has_champion = champion_digest != NO_CHAMPION
    candidate = Candidate(
        metrics=report.manifest.metrics,
        thresholds=config,
        has_champion=has_champion,
        difference=_difference(report, config) if has_champion else None,
    )
    results = [rule(candidate) for rule in rules().values()]
    answer = overall(results)
    (verdict / "verdict.json").write_text(
        json.dumps([result.model_dump() for result in results], indent=1), encoding="utf-8"
    )
    return Result(manifests={"verdict": GateVerdict(verdict=answer, rules=results)}, values={"verdict": answer})


def overall(results: list[RuleResult]) -> Literal["promote", "hold", "reject"]:
    """One reject rejects, one hold holds; no rule at all holds, for nothing was judged."""
    outcomes = {result.outcome for result in results}
    if "reject" in outcomes:
        return "reject"
    return "promote" if outcomes == {"promote"} else "hold"


def _difference(report: Opened[EvaluationReport], config: GateConfig) -> Interval | None:
    """Candidate minus champion in weighted F1, paired; None where there are no comparable predictions."""
    import numpy as np

    from components.core.metrics import DialogueBootstrap
    from components.core.predictions import read_predictions

    if "champion.parquet" not in report.manifest.files:
        return None
    ours = read_predictions(report.file("predictions.parquet"))
    theirs = read_predictions(report.file("champion.parquet"))
    if ours.dialogues != theirs.dialogues or not np.array_equal(ours.labels, theirs.labels):
        return None
    bootstrap = DialogueBootstrap(ours.dialogues, config.resamples, config.seed)
    return bootstrap.weighted_f1_difference(
        ours.labels, ours.probabilities.argmax(1), theirs.probabilities.argmax(1), len(report.manifest.labels)
    )
