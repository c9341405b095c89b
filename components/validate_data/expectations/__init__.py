"""What is expected of a dataset, as data, layer by layer: tables, labels, dialogues, text, audio, pairing, splits, drift."""

from __future__ import annotations

from collections.abc import Sequence

from components.validate_data.expectations.content import audio_rules, pairing_rules, text_rules
from components.validate_data.expectations.distance import drift_rules, split_rules
from components.validate_data.expectations.rule import Rule
from components.validate_data.expectations.structure import dialogue_rules, label_rules, table_rules
from components.validate_data.facts.drift import Drift
from components.validate_data.facts.tables import Facts
from mistere.config.validation import ValidationConfig


def rules(
    facts: Facts,
    labels: Sequence[str],
    language: str,
    speaker_disjoint: bool,
    drifts: Sequence[Drift],
    config: ValidationConfig,
) -> list[Rule]:
    """Every expectation that is not switched off, in the order in which the report shows them.

    Args:
        facts: what was found.
        labels: the declared labels.
        language: the declared language.
        speaker_disjoint: whether the dataset promises that no speaker is in two splits.
        drifts: distances from the champion's dataset; none where there is no champion.
        config: bounds and severities.
    """
    found = [
        *table_rules(),
        *label_rules(labels, config),
        *dialogue_rules(config),
        *text_rules(facts, language, config),
        *audio_rules(facts, config),
        *pairing_rules(facts, config),
        *split_rules(facts, speaker_disjoint, config),
        *drift_rules(drifts),
    ]
    return [rule for rule in found if config.severity_of(rule.name) != "off"]
