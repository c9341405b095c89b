"""Report before a run starts that the gate will hold its model, because its code is not committed."""

from __future__ import annotations

from components.gate_model.rules import committed_code
from mistere.common.digests.git_problems import missing_commit
from mistere.config.gate import RuleThresholds


def release_notice(gate: RuleThresholds, commit: str, dirty: bool, uncommitted: str) -> str:
    """One sentence on why the run's model cannot be released; empty if its code allows it.

    Args:
        gate: the ``gate`` section.
        commit: of the project's tree; empty without Git.
        dirty: whether the tree has uncommitted changes.
        uncommitted: names the files with uncommitted changes; empty if they are unknown.
    """
    if (isinstance(gate, committed_code.Thresholds) and gate.allow_uncommitted) or (commit and not dirty):
        return ""
    if not commit:
        reason, fix = missing_commit()
    else:
        reason, fix = f"of uncommitted changes in {uncommitted or 'its code'}", "commit them"
    return f"this run cannot be released because {reason}: {fix}, or continue with --set gate.allow_uncommitted=true."
