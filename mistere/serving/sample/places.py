"""Where kept dialogues lie in the store, and how they are found and deleted.

Each dialogue has a folder of its own, ``sample/dialogues/HASH/``, whose name is an HMAC of the client's dialogue id with a random key of
the store (``sample/hashing-key``): ids are hostile as names of files, and a plain hash of a telephone number is reversed by trying all of
them. In the folder are ``dialogue.json``, ``audio/SHA256`` for each recording, ``embeddings.safetensors``, and ``until/DAY``, an empty file
that says by its name how long the dialogue is kept, so that a sweep opens no file. It is written before everything else: a folder without
it is what is left of a dialogue that was deleted while it was written.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import Final

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, UsageError
from mistere.serving.traffic.deletion import delete_each

PREFIX: Final = "sample"
DIALOGUES: Final = f"{PREFIX}/dialogues"
HASHING_KEY: Final = f"{PREFIX}/hashing-key"
MAX_ID: Final = 256
"""Characters of a dialogue id."""
DAY_SECONDS: Final = 86_400
_KEY_BYTES: Final = 32
_SHOWN_DIGITS: Final = 20
_MARKER: Final = re.compile(rf"{DIALOGUES}/(?P<folder>[0-9a-f]{{64}})/until/(?P<day>\d{{4}}-\d{{2}}-\d{{2}})")
_FOLDER: Final = re.compile(rf"{DIALOGUES}/(?P<folder>[0-9a-f]{{64}})/.+", re.DOTALL)
_MOST_ATTEMPTS: Final = 3


def day_of(seconds: float) -> str:
    """The day of a time since 1970, in UTC: ``2026-01-31``."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def folder_of(key: bytes, dialogue_id: str) -> str:
    """The name of a dialogue's folder.

    Args:
        key: of the store; see :func:`hashing_key`.
        dialogue_id: the client's.
    """
    return hmac.new(key, dialogue_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def shown_name(folder: str) -> str:
    """The name of a dialogue outside of the store, in exports and datasets."""
    return f"live-{folder[:_SHOWN_DIGITS]}"


def path(folder: str, name: str) -> str:
    """The key of a file in a dialogue's folder."""
    return f"{DIALOGUES}/{folder}/{name}"


def hashing_key(store: ObjectStore, *, create: bool = False, place: str = HASHING_KEY) -> bytes | None:
    """The key that makes folder names of dialogue ids; None if the store has none yet.

    Args:
        store: the object store.
        create: make one if there is none. Of several processes that do so at once, all get the same.
        place: where it is.

    Raises:
        ArtifactError: it is damaged, so dialogues are not found by their ids.
    """
    try:
        key, _ = store.read(place)
    except MissingObjectError:
        if not create:
            return None
        key = secrets.token_bytes(_KEY_BYTES)
        try:
            store.write(place, key, expected=ABSENT)
        except ConflictError:
            key, _ = store.read(place)
    if len(key) != _KEY_BYTES:
        raise ArtifactError(
            f"{store.location(place)} has {len(key)} bytes instead of {_KEY_BYTES}",
            f"restore it from a backup, or delete {store.location(place.partition('/')[0])}",
        )
    return key


def known_folder(store: ObjectStore, dialogue_id: str) -> str:
    """The folder in which a dialogue is, or was, kept.

    Args:
        store: the object store.
        dialogue_id: the client's.

    Raises:
        UsageError: nothing was ever kept in this store.
        ArtifactError: the store's key is damaged.
    """
    key = hashing_key(store)
    if key is None:
        raise UsageError(
            f"no dialogue was ever kept in {store.uri}: name the store of the sample with --store, as the predictor "
            "has it."
        )
    return folder_of(key, dialogue_id)


def delete_folder(store: ObjectStore, folder: str) -> int:
    """Delete all that was kept of a dialogue; returns the number of deleted objects.

    Args:
        store: the object store.
        folder: of the dialogue.

    Raises:
        ArtifactError: objects remain because a predictor still writes them.
    """
    deleted = 0
    for _ in range(_MOST_ATTEMPTS):
        found = sum(1 for _ in store.keys(f"{DIALOGUES}/{folder}"))
        store.delete(f"{DIALOGUES}/{folder}")
        if not found:
            return deleted
        deleted += found
    if next(iter(store.keys(f"{DIALOGUES}/{folder}")), None) is not None:
        raise ArtifactError(
            f"{store.location(f'{DIALOGUES}/{folder}')} still holds objects",
            "delete again when the conversation has ended",
        )
    return deleted


def sweep(store: ObjectStore, now: float) -> int:
    """Delete the dialogues whose last day has passed, and what is left of others; returns how many they were.

    Args:
        store: the object store.
        now: seconds since 1970.

    Raises:
        MistereError: one of them cannot be deleted; the others are.
    """
    today, until, folders = day_of(now), dict[str, str](), set[str]()
    for key in store.keys(DIALOGUES):
        if match := _FOLDER.fullmatch(key):
            folders.add(match["folder"])
        if match := _MARKER.fullmatch(key):
            until[match["folder"]] = min(match["day"], until.get(match["folder"], match["day"]))
    expired = sorted(folder for folder in folders if until.get(folder, "") < today)

    def is_over(place: str, folder: str) -> bool:
        """Whether it has no day: a listing may have missed it while a predictor wrote the dialogue again."""
        return folder in until or not any(map(_MARKER.fullmatch, store.keys(place)))

    found = ((f"{DIALOGUES}/{folder}", folder) for folder in expired)
    return delete_each(store.delete, (place for place, folder in found if is_over(place, folder)))
