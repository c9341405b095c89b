"""``mistere models``: lists the registered versions, or the promotion log."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from mistere.common.errors import ArtifactError
from mistere.registry.champion import read_champion
from mistere.registry.model_registry import RegisteredVersion, registered_versions
from mistere.registry.promotion_log import PromotionEvent, PromotionLog, read_log
from pipelines.cli.registry_location import RegistryLocation


def models(location: RegistryLocation, model_name: str, *, log: bool, as_json: bool) -> None:
    """List the versions, newest first, or the promotion log, oldest first.

    Args:
        location: store and registry.
        model_name: name of the model.
        log: list the promotion log instead.
        as_json: print JSON.

    Raises:
        ArtifactError: the champion's pointer is damaged, or an event of the log; the other events are printed first.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)  # rows are not wrapped in a file or a pipe
    if log:
        _print_log(console, read_log(location.store), as_json=as_json)
        return
    versions = registered_versions(location.tracking_uri, model_name)
    champion = read_champion(location.store).digest
    if as_json:
        print(json.dumps([_plain(entry, champion) for entry in versions], indent=1))
        return
    if not versions:
        console.print(f"The registry holds no version of {model_name} yet: `mistere run` makes one.", markup=False)
        return
    console.print(_table(versions))
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
        console.print(_log_table(log.events))
    elif not log.damaged:
        console.print("Nothing has been promoted yet.")
    if log.damaged:
        count = len(log.damaged)
        raise ArtifactError(
            f"{count} {'event' if count == 1 else 'events'} of the promotion log cannot be read because they are damaged "
            f"({', '.join(log.damaged[:3])}{', …' if count > 3 else ''})",
            "restore them from a copy of the store, or move them away",
        )


def _plain(entry: RegisteredVersion, champion: str) -> dict[str, Any]:
    return {
        "model": entry.name,
        "version": entry.version,
        "aliases": list(entry.aliases),
        "champion": entry.bundle_digest == champion,
        "bundle_digest": entry.bundle_digest,
        "bundle_location": entry.bundle_location,
        "weighted_f1": entry.weighted_f1,
        "dataset": entry.tags.get("dataset", ""),
        "dvc_digest": entry.tags.get("dvc_digest", ""),
        "commit": entry.tags.get("commit", ""),
        "dirty": entry.tags.get("dirty") == "True",
        "run_id": entry.tags.get("run_id", ""),
        "created": entry.created,
    }


def _table(versions: list[RegisteredVersion]) -> Table:
    table = Table("version", "aliases", "weighted F1", "dataset", "code", "bundle", "made", box=None)
    for entry in versions:
        table.add_row(
            entry.version,
            ", ".join(entry.aliases),
            f"{entry.weighted_f1:.3f}" if entry.weighted_f1 is not None else "",
            f"{entry.tags.get('dataset', '')} {entry.tags.get('dvc_digest', '')[:8]}",
            code_of(entry.tags.get("commit", ""), entry.tags.get("dirty") == "True"),
            entry.bundle_digest[:12],
            _when(entry.created),
        )
    return table


def code_of(commit: str, dirty: bool) -> str:
    """The abbreviated commit, and whether the code had uncommitted changes."""
    if not commit:
        return "unknown"
    return f"{commit[:10]} + uncommitted changes" if dirty else commit[:10]


def _log_table(events: list[PromotionEvent]) -> Table:
    table = Table("when", "what", "outcome", "version", "from", "to", "by", "why", box=None)
    for event in events:
        table.add_row(
            _when(event.at),
            event.action,
            event.outcome,
            event.version,
            event.before[:12],
            event.after[:12],
            event.by,
            event.reason,
        )
    return table


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
