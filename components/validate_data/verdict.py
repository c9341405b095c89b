"""A validation: facts, outcomes and the verdict; and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from components.validate_data.facts.dataset_facts import Facts
from components.validate_data.facts.drift import Drift
from components.validate_data.quarantine import Names
from components.validate_data.suite import ExpectationOutcome
from mistere.common.counting import counted, percent, plural
from mistere.data.profile import Profile

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["pass", "warn", "reject"]


@dataclass(frozen=True)
class Quarantine:
    """Quarantined dialogues.

    Attributes:
        dialogues: by split.
        rows: how many utterances are in them, by split.
        of: utterances of the whole dataset.
    """

    dialogues: Names
    rows: Mapping[str, int]
    of: int

    @property
    def utterances(self) -> int:
        """The number of quarantined utterances."""
        return sum(self.rows.values())

    @property
    def sentence(self) -> str:
        """The quarantined dialogues, in words."""
        return (
            f"{self.size} {plural(self.count, 'is', 'are')} set aside in quarantine.parquet: fix them there and bring them back "
            "with `mistere data import table`."
        )

    @property
    def count(self) -> int:
        """The number of quarantined dialogues."""
        return sum(map(len, self.dialogues.values()))

    @property
    def size(self) -> str:
        """``2 dialogues with 12 utterances (2.5 %)``."""
        share = self.utterances / max(1, self.of)
        return f"{counted(self.count, 'dialogue')} with {counted(self.utterances, 'utterance')} ({percent(share, 1)})"


@dataclass(frozen=True)
class Validation:
    """The validation of a dataset.

    Attributes:
        labels: the declared labels.
        facts: of the whole dataset.
        tables: what the expectations checked.
        outcomes: of every expectation, on the whole dataset.
        drifts: distances from the champion's dataset.
        profile: the dataset in numbers, without the quarantined dialogues.
        before: the champion's dataset in numbers; None without a champion that has a profile.
        quarantine: the quarantined dialogues; the rest has no blocking finding. None if nothing is.
        refused: why setting dialogues aside did not help, if it was allowed.
        with_quarantine: what setting dialogues aside would do, if the dataset is rejected and it was not allowed.
        modalities: the kinds of the modalities beside speech and text.
    """

    labels: tuple[str, ...]
    facts: Facts
    tables: Mapping[str, pd.DataFrame]
    outcomes: tuple[ExpectationOutcome, ...]
    drifts: tuple[Drift, ...]
    profile: Profile
    before: Profile | None = None
    quarantine: Quarantine | None = None
    refused: str = ""
    with_quarantine: str = ""
    modalities: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """One sentence for each blocking finding that remains, and why quarantine did not help."""
        if self.quarantine:
            return []
        sentences = [outcome.sentence for outcome in self.outcomes if outcome.status == "fail"]
        return [*sentences, *([self.refused] if self.refused and sentences else [])]

    @property
    def warnings(self) -> list[str]:
        """One sentence for what does not block: the quarantined dialogues and why, and each finding of severity ``warn``."""
        warned = [outcome.sentence for outcome in self.outcomes if outcome.status == "warn"]
        if self.quarantine is None:
            return warned
        why = [outcome.sentence for outcome in self.outcomes if outcome.status == "fail"]
        return [self.quarantine.sentence, *why, *warned]

    @property
    def verdict(self) -> Verdict:
        """``reject``, or ``warn`` if there are warnings, or ``pass``."""
        return "reject" if self.failed else "warn" if self.warnings else "pass"

    @property
    def tolerated(self) -> list[ExpectationOutcome]:
        """The expectations that some rows do not meet, as few as is allowed."""
        return [outcome for outcome in self.outcomes if outcome.status == "pass" and outcome.unexpected]

    @property
    def audio_seconds(self) -> float:
        return float(self.facts.utterances["seconds"].sum())


def verdict_json(validation: Validation) -> str:
    """The verdict as data: every expectation that is not met, how often, and up to ten rows; deterministic."""
    quarantine = validation.quarantine
    content: dict[str, Any] = {
        "verdict": validation.verdict,
        "utterances": len(validation.facts.utterances),
        "findings": [_finding(outcome) for outcome in validation.outcomes if outcome.status in {"fail", "warn"}],
        "tolerated": [_tolerated(outcome) for outcome in validation.tolerated],
        "not_checked": {o.rule.name: o.sentence for o in validation.outcomes if o.status == "not checked"},
        "drift": {d.measure: {"distance": round(d.distance, 6), "bound": round(d.bound, 6)} for d in validation.drifts},
        "quarantine": quarantine
        and {
            "utterances": quarantine.utterances,
            "dialogues": {split: sorted(names) for split, names in quarantine.dialogues.items()},
        },
    }
    if validation.refused:
        content["quarantine_refused"] = validation.refused
    if validation.with_quarantine:
        content["with_quarantine"] = validation.with_quarantine
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _finding(outcome: ExpectationOutcome) -> dict[str, Any]:
    return {
        "expectation": outcome.rule.name,
        "layer": outcome.rule.layer,
        "severity": outcome.severity,
        "sentence": outcome.sentence,
        "count": outcome.unexpected,
        "checked": outcome.checked,
        "allowed_share": outcome.rule.allowed_share,
        "rows": outcome.rule.table,
        "examples": list(outcome.examples),
    }


def _tolerated(outcome: ExpectationOutcome) -> dict[str, Any]:
    return {
        "expectation": outcome.rule.name,
        "title": outcome.rule.title,
        "count": outcome.unexpected,
        "checked": outcome.checked,
        "allowed_share": outcome.rule.allowed_share,
        "rows": list(outcome.examples),
    }


def results_json(outcomes: Sequence[ExpectationOutcome], verdict: Verdict) -> str:
    """Every result of Great Expectations; deterministic."""
    import great_expectations

    content = {
        "verdict": verdict,
        "great_expectations": great_expectations.__version__,
        "expectations": [
            {
                "name": outcome.rule.name,
                "table": outcome.rule.table,
                "severity": outcome.severity,
                "status": outcome.status,
                "checked": outcome.checked,
                "unexpected": outcome.unexpected,
                "allowed_share": outcome.rule.allowed_share,
                "sentence": outcome.sentence,
                **({"great_expectations": outcome.result} if outcome.result else {}),
            }
            for outcome in outcomes
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
