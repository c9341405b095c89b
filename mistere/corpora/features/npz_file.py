"""Features in an ``.npz`` file; nothing in it is unpickled, and an array's size is checked before it is decompressed.

Two layouts are read: ``names`` [N] with ``vectors`` [N, D] (and ``start`` and ``end`` [N] in seconds), whose rows of the same name
are frames; or an array for each utterance under its name, [D] or [T, D].
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistere.common.errors import DataError
from mistere.corpora.features.sequences import Frames, checked_matrix, grouped

MAX_ARRAY_BYTES = 2**31
_NAMES, _VECTORS, _TIMES = "names", "vectors", ("start", "end")


class NpzFile:
    """An ``.npz`` file of one of the two layouts.

    Raises:
        DataError: it is no npz file, or its arrays do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DataError(f"{path} is no npz file ({error}): write it with numpy.savez_compressed.") from error
        self._table = self._joined() if {_NAMES, _VECTORS} <= self._members.keys() else None

    def frames(self, name: str) -> Frames | None:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        if self._table is not None:
            return self._table.get(name)
        if name not in self._members:
            return None
        return Frames(checked_matrix(self._array(name), f"{self._path}: {name[:80]!r}"))

    def names(self) -> list[str]:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        return list(self._members if self._table is None else self._table)

    def _joined(self) -> dict[str, Frames]:
        names = self._array(_NAMES)
        if names.dtype.kind not in "US" or names.ndim != 1:
            raise DataError(f"{self._path}: 'names' holds {names.dtype} values, not a list of texts: write texts.")
        vectors = checked_matrix(self._array(_VECTORS), f"{self._path}: 'vectors'")
        intervals = None
        if all(name in self._members for name in _TIMES):
            times = [self._array(name) for name in _TIMES]
            if any(time.dtype.kind not in "fiu" or time.shape != names.shape for time in times):
                raise DataError(f"{self._path}: 'start' and 'end' are not one number for each name: write seconds.")
            intervals = np.stack(times, axis=1).astype(np.float64)
        if len(names) != len(vectors):
            raise DataError(f"{self._path} has {len(names)} names for {len(vectors)} vectors: write one for each.")
        texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
        return grouped(texts, vectors, intervals)

    def _array(self, name: str) -> NDArray[Any]:
        where = f"{self._path}: {name[:80]!r}"
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._members[name]) as file:
                version = np.lib.format.read_magic(file)
                header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if header is None:
                    raise DataError(f"{where} is written in an unknown form: write it with numpy.savez_compressed.")
                shape, _, dtype = header(file)
            if dtype.hasobject:
                raise DataError(f"{where} holds Python objects, which are never unpickled: write numbers or texts.")
            if math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES:
                raise DataError(f"{where} takes more than {MAX_ARRAY_BYTES // 2**20} MiB: split the file.")
            with zipfile.ZipFile(self._path) as archive, archive.open(self._members[name]) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except (
            ValueError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise DataError(f"{where} is not readable ({reason}): write the file again.") from error
