"""From parquet files to a verdict: measure, check the expectations and, if allowed, quarantine dialogues and check the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from components.validate_data.dataset import Dataset, Declared
from components.validate_data.expectations import expectations, rules
from components.validate_data.expectations.drift import drift_bounds
from components.validate_data.facts.dataset_facts import Facts, ShardFile, gather
from components.validate_data.facts.drift import Drift, drifts
from components.validate_data.facts.profile import profile_of
from components.validate_data.facts.shard_facts import FactsCache
from components.validate_data.facts.tables import tables
from components.validate_data.quarantine import affected_dialogues
from components.validate_data.suite import evaluate
from components.validate_data.verdict import Quarantine, Validation
from mistere.common.counting import counted, percent
from mistere.common.splits import SPLITS, Split
from mistere.config.validation import ValidationSettings
from mistere.data.profile import Profile


def validate(
    files: Sequence[ShardFile],
    declared: Declared,
    config: ValidationSettings,
    *,
    before: Profile | None = None,
    dialogues: Mapping[Split, frozenset[str] | None] | None = None,
    cache: FactsCache | None = None,
    on_progress: Callable[[str, float, float], None] | None = None,
) -> Validation:
    """Measure local shards and check every expectation.

    Args:
        files: parquet files, in row order within each split.
        declared: what the dataset declares.
        config: the ``validation`` section.
        before: the profile of the champion's dataset; None for no drift expectations.
        dialogues: the dialogues in use, per split; None for all of them.
        cache: facts of shards that were measured before.
        on_progress: called with ``(message, done, total)``, in utterances.
    """
    facts = gather(
        files,
        declared,
        config.silence_dbfs,
        config.max_quiet,
        dialogues=dialogues,
        cache=cache,
        on_progress=on_progress,
    )
    validation = _check(facts, declared, config, before)
    if not validation.failed:
        return validation
    with_quarantine = _with_quarantine(validation, declared, config)
    if config.quarantine:
        return with_quarantine
    return replace(validation, with_quarantine=_what_quarantine_would_do(with_quarantine))


def _check(facts: Facts, declared: Declared, config: ValidationSettings, before: Profile | None) -> Validation:
    profile = profile_of(facts, declared.name, declared.labels)
    distances: list[Drift] = drifts(profile, before, drift_bounds(config)) if before else []
    dataset = Dataset(declared, facts, distances)
    checked = tables(facts, distances)
    for expectation in expectations():
        rows = expectation.build_rows(dataset, config)
        if rows is not None:
            checked[expectation.table] = rows
    columns = facts.columns
    unusable = frozenset(columns.loc[columns["status"] != "ok", "column"])
    outcomes = evaluate(rules(dataset, config), checked, unusable)
    return Validation(
        tuple(declared.labels),
        facts,
        checked,
        tuple(outcomes),
        tuple(distances),
        profile,
        before,
        modalities=declared.modalities,
    )


def _with_quarantine(validation: Validation, declared: Declared, config: ValidationSettings) -> Validation:
    """The validation with the dialogues of blocking findings quarantined, if the rest then has no blocking finding."""
    affected = affected_dialogues(validation.outcomes, validation.tables)
    if not affected:
        return replace(
            validation, refused="Nothing can be set aside, because the findings are about the dataset as a whole."
        )
    rest = validation.facts.without(affected)
    total = len(validation.facts.utterances)
    removed: dict[str, int] = {split: _rows(validation.facts, split) - _rows(rest, split) for split in SPLITS}
    aside = Quarantine(affected, removed, total)
    if aside.utterances > config.max_quarantined_share * total:
        return replace(
            validation,
            refused=f"Setting aside {aside.utterances:,} of {counted(total, 'utterance')} ({percent(aside.utterances / total, 1)}) is more than "
            f"validation.max_quarantined_share allows ({percent(config.max_quarantined_share, 1)}): fix the data, or raise it.",
        )
    remaining = _check(rest, declared, config, validation.before)
    if remaining.failed:
        return replace(validation, refused=f"Setting dialogues aside is not enough: {remaining.failed[0]}")
    return replace(validation, quarantine=aside, profile=remaining.profile, drifts=remaining.drifts)


def _what_quarantine_would_do(validation: Validation) -> str:
    """What ``--quarantine`` would do, in a sentence, from the validation with it."""
    aside = validation.quarantine
    if aside is None:
        return f"--quarantine would not help: {validation.refused[0].lower()}{validation.refused[1:]}"
    rest = counted(aside.of - aside.utterances, "utterance")
    return f"With --quarantine (validation.quarantine=true), {aside.size} would be set aside, and the remaining {rest} would be accepted."


def _rows(facts: Facts, split: str) -> int:
    return int((facts.utterances["split"] == split).sum())
