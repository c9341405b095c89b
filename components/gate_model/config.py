"""The ``gate`` section: the thresholds of every discovered rule."""

from __future__ import annotations

from components.gate_model.rules import rules
from mistere.config.composition import combine
from mistere.config.gate import RuleThresholds

GateConfig: type[RuleThresholds] = combine(
    "GateConfig",
    RuleThresholds,
    {f"gate rule {rule.name}": rule.thresholds for rule in rules().values()},
    "Thresholds that a candidate must pass to be released. ``off`` (YAML for false) disables a rule.",
)
