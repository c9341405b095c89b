"""Read kept dialogues, their vectors and their recordings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from pydantic import ValidationError

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.serving.sample.dialogue import KeptDialogue, unpack_vectors
from mistere.serving.sample.places import DIALOGUES, day_of, path

_DIALOGUE: Final = re.compile(rf"{DIALOGUES}/(?P<folder>[0-9a-f]{{64}})/dialogue\.json")
_READERS: Final = 8


def read_dialogue(store: ObjectStore, folder: str) -> KeptDialogue | None:
    """A dialogue; None if there is none, or one of another form."""
    try:
        data, _ = store.read(path(folder, "dialogue.json"))
        return KeptDialogue.model_validate_json(data)
    except (MissingObjectError, ValidationError):
        return None


def read_dialogues(store: ObjectStore, now: float, note: Callable[[str], object]) -> Iterator[tuple[str, KeptDialogue]]:
    """The kept dialogues with their folders, in the order of the folders; expired ones are left out.

    Args:
        store: the object store.
        now: seconds since 1970.
        note: receives a sentence for each dialogue that cannot be read, which is left out.
    """
    folders = sorted(match["folder"] for key in store.keys(DIALOGUES) if (match := _DIALOGUE.fullmatch(key)))
    today = day_of(now)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda folder: read_dialogue(store, folder), folders)
        for folder, dialogue in zip(folders, found, strict=True):
            if dialogue is None:
                note(f"{store.location(path(folder, 'dialogue.json'))} cannot be read and is left out.")
            elif dialogue.keep_until >= today:
                yield folder, dialogue


def read_vectors(store: ObjectStore, folder: str) -> dict[str, np.ndarray]:
    """The vectors of a dialogue, modality → float32 ``[n, d]`` with NaN for what is missing; empty without any."""
    try:
        data, _ = store.read(path(folder, "embeddings.safetensors"))
        return unpack_vectors(data)
    except (MissingObjectError, ValueError):
        return {}


def read_recording(store: ObjectStore, folder: str, digest: str) -> bytes | None:
    """A recording, an encoded file; None if it is not there, or damaged."""
    try:
        data, _ = store.read(path(folder, f"audio/{digest}"))
    except MissingObjectError:
        return None
    return data if hashlib.sha256(data).hexdigest() == digest else None
