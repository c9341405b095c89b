"""From parquet files to a verdict: gather, compare, judge, and, where that is allowed, set aside and judge again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from components.validate_data.expectations import rules
from components.validate_data.facts.counts import tables
from components.validate_data.facts.drift import Drift, drifts
from components.validate_data.facts.profile import Profile, profile_of
from components.validate_data.facts.shard import FactsCache
from components.validate_data.facts.tables import Facts, ShardFile, gather
from components.validate_data.quarantine import to_blame
from components.validate_data.suite import evaluate
from components.validate_data.verdict import Quarantine, Validation
from mistere.common.splits import SPLITS, Split
from mistere.config.validation import ValidationConfig


@dataclass(frozen=True)
class Declared:
    """What a dataset says of itself.

    Attributes:
        name: its name.
        labels: in order.
        language: a tag such as ``en``.
        speaker_disjoint: whether it promises that no speaker is in two splits.
    """

    name: str
    labels: Sequence[str]
    language: str
    speaker_disjoint: bool


def validate(
    files: Sequence[ShardFile],
    declared: Declared,
    config: ValidationConfig,
    *,
    before: Profile | None = None,
    dialogues: Mapping[Split, frozenset[str] | None] | None = None,
    cache: FactsCache | None = None,
    on_progress: Callable[[str, float, float], None] | None = None,
) -> Validation:
    """Gather the facts of local shards and judge them.

    Args:
        files: parquet files, in row order within each split.
        declared: what the dataset says of itself.
        config: bounds and severities.
        before: the profile of the data that the champion learned from.
        dialogues: the dialogues in use, per split; None for all of them.
        cache: facts that were gathered before.
        on_progress: told ``(message, done, total)`` in utterances.
    """
    facts = gather(
        files,
        declared.language,
        config.silence_dbfs,
        config.max_quiet,
        dialogues=dialogues,
        cache=cache,
        on_progress=on_progress,
    )
    found = _judge(facts, declared, config, before)
    if config.quarantine and found.failed:
        return _without_the_guilty(found, declared, config)
    return found


def _judge(facts: Facts, declared: Declared, config: ValidationConfig, before: Profile | None) -> Validation:
    profile = profile_of(facts, declared.name, declared.labels)
    distances: list[Drift] = drifts(profile, before, config) if before else []
    looked_at = tables(facts, declared.labels, distances, config)
    columns = facts.columns
    unusable = frozenset(columns.loc[columns["status"] != "ok", "column"])
    expected = rules(facts, declared.labels, declared.language, declared.speaker_disjoint, distances, config)
    outcomes = evaluate(expected, looked_at, unusable, config)
    return Validation(tuple(declared.labels), facts, looked_at, tuple(outcomes), tuple(distances), profile, before)


def _without_the_guilty(found: Validation, declared: Declared, config: ValidationConfig) -> Validation:
    """The validation with the dialogues set aside that its blocking findings are about, where the rest is then without."""
    guilty = to_blame(found.outcomes, found.tables)
    if not guilty:
        return replace(found, refused="Nothing can be set aside: the findings are about the dataset as a whole.")
    rest = found.facts.without(guilty)
    whole = len(found.facts.utterances)
    gone: dict[str, int] = {split: _rows(found.facts, split) - _rows(rest, split) for split in SPLITS}
    aside = Quarantine(guilty, gone, whole)
    if aside.utterances > config.max_quarantined_share * whole:
        return replace(
            found,
            refused=f"Setting aside {aside.utterances:,} of {whole:,} utterances ({aside.utterances / whole:.1%}) is more than "
            f"validation.max_quarantined_share allows ({config.max_quarantined_share:.1%}): mend the data, or raise it.",
        )
    judged = _judge(rest, declared, config, found.before)
    if judged.failed:
        return replace(found, refused=f"Setting dialogues aside is not enough: {judged.failed[0]}")
    return replace(found, quarantine=aside, profile=judged.profile, drifts=judged.drifts)


def _rows(facts: Facts, split: str) -> int:
    return int((facts.utterances["split"] == split).sum())
