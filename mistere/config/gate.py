"""What the thresholds of all gate rules have in common; each rule declares its own beside its code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mistere.config.base import Section


def _reject_bool(value: Any) -> Any:
    """``bool`` is an ``int`` in Python; reject it as a threshold."""
    if isinstance(value, bool):
        raise ValueError("a number, or off")
    return value


def _only_false(value: Any) -> Any:
    """0 equals False in Python, but a threshold of 0 is a threshold."""
    if value is not False:
        raise ValueError("a number, or off")
    return value


Number = Annotated[float, BeforeValidator(_reject_bool)]
"""A threshold that is a number; combine it with bounds: ``Annotated[Number, Field(ge=0, le=1)]``."""
Off = Annotated[Literal[False], BeforeValidator(_only_false)]
"""Disables a rule: ``Number | Off``. ``off`` (YAML for false) rather than null, because KFP drops null parameters."""


class RuleThresholds(Section):
    """Base of the thresholds that one gate rule declares, and of the ``gate`` section, which has those of all rules."""
