"""``mistere traffic delete`` and ``sweep``: delete what was kept of the traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mistere.artifacts.object_store import ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.labelling.removal import remove_dialogue
from mistere.serving.request_log.files import HASHING_KEY, delete_requests
from mistere.serving.sample import places
from mistere.serving.traffic.retention import sweep_all
from pipelines.cli.output.console import print_text
from pipelines.cli.registry_location import store_location


def delete(output: Path, store: str | None, dialogue_id: str, exports: Sequence[Path]) -> None:
    """Delete a dialogue, and say how it is called in exports and datasets.

    Args:
        output: the output directory.
        store: a store's location; None for the default.
        dialogue_id: the client's.
        exports: folders of exports to delete it from.

    Raises:
        UsageError: nothing was ever kept or logged in the store, or a folder is no export.
        MistereError: the first failure of several, after everything else was deleted.
    """
    kept = store_location(output, store)
    is_logged = places.hashing_key(kept, place=HASHING_KEY) is not None
    if is_logged and not exports and places.hashing_key(kept) is None:  # a log without a sample
        print_text(_deleted_requests(kept, dialogue_id))
        return
    folder = places.known_folder(kept, dialogue_id)
    name, failures = places.shown_name(folder), list[MistereError]()
    try:
        objects = places.delete_folder(kept, folder)
        print_text(
            f"deleted {counted(objects, 'object')} of the dialogue" if objects else "nothing is kept of the dialogue"
        )
    except MistereError as error:
        failures.append(error)
    if is_logged:
        try:
            print_text(_deleted_requests(kept, dialogue_id))
        except MistereError as error:
            failures.append(error)
    for export in exports:
        try:
            print_text(f"{export}: {'deleted' if remove_dialogue(export, name) else 'does not have it'}")
        except MistereError as error:
            print_text(f"{export}: failed")
            failures.append(error)
    print_text(f"in exports and datasets made of them it is {name}: delete it there, too")
    if failures:
        raise failures[0]


def _deleted_requests(store: ObjectStore, dialogue_id: str) -> str:
    """Delete the dialogue's lines of the request log, and say how many they were."""
    lines = delete_requests(store, dialogue_id)
    return (
        f"deleted {counted(lines, 'line')} of the request log"
        if lines
        else "the request log has no line of the dialogue"
    )


def sweep(output: Path, store: str | None) -> None:
    """Delete what has been kept long enough."""
    for _, words in sweep_all(store_location(output, store), time.time()):
        print_text(f"deleted {words} whose time was over")
