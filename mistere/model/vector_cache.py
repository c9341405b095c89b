"""Cache of utterance vectors by content, shared by all runs with the same encoder.

A folder of segments for each identity (encoder, preprocessing, precision, code). A segment is a safetensors file of keys
``[N, 16]`` (digests of the content) and vectors ``[N, D]``, named by the digest of its bytes. Writers therefore never conflict,
and a damaged or truncated segment is detected, deleted and computed again. Opening reads the segments once; memory holds 24
bytes per vector and a few segments.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.object_store import MissingObjectError, ObjectStore, open_store
from mistere.common.digests.code import source_digest
from mistere.common.digests.files import digest_of
from mistere.common.errors import MistereError
from mistere.common.paths import cache_directory
from mistere.common.progress import Progress
from mistere.data.kinds.kind import DIGEST_BYTES

if TYPE_CHECKING:
    from mistere.model.dialogue_model import StreamEmbedder

_KEY_BYTES = DIGEST_BYTES
_CONNECTIONS = 8
_OPEN_SEGMENTS = 4
_SEGMENT = re.compile(r"[0-9a-f]{64}\.safetensors")


def vectors_identity(encoder_digest: str, embedder: StreamEmbedder) -> str:
    """Digest of everything that a vector depends on, except the content.

    Args:
        encoder_digest: identifies the fine-tuned encoder.
        embedder: computes the vectors.
    """
    return canonical_digest([encoder_digest, *embedder.arithmetic, source_digest(type(embedder).__module__)])


def window_key(window: bytes, key: bytes) -> bytes:
    """Key of a content that was embedded in one window, whose items' keys ``window`` joins."""
    return hashlib.blake2b(window + key, digest_size=_KEY_BYTES, person=b"window").digest()


class VectorCache:
    """The vectors of one identity.

    Args:
        store: holds the segments.
        identity: digest of everything that a vector depends on, except the content.
        progress: gets a note about damaged segments.
    """

    def __init__(self, store: ObjectStore, identity: str, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._prefix = f"vectors/{identity}"
        self._local = store.local_path(self._prefix) or cache_directory("vectors", identity)
        names = sorted(filter(_SEGMENT.fullmatch, (key.rsplit("/", 1)[1] for key in store.keys(self._prefix))))
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            segment_keys = list(pool.map(self._keys_of, names))
        self._segments = [name for name, keys in zip(names, segment_keys, strict=True) if keys is not None]
        present = [keys for keys in segment_keys if keys is not None]
        keys = np.concatenate(present) if present else np.empty(0, f"S{_KEY_BYTES}")
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._segment_of = np.repeat(np.arange(len(present), dtype=np.int32), [len(keys) for keys in present])[order]
        rows = [np.arange(len(keys), dtype=np.int32) for keys in present]
        self._row_of = (np.concatenate(rows) if rows else np.empty(0, np.int32))[order]
        self._vectors = lru_cache(_OPEN_SEGMENTS)(self._load)

    @classmethod
    def open(cls, setting: str, own: ObjectStore, identity: str, progress: Progress) -> VectorCache | None:
        """Open the cache that a setting names: ``store`` (the run's), a folder, ``s3://…``, or ``off`` for none."""
        if setting == "off":
            return None
        return cls(own if setting == "store" else open_store(setting), identity, progress)

    def find(self, keys: Sequence[bytes | None]) -> dict[int, np.ndarray]:
        """The cached vectors ``[D]`` by position in ``keys``; None is never cached."""
        positions = [index for index, key in enumerate(keys) if key is not None]
        if not positions or not len(self._keys):
            return {}
        requested = np.array([keys[index] for index in positions], dtype=f"S{_KEY_BYTES}")
        nearest = np.minimum(np.searchsorted(self._keys, requested), len(self._keys) - 1)
        vectors: dict[int, np.ndarray] = {}
        for index, nearest_index, equal in zip(positions, nearest, self._keys[nearest] == requested, strict=True):
            if equal:
                vectors[index] = self._vectors(int(self._segment_of[nearest_index]))[self._row_of[nearest_index]]
        return vectors

    def add(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Store vectors float32 ``[N, D]``; they are found after the cache is opened again."""
        from safetensors.numpy import save

        if not len(keys):
            return
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        data = save({"keys": packed, "vectors": np.ascontiguousarray(vectors, dtype=np.float32)})
        self._store.write(f"{self._prefix}/{hashlib.sha256(data).hexdigest()}.safetensors", data)

    def _keys_of(self, name: str) -> np.ndarray | None:
        """The keys of a segment, downloaded if this machine lacks it; None if it is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self._local / name
        remote = self._store.local_path(self._prefix) is None
        try:
            if remote and not (path.is_file() and digest_of(path) == path.stem):
                self._store.download(f"{self._prefix}/{name}", path)
            if digest_of(path) == path.stem:
                with safe_open(path, "np") as opened:
                    keys: np.ndarray = opened.get_tensor("keys")
                return keys.view(f"S{_KEY_BYTES}")[:, 0]
        except (SafetensorError, MissingObjectError, OSError):
            pass
        self._progress.note(
            f"{self._store.location(f'{self._prefix}/{name}')} is damaged: its vectors are computed again."
        )
        self._store.delete_object(f"{self._prefix}/{name}")
        path.unlink(missing_ok=True)
        return None

    def _load(self, segment: int) -> np.ndarray:
        from safetensors.numpy import load_file

        path = Path(self._local / self._segments[segment])
        try:
            return load_file(path)["vectors"]
        except OSError as error:
            raise MistereError(f"{path} was deleted while it was read ({error}): run again.") from error
