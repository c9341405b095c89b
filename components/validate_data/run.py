"""``validate_data``: judge the dataset before anything is trained on it; the report survives a rejection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.core.artifact_io import Opened
from components.core.config.validation import ValidationConfig
from components.core.dataset import Split
from components.core.manifests import UtteranceSet, ValidationReport
from components.core.remote_data import selected_dialogues, shard_paths
from components.core.stage import Result, Stage, Step
from components.validate_data.counts import tables
from components.validate_data.expectations import rules
from components.validate_data.facts import Facts, gather
from components.validate_data.suite import Outcome, evaluate

STAGE = Stage(
    name="validate_data",
    config=ValidationConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"report": ValidationReport},
    reports={"report": ("validation_report.html",)},
    imports=("great_expectations", "pandas", "soundfile"),
)
REPORT = "validation_report.html"
RESULTS = "expectations.json"


@dataclass(frozen=True)
class Validation:
    """A dataset's facts and what came of every expectation."""

    labels: tuple[str, ...]
    facts: Facts
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> list[str]:
        """One sentence for each expectation that rejects the dataset."""
        return [outcome.sentence for outcome in self.outcomes if outcome.status == "fail"]

    @property
    def verdict(self) -> Literal["pass", "reject"]:
        return "reject" if self.failed else "pass"

    @property
    def audio_seconds(self) -> float:
        return float(self.facts.utterances["seconds"].sum())


def run(config: ValidationConfig, step: Step, utterances: Opened[UtteranceSet], report: Path) -> Result:
    """Validate the dataset that a reference names.

    A rejected dataset is an answer, not an error: the verdict is a value for the pipeline's condition.

    Args:
        config: the ``validation`` section.
        step: this execution.
        utterances: the dataset's reference.
        report: folder of the output artifact: ``validation_report.html`` and ``expectations.json``.
    """
    from components.validate_data.report import render

    reference = utterances.manifest
    files = shard_paths(reference)
    shards = {split: list(paths.values()) for split, paths in files.items()}
    validation = validate(
        shards,
        reference.labels,
        reference.modalities,
        reference.speaker_disjoint,
        config,
        step.progress,
        dialogues=selected_dialogues(shards, reference.max_dialogues),
        names={split: list(paths) for split, paths in files.items()},
    )
    (report / RESULTS).write_text(results_json(validation), encoding="utf-8")
    (report / REPORT).write_text(render(validation, reference.name, reference.dvc_digest), encoding="utf-8")
    for sentence in validation.failed:
        step.progress.note(sentence)
    manifest = ValidationReport(
        verdict=validation.verdict,
        failed=validation.failed,
        expectations=sum(outcome.status != "not checked" for outcome in validation.outcomes),
        utterances=len(validation.facts.utterances),
        audio_seconds=round(validation.audio_seconds, 3),
    )
    return Result(manifests={"report": manifest}, values={"verdict": validation.verdict})


def validate(
    shards: Mapping[Split, Sequence[Path]],
    labels: Sequence[str],
    modalities: Sequence[str],
    speaker_disjoint: bool,
    config: ValidationConfig,
    on_progress: Callable[[str, float, float], None] | None = None,
    *,
    dialogues: Mapping[Split, frozenset[str] | None] | None = None,
    names: Mapping[Split, Sequence[str]] | None = None,
) -> Validation:
    """Gather the facts of local shards and judge them.

    Args:
        shards: parquet files of each split, in row order.
        labels: the declared labels, in order.
        modalities: what the dataset is said to have, of ``speech`` and ``text``.
        speaker_disjoint: whether the dataset promises that no speaker is in two splits.
        config: the bounds.
        on_progress: told ``(message, done, total)`` in utterances.
        dialogues: the dialogues in use, per split; None for all of them.
        names: what to call the shards, in the same order; their file names where left out.
    """
    facts = gather(shards, names=names, dialogues=dialogues, on_progress=on_progress)
    columns = facts.columns
    unusable = frozenset(columns.loc[columns["status"] != "ok", "column"])
    found = evaluate(
        rules(facts, labels, speaker_disjoint, config), tables(facts, labels, modalities, config), unusable
    )
    return Validation(tuple(labels), facts, tuple(found))


def results_json(validation: Validation) -> str:
    """Every result of Great Expectations, the same text for the same data."""
    import great_expectations

    content = {
        "verdict": validation.verdict,
        "great_expectations": great_expectations.__version__,
        "expectations": [
            {
                "name": outcome.rule.name,
                "table": outcome.rule.table,
                "status": outcome.status,
                "checked": outcome.checked,
                "unexpected": outcome.unexpected,
                "allowed_share": outcome.rule.allowed_share,
                "sentence": outcome.sentence,
                **({"great_expectations": outcome.result} if outcome.result else {}),
            }
            for outcome in validation.outcomes
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
