"""Reading a dataset directory, as :func:`mistere.read_dataset` offers it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.common.suggestions import did_you_mean
from mistere.data.dataset import DatasetInfo, Utterance, load_info, read_utterances, shards_of


@dataclass(frozen=True)
class LocalDataset:
    """A directory in the dataset form.

    Attributes:
        directory: holds ``dataset.yaml`` and the parquet shards.
        info: the content of ``dataset.yaml``: labels in order, language, licence.
    """

    directory: Path
    info: DatasetInfo

    def utterances(self, split: Split, *, modalities: Collection[str] | None = None) -> Iterator[Utterance]:
        """Stream the utterances of a split, in file order; memory does not grow with the dataset.

        Args:
            split: ``train``, ``dev`` or ``test``.
            modalities: names of the modalities to read, such as ``("text",)``; None reads all. Audio and images are most of the data.

        Raises:
            UsageError: there is no such split, or no such modality.
            DataError: the split has no shard, or one is damaged.
        """
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}; valid names: {', '.join(SPLITS)}.")
        kinds = self.info.kinds
        if unknown := set(modalities or ()) - set(kinds):
            name = min(unknown)
            raise UsageError(f"{self.directory} has no modality {name!r}{did_you_mean(name, kinds)}")
        shards = shards_of(self.directory.iterdir(), split)
        if not shards:
            raise DataError(
                f"{self.directory} has no {split} split: no file {split}-*.parquet; read another split, or import the "
                "dataset again."
            )
        chosen = kinds if modalities is None else {name: kinds[name] for name in modalities}
        return read_utterances(shards, modalities=chosen)


def read_dataset(directory: str | Path) -> LocalDataset:
    """Open a dataset directory; its shards are read by :meth:`LocalDataset.utterances`.

    Raises:
        UsageError: ``dataset.yaml`` is missing.
        DataError: it is invalid.
    """
    path = Path(directory)
    return LocalDataset(path, load_info(path / "dataset.yaml"))
