"""``mistere models``: lists the registered versions, the promotion log, or the champions' figures over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mistere.common.counting import counted
from mistere.common.errors import ArtifactError, UsageError
from mistere.registry.lineage import TeacherVersion
from mistere.registry.mlflow.model_registry import RegisteredVersion, registered_versions
from mistere.registry.release.candidates import Candidate, Standing, standings
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import PromotionEvent, PromotionLog, read_log
from mistere.registry.release.unfinished import unfinished_releases
from pipelines.cli.commands.registry.history import print_history
from pipelines.cli.output.tables import Column, output_console, print_table
from pipelines.cli.output.times import minute_text
from pipelines.cli.registry_location import RegistryLocation

_STUDENT = Column("student of", drop=5)
"""Shown if there is a student."""
_COLUMNS = (
    Column("version"),
    Column("aliases"),
    Column("state"),
    _STUDENT,
    Column("weighted F1", right=True),
    Column("dataset", drop=1),
    Column("code", drop=2),
    Column("bundle", drop=4),
    Column("made (UTC)", drop=3),
)
_LOG_COLUMNS = (
    Column("when (UTC)"),
    Column("what"),
    Column("outcome"),
    Column("version"),
    Column("from", drop=2),
    Column("to", drop=3),
    Column("by", drop=1),
    Column("why", folds=True),
)


def models(location: RegistryLocation, model_name: str, *, log: bool, history: bool = False, as_json: bool) -> None:
    """List the versions, newest first, or the promotion log or the champions, oldest first.

    Args:
        location: store and registry.
        model_name: name of the model.
        log: list the promotion log instead.
        history: list the champions with their figures instead.
        as_json: print JSON.

    Raises:
        UsageError: both ``log`` and ``history`` are set.
        ArtifactError: the champion's pointer is damaged, or an event of the log; the other events are printed first.
    """
    if log and history:
        raise UsageError("--log and --history are two lists: choose one of them.")
    console = output_console()
    if history:
        print_history(console, location.store, model_name, as_json=as_json)
        return
    if log:
        _print_log(console, read_log(location.store), as_json=as_json)
        return
    versions = registered_versions(location.tracking_uri, model_name)
    champion = read_champion(location.store).digest
    location.require_registered(versions)
    found = standings(location.store, [entry.bundle_digest for entry in versions])
    if as_json:
        print(json.dumps([_plain(entry, champion, found[entry.bundle_digest]) for entry in versions], indent=1))
        return
    if not versions:
        console.print(f"The registry holds no version of {model_name} yet: `mistere run` makes one.", markup=False)
        return
    columns = _COLUMNS if any(map(teacher_of, versions)) else tuple(one for one in _COLUMNS if one is not _STUDENT)
    print_table(console, columns, [_row(entry, found[entry.bundle_digest], columns) for entry in versions])
    for entry in versions:
        if found[entry.bundle_digest].state == "waiting":
            _print_waiting(console, entry, found[entry.bundle_digest])
    for release in unfinished_releases(location.store):
        console.print(release.sentence(), style="dim" if release.alive else "yellow", markup=False)
    served = next((entry for entry in versions if entry.bundle_digest == champion), None)
    if served is not None and "champion" not in served.aliases:
        console.print(
            f"The champion in the store is version {served.version}; MLflow's alias names another. The next release corrects "
            f"the alias, and so does `mistere promote {model_name}/{served.version}`.",
            markup=False,
        )


def _print_log(console: Console, log: PromotionLog, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([event.model_dump(exclude={"checksum"}) for event in log.events], indent=1))
    elif log.events:
        print_table(console, _LOG_COLUMNS, [_log_row(event) for event in log.events])
    elif not log.damaged:
        console.print("Nothing has been promoted yet.")
    if log.damaged:
        count = len(log.damaged)
        raise ArtifactError(
            f"{counted(count, 'event')} of the promotion log cannot be read because of damage "
            f"({', '.join(log.damaged[:3])}{', …' if count > 3 else ''})",
            "restore them from a copy of the store, or move them away",
        )


def _print_waiting(console: Console, entry: RegisteredVersion, stands: Standing) -> None:
    """Say why a version waits, and how to decide on it."""
    candidate = stands.candidate
    final = candidate.final_holds if candidate else []
    reasons = [rule.sentence for rule in (candidate.holds if candidate else [])]
    why = " ".join(reasons) or "The gate lets it pass, and its profile leaves the release to a person."
    if candidate is not None and candidate.comparison is not None:
        others = [rule.sentence for rule in candidate.holds if rule.rule != candidate.comparison.rule]
        why = " ".join([f"It is a student of {teacher_of(entry)}.", candidate.comparison.sentence, *others])
    command = f"`mistere approve {entry.name}/{entry.version} --reason …`"
    console.print(f"Version {entry.version} waits: {why}", style="dim", markup=False)
    console.print(
        f"  {'Its profile lets nobody approve it.' if final else f'Decide with {command}, or `mistere reject …`.'}",
        style="dim",
        markup=False,
    )


def _plain(entry: RegisteredVersion, champion: str, stands: Standing) -> dict[str, Any]:
    candidate = stands.candidate
    return {
        "model": entry.name,
        "version": entry.version,
        "aliases": list(entry.aliases),
        "champion": entry.bundle_digest == champion,
        "state": stands.state,
        "verdict": candidate.verdict if candidate else entry.tags.get("verdict", ""),
        "held_by": [rule.model_dump() for rule in candidate.holds] if candidate else [],
        "bundle_digest": entry.bundle_digest,
        "bundle_location": entry.bundle_location,
        "weighted_f1": entry.weighted_f1,
        "teacher": _teacher(entry, candidate),
        "dataset": entry.tags.get("dataset", ""),
        "dvc_digest": entry.tags.get("dvc_digest", ""),
        "commit": entry.tags.get("commit", ""),
        "dirty": entry.tags.get("dirty") == "True",
        "run_id": entry.tags.get("run_id", ""),
        "created": entry.created,
    }


def _teacher(entry: RegisteredVersion, candidate: Candidate | None) -> dict[str, Any] | None:
    if not teacher_of(entry):
        return None
    comparison = candidate.comparison if candidate else None
    return {
        "bundle_digest": entry.tags["teacher"],
        "version": entry.tags.get("teacher_version", ""),
        "comparison": comparison.model_dump() if comparison else None,
        "size_mb": float(entry.tags["size_mb"]) if "size_mb" in entry.tags else None,
    }


def teacher_of(entry: RegisteredVersion) -> str:
    """What a student learnt from, as ``version 1``; empty for other models."""
    if not (digest := entry.tags.get("teacher", "")):
        return ""
    return str(TeacherVersion(bundle_digest=digest, model_version=entry.tags.get("teacher_version", "")))


def _row(entry: RegisteredVersion, stands: Standing, columns: Sequence[Column]) -> tuple[str, ...]:
    return (
        entry.version,
        ", ".join(entry.aliases),
        stands.state,
        *([teacher_of(entry)] if _STUDENT in columns else []),
        f"{entry.weighted_f1:.3f}" if entry.weighted_f1 is not None else "",
        f"{entry.tags.get('dataset', '')} {entry.tags.get('dvc_digest', '')[:8]}".rstrip(),
        code_of(entry.tags.get("commit", ""), entry.tags.get("dirty") == "True"),
        entry.bundle_digest[:12],
        minute_text(entry.created),
    )


def code_of(commit: str, dirty: bool) -> str:
    """The abbreviated commit, and whether the code had uncommitted changes."""
    if not commit:
        return "unknown"
    return f"{commit[:10]} + uncommitted changes" if dirty else commit[:10]


def _log_row(event: PromotionEvent) -> tuple[str, ...]:
    return (
        minute_text(event.at),
        event.action,
        event.outcome,
        event.version,
        event.before[:12],
        event.after[:12],
        event.by,
        event.reason,
    )
