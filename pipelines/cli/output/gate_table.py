"""A run's outcome and gate rules as GitHub and GitLab Markdown, for a CI job's summary and for comments.

Sentences may quote labels from the data, so they are escaped: they must not contain markup, mention a user or close an issue.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Final

from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import GateVerdict
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.reports.evaluated_model import COVERAGE, estimate_text
from mistere.reports.next_commands import decide_command
from mistere.reports.plots import spoken
from mistere.reports.rule_rows import RuleRow, rule_rows
from mistere.reports.wording import headline
from mistere.runs.listing import run_ids
from mistere.runs.outcome import Estimate, Outcome, read_outcome, read_run_info

_SIGNS: Final = {
    "deployed": "✅",
    "scored": "✅",
    "waiting": "✋",
    "held": "🟡",
    "rejected": "❌",
    "data rejected": "❌",
    "failed": "🚨",
}


_MARKUP: Final = re.compile(r"(?P<plain>(?<=[^\W_])_+(?=[^\W_])|\[[-+\d., %]+\](?![(\[:]))|[\\`*_\[\]|~]")


def markdown(store: ObjectStore, run_id: str) -> str:
    """Render the outcome and the gate table of a finished run.

    Args:
        store: the object store.
        run_id: the run.

    Raises:
        UsageError: the store has no such run.
    """
    outcome = read_outcome(store, run_id)
    try:
        info = read_run_info(store, run_id)
    except ArtifactError as error:
        info = {}
        outcome.unreadable.append(str(error))
    if not (info or outcome.stages or outcome.unreadable):
        raise UsageError(f"the store {store.uri} has no run {run_id!r}: choose one of those under `runs/` in it.")
    profile = f", profile {_plain(str(info['profile']))}" if info.get("profile") else ""
    parts = [
        f"### {_SIGNS[outcome.verdict]} {_plain(headline(outcome))}",
        f"Run `{run_id}`{profile}: **{outcome.verdict}**",
        *_reasons(outcome),
        *([f"Approve it: `{decide_command(outcome, 'approve')}`"] if outcome.candidate else []),
        *_figures(outcome),
        *_rules(store, outcome),
        *map(_plain, outcome.unreadable),
        f"Report: `{outcome.report}`",
    ]
    return "\n\n".join(parts) + "\n"


def last_run(store: ObjectStore, commit: str) -> str:
    """Id of the latest run that was started from a commit.

    Args:
        store: the object store.
        commit: full or abbreviated hash.

    Raises:
        MistereError: no run was started from the commit, or the record of a later one is damaged.
    """
    for run_id in run_ids(store):
        if _is_of(read_run_info(store, run_id), commit):
            return run_id
    raise MistereError(f"no run in {store.uri} was started from commit {commit}: name the run, or submit that commit.")


def _is_of(info: dict[str, object], commit: str) -> bool:
    return bool(commit) and str(info.get("commit", "")).startswith(commit)


def _reasons(outcome: Outcome) -> list[str]:
    if outcome.verdict == "waiting":  # the other reasons are the rules' sentences, which the table shows
        return [f"- {_plain(outcome.reasons[0])}"]
    if outcome.verdict == "deployed":  # the reasons are the rules' sentences, which the table shows
        return []
    return ["\n".join(f"- {_plain(reason)}" for reason in outcome.reasons)] if outcome.reasons else []


def _figures(outcome: Outcome) -> list[str]:
    rows: list[tuple[str, Estimate | None, bool]] = [
        ("mixture", outcome.weighted_f1, False),
        *((f"{spoken(name)} alone", estimate, False) for name, estimate in outcome.experts.items()),
        ("teacher" if outcome.teacher else "champion before", outcome.champion_weighted_f1, False),
        ("difference, paired", outcome.champion_difference, True),
    ]
    shown = [(_plain(name), estimate_text(estimate, signed=signed)) for name, estimate, signed in rows if estimate]
    return [_table(("weighted F1 on test", f"{COVERAGE} interval"), shown)] if shown else []


def _rules(store: ObjectStore, outcome: Outcome) -> list[str]:
    judged = outcome.finished("gate_model")
    if judged is None:
        return []
    try:
        verdict = read_manifest(store, GateVerdict, judged.outputs.get("verdict", ""))
    except MistereError as error:
        return [f"The gate's table cannot be read: {_plain(str(error))}"]
    enabled = [row for row in rule_rows(verdict.rules) if row.enabled]
    rows = [(row.answer, row.title, _measured(row), row.bound, row.sentence) for row in enabled]
    return [_table(("gate", "rule", "measured", "bound", "explanation"), [tuple(map(_plain, row)) for row in rows])]


def _measured(row: RuleRow) -> str:
    return f"{row.measured} ({row.measured_as})" if row.measured_as else row.measured


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Escape text for Markdown, on one line.

    Only what would be markup gets a backslash, because the table is also read in a terminal: an underscore inside a word and
    brackets around numbers are none.
    """
    one_line = html.escape(" ".join(text.split()), quote=False)
    escaped = _MARKUP.sub(lambda match: match[0] if match["plain"] else f"\\{match[0]}", one_line)
    return escaped.replace("@", "@<!-- -->").replace("#", "#<!-- -->")
