"""The verdict of several rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mistere.artifacts.manifests import RuleResult


def overall(results: Sequence[RuleResult]) -> Literal["promote", "hold", "reject"]:
    """One rejection rejects, one hold holds; without any evaluated rule the verdict is hold."""
    outcomes = {result.outcome for result in results} - {"off"}
    if "reject" in outcomes:
        return "reject"
    return "promote" if outcomes == {"promote"} else "hold"
