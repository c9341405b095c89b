"""The option ``--features NAME=FILE``: feature files that become modalities of the imported dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.corpora.importer import Option
from mistere.data.dataset import modality_name_problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mistere.corpora.features.sequences import FeatureFile
    from mistere.corpora.features.span import Span

_PICKLES: Final = frozenset({".pkl", ".p", ".pickle"})
_HDF5: Final = frozenset({".csd", ".h5", ".hdf5"})


def parse_features(typed: Sequence[str]) -> dict[str, Path]:
    """The feature files by modality.

    Raises:
        UsageError: an item is not ``NAME=FILE``, or its name is taken or is no name.
    """
    files: dict[str, Path] = {}
    for item in typed:
        name, separator, file = item.partition("=")
        if not separator or not file:
            raise UsageError(f"--features {item}: write it as NAME=FILE, for example --features face=facet.csd.")
        if problem := modality_name_problem(name):
            raise UsageError(f"--features {item}: {problem}.")
        if name in files:
            raise UsageError(f"--features {item}: {name} is given twice: each modality has one file.")
        files[name] = Path(file)
    return files


FeatureFiles = Annotated[
    Mapping[str, Path] | None,
    Option(
        "A file of features (.csd, .h5, .npz, .csv) that becomes the modality NAME: one vector for each utterance.",
        flag="--features",
        metavar="NAME=FILE",
        repeatable=True,
        parse=parse_features,
    ),
]
"""The option's type, for the parameter ``features`` of an importer."""


@dataclass(slots=True)
class _Tally:
    """Counts of one file for the notes."""

    width: int = 0
    vectors: int = 0
    empty_columns: int = 0
    missing: list[str] = field(default_factory=list)


class Features:
    """Reads the vectors of utterances from the files of ``--features``, and counts for the notes.

    Args:
        files: the files by modality.

    Raises:
        UsageError: a file is missing, a pickle, or of another kind.
        DataError: it is damaged.
    """

    def __init__(self, files: Mapping[str, Path] | None) -> None:
        self._paths = dict(files or {})
        self._files = {name: _opened(path) for name, path in self._paths.items()}
        self._tallies = {name: _Tally() for name in self._files}

    @property
    def kinds(self) -> dict[str, str]:
        """The modalities and their kind, as ``dataset.yaml`` names them."""
        return dict.fromkeys(self._files, "vector")

    def of(self, span: Span) -> dict[str, NDArray[np.float32]]:
        """The vectors ``[D]`` of an utterance by modality; without those that a file lacks.

        Raises:
            DataError: a file is damaged, or the vector has another width than the first.
        """
        vectors = {}
        for name, file in self._files.items():
            vector = self._vector(name, file, span)
            if vector is not None:
                vectors[name] = vector
        return vectors

    def _vector(self, name: str, file: FeatureFile, span: Span) -> NDArray[np.float32] | None:
        import numpy as np

        from mistere.corpora.features.sequences import mean_of

        tally, path = self._tallies[name], self._paths[name]
        mean = mean_of(file, path, span)
        if mean is None:
            tally.missing.append(span.names[0])
            return None
        tally.width = tally.width or len(mean)
        if len(mean) != tally.width:
            raise DataError(
                f"{path}: the vector of {span.names[0]} has {len(mean)} numbers, and the first one {tally.width}: all vectors of "
                "a modality have one width."
            )
        tally.vectors += 1
        with np.errstate(over="ignore"):
            vector = mean.astype(np.float32)
        finite = np.isfinite(vector)
        tally.empty_columns += int((~finite).sum())
        return np.where(finite, vector, np.float32(0))

    def finish(self) -> None:
        """Refuse a file of which nothing was read; called after the last utterance, before the dataset is complete.

        Raises:
            DataError: a file has no vector of any utterance.
        """
        for name, tally in self._tallies.items():
            if not tally.vectors and tally.missing:
                theirs = ", ".join(repr(one[:40]) for one in self._files[name].names()[:3]) or "none"
                raise DataError(
                    f"{self._paths[name]} has no features of any utterance: its names are {theirs}, and those of the utterances "
                    f"are such as {tally.missing[0]!r}."
                )

    def notes(self) -> list[str]:
        """Sentences about what was read and what is missing."""
        notes = []
        for name, tally in self._tallies.items():
            notes.append(f"{name}: {counted(tally.vectors, 'vector')} of {counted(tally.width, 'number')}.")
            if count := len(tally.missing):
                shown = ", ".join(tally.missing[:3]) + (f" and {count - 3} more" if count > 3 else "")
                notes.append(
                    f"{name}: {counted(count, 'utterance')} {plural(count, 'has', 'have')} no vector ({shown})."
                )
            if tally.empty_columns:
                notes.append(
                    f"{name}: {counted(tally.empty_columns, 'number')} {plural(tally.empty_columns, 'is', 'are')} not finite "
                    "in all frames of the utterance and set to 0."
                )
        return notes


def _opened(path: Path) -> FeatureFile:
    kind = path.suffix.lower()
    if kind in _PICKLES:
        raise UsageError(
            f"{path} is a pickle, which could run any program when it is opened: convert it first with `mistere data "
            f"convert-pickle {path} {path.with_suffix('.npz').name}`, and name the new file."
        )
    if kind not in _HDF5 | {".npz", ".csv", ".tsv"}:
        raise UsageError(f"{path} is none of the feature files that are read: .csd, .h5, .hdf5, .npz, .csv or .tsv.")
    if not path.is_file():
        raise UsageError(f"{path} is missing or no file: --features expects a file of features there.")
    if kind in _HDF5:
        from mistere.corpora.features.hdf5_file import Hdf5File

        return Hdf5File(path)
    if kind == ".npz":
        from mistere.corpora.features.npz_file import NpzFile

        return NpzFile(path)
    from mistere.corpora.features.csv_file import CsvFile

    return CsvFile(path)
