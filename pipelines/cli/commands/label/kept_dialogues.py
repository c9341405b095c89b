"""``mistere traffic delete`` and ``sweep``: delete kept dialogues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mistere.common.counting import counted
from mistere.labelling.removal import remove_dialogue
from mistere.serving.sample import places
from pipelines.cli.registry_location import store_location


def delete(output: Path, store: str | None, dialogue_id: str, exports: Sequence[Path]) -> None:
    """Delete a dialogue, and say how it is called in exports and datasets.

    Args:
        output: the output directory.
        store: a store's location; None for the default.
        dialogue_id: the client's.
        exports: folders of exports to delete it from.
    """
    name, objects = places.delete_dialogue(store_location(output, store), dialogue_id)
    if objects:
        print(f"deleted {counted(objects, 'object')} of the dialogue")
    else:
        print("nothing is kept of the dialogue")
    if name:
        for folder in exports:
            print(f"{folder}: {'deleted' if remove_dialogue(folder, name) else 'does not have it'}")
        print(f"in exports and datasets made of them it is {name}: delete it there, too")


def sweep(output: Path, store: str | None) -> None:
    """Delete what has been kept long enough."""
    deleted = places.sweep(store_location(output, store), time.time())
    print(f"deleted {counted(deleted, 'dialogue')} whose time was over")
