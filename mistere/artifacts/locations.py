"""Locations in records that the store itself holds, and the parts of a bundle's location.

Records name locations relative to the store, so that a copy of it refers to its own files.

A folder of ``mistere run`` holds the store and, beside it, the snapshots of data folders (``data-remote``). Both are recorded
relative to the store. Locations elsewhere stay as they are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Final

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.processes.command_line import command_line

AFFECTS_RESULTS = False
"""Where a record points changes no result: artifacts are verified by their digest."""

TRAINING_RECORD: Final = "training.json"
"""What marks the output folder of ``mistere train``: the record of what the training was made of."""

_LOCATION = re.compile(r"^(?P<store>.+)/artifacts/ModelBundle/(?P<digest>[0-9a-f]{64})$")


def recorded_location(store: ObjectStore, location: str) -> str:
    """A location as it is written to the store.

    Args:
        store: the store that will hold the record.
        location: a path or URI.

    Returns:
        A relative path if the location is in the store or, for a folder, beside it; else the location.
    """
    if isinstance(store, LocalStore):
        path = Path(location)
        if path.is_absolute() and path.is_relative_to(store.root.parent) and path != store.root.parent:
            return Path(os.path.relpath(path, store.root)).as_posix()
        return location
    return location.removeprefix(f"{store.uri}/")


def resolved_location(store: ObjectStore, recorded: str) -> str:
    """The path or URI of a location as :func:`recorded_location` wrote it, or as earlier releases did (always absolute).

    Args:
        store: the store that holds the record.
        recorded: the recorded location; empty stays empty.

    Raises:
        ArtifactError: it leads out of the folder with the store.
    """
    if not recorded or "://" in recorded or recorded.startswith("/"):
        return recorded
    parts = PurePosixPath(recorded).parts
    beside = parts[:1] == ("..",) and len(parts) > 1 and isinstance(store, LocalStore)
    if ".." in parts[1 if beside else 0 :] or "\0" in recorded:
        raise ArtifactError(
            f"the recorded location {recorded!r} leads out of {store.uri}", "register the model again by a run"
        )
    if isinstance(store, LocalStore):
        return str(store.root.parent.joinpath(*parts[1:]) if beside else store.root / recorded)
    return store.location(recorded)


def split_bundle_location(location: str, alternative: str = "") -> tuple[str, str]:
    """The store and the digest of a bundle's location; nothing is read but whether a folder is a training's.

    Args:
        location: ``<store>/artifacts/ModelBundle/<digest>``, a folder or ``s3://``.
        alternative: what else the user can do, after the form of a location.

    Raises:
        UsageError: it is no bundle's location; of the folder of a training, the message names the command that makes a bundle.
    """
    absolute = location if location.startswith("s3://") else str(Path(location).resolve())
    match = _LOCATION.match(absolute.rstrip("/"))
    if match is not None:
        return match["store"], match["digest"]
    if (Path(absolute) / TRAINING_RECORD).is_file():
        raise UsageError(
            f"{location} is the output of `mistere train` and not a bundle: make one with "
            f"`{command_line('mistere', 'register', location)}`."
        )
    raise UsageError(f"there is no bundle at {location}: name STORE/artifacts/ModelBundle/DIGEST{alternative}.")
