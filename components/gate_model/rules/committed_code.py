"""What is released can be made again: a commit holds the code that made it."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, passed
from mistere.artifacts.manifests import RuleResult

NAME = "committed_code"


def evaluate(candidate: Candidate) -> RuleResult:
    """Hold a model of code with uncommitted changes, or of unknown code, unless that is allowed."""
    if candidate.code == "committed":
        return passed(NAME, None, None, "A commit holds the code that made it.")
    what = "has uncommitted changes" if candidate.code == "uncommitted" else "is in no Git repository"
    said = f"The code that made it {what}, so it can't be made again"
    if candidate.thresholds.allow_uncommitted:
        return passed(NAME, None, None, f"{said}, which this profile allows.")
    return (
        held(NAME, None, None, f"{said}: commit them and run again.")
        if candidate.code == "uncommitted"
        else held(NAME, None, None, f"{said}: run it in a clone, or allow it with --set gate.allow_uncommitted=true.")
    )
