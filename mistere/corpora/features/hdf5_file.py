"""Computational sequences of the CMU-Multimodal SDK (``.csd``), and other HDF5 files of that layout.

A group ``NAME/data/SEGMENT`` holds ``features`` [T, D] and ``intervals`` [T, 2] in seconds. The SDK calls the segments of aligned
sequences ``VIDEO[0]``, ``VIDEO[1]``, …, and those of raw sequences ``VIDEO``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistere.common.errors import DataError, MissingPackageError
from mistere.corpora.features.npz_file import MAX_ARRAY_BYTES
from mistere.corpora.features.sequences import Frames, checked_matrix


class Hdf5File:
    """An HDF5 file with the layout of computational sequences; links and data outside of the file are not followed.

    Raises:
        MissingPackageError: h5py is not installed.
        DataError: it is no HDF5 file, or has another layout.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise MissingPackageError(
                f"reading {path} needs h5py, which is not installed: run `pip install -e .[hdf5]`."
            ) from error
        self._h5py, self._path = h5py, path
        self._last: tuple[str, Frames | None] = ("", None)
        try:
            self._file = h5py.File(path, "r")
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{path} is no readable HDF5 file ({_reason(error)}): fetch it again.") from error
        self._data = self._data_group()

    def frames(self, name: str) -> Frames | None:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        if name != self._last[0]:  # all utterances of a dialogue read the same one
            self._last = (name, self._read(name))
        return self._last[1]

    def names(self) -> list[str]:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        return list(self._data)

    def _data_group(self) -> Any:
        for parent in (self._file, *(self._member(self._file, name) for name in list(self._file)[:64])):
            if isinstance(parent, self._h5py.Group) and "data" in parent:
                data = self._member(parent, "data")
                if isinstance(data, self._h5py.Group):
                    return data
        raise DataError(
            f"{self._path} has no group NAME/data, as computational sequences have: convert it to npz with an array for each "
            "utterance."
        )

    def _member(self, group: Any, name: str) -> Any:
        """A member of a group that lies in this file."""
        if not isinstance(group.get(name, getlink=True), self._h5py.HardLink):
            raise DataError(f"{self._path}: {name[:80]!r} is a link to somewhere else: write the data into the file.")
        return group[name]

    def _read(self, name: str) -> Frames | None:
        if "/" in name or name not in self._data:
            return None
        try:
            segment = self._member(self._data, name)
            if not isinstance(segment, self._h5py.Group) or "features" not in segment:
                raise DataError(f"{self._path}: {name[:80]!r} has no features: every segment needs features.")
            features = checked_matrix(self._array(segment, "features"), f"{self._path}: {name[:80]!r}")
            if "intervals" not in segment:
                return Frames(features)
            intervals = np.asarray(self._array(segment, "intervals"), dtype=np.float64)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{self._path}: {name[:80]!r} is not readable ({_reason(error)}): fetch it again."
            ) from error
        if intervals.shape != (len(features), 2):
            raise DataError(
                f"{self._path}: {name[:80]!r} has {len(features)} frames and intervals of the shape {intervals.shape}: each "
                "frame needs a start and an end."
            )
        return Frames(features, intervals)

    def _array(self, segment: Any, name: str) -> NDArray[Any]:
        dataset = self._member(segment, name)
        if not isinstance(dataset, self._h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise DataError(f"{self._path}: {name} lies outside of the file: write the data into the file.")
        if math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize > MAX_ARRAY_BYTES:
            raise DataError(f"{self._path}: {name} takes more than {MAX_ARRAY_BYTES // 2**20} MiB: split the file.")
        if dataset.dtype.hasobject:
            raise DataError(f"{self._path}: {name} holds texts or references, not numbers: name a file of features.")
        return np.asarray(dataset[()])


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
