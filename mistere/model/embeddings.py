"""Embedding sets as dialogues, memory-mapped so that memory use does not grow with their number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import read_parquet
from mistere.common.splits import Split
from mistere.common.suggestions import did_you_mean

UTTERANCES_FILE = "utterances.parquet"
UNLABELLED = -1
"""The class of a turn without a label, which is only context for its neighbours."""
_COMPUTE_AGAIN = "delete the EmbeddingSet artifacts from the store and run the pipeline again"


@dataclass(frozen=True)
class EmbeddedDialogue:
    """A dialogue as rows of the embedding matrices.

    Attributes:
        dialogue_id: its name.
        rows: rows of its turns in order: a range, or row numbers if they are not contiguous.
        labels: class of each turn ``[n]``; :data:`UNLABELLED` where it is only context.
    """

    dialogue_id: str
    rows: slice | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> np.ndarray:
        """Which turns have a label ``[n]``."""
        return self.labels != UNLABELLED


class EmbeddedDialogues:
    """Row-aligned embeddings of all modalities, by split and dialogue.

    Args:
        dialogues: the dialogues of each split.
        matrices: per modality float32 ``[rows, d]``, usually memory-mapped; a NaN row marks an absent modality.
        labels: the labels in order.
    """

    def __init__(
        self,
        dialogues: Mapping[str, Sequence[EmbeddedDialogue]],
        matrices: Mapping[str, np.ndarray],
        labels: Sequence[str],
    ) -> None:
        self.labels = list(labels)
        self._dialogues = {split: list(ones) for split, ones in dialogues.items()}
        self._matrices = dict(matrices)

    @classmethod
    def read_files(cls, utterances: Path, matrices: Mapping[str, Path], labels: Sequence[str]) -> EmbeddedDialogues:
        """Read ``utterances.parquet`` (split, dialogue_id, turn, label; rows in dialogue order) and a ``.npy`` for each modality.

        A turn whose label is null is context.

        Raises:
            ArtifactError: the files differ in their number of rows.
        """
        try:
            table = read_parquet(utterances, ["split", "dialogue_id", "label"])
        except ParseError as error:
            raise ArtifactError(f"{utterances} is not readable parquet: {error}", _COMPUTE_AGAIN) from error
        classes: dict[str | None, int] = {None: UNLABELLED, **{label: index for index, label in enumerate(labels)}}
        targets = np.array([classes[label] for label in table["label"].to_pylist()], dtype=np.int64)
        mapped = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in matrices.items()}
        for name, matrix in mapped.items():
            if len(matrix) != len(targets):
                raise ArtifactError(
                    f"the {name} embeddings have {counted(len(matrix), 'row')}, the utterances {len(targets)}",
                    _COMPUTE_AGAIN,
                )
        dialogues: dict[str, list[EmbeddedDialogue]] = {}
        keys = list(zip(table["split"].to_pylist(), table["dialogue_id"].to_pylist(), strict=True))
        start = 0
        for end in range(1, len(keys) + 1):
            if end == len(keys) or keys[end] != keys[start]:
                split, name = keys[start]
                rows = slice(start, end)
                dialogues.setdefault(split, []).append(EmbeddedDialogue(name, rows, targets[rows]))
                start = end
        return cls(dialogues, mapped, labels)

    @classmethod
    def open(cls, sets: Sequence[ArtifactHandle[EmbeddingSet]]) -> EmbeddedDialogues:
        """Open the embeddings of one dataset from the sets of its modalities; absent ones are left out.

        Raises:
            ArtifactError: the sets are not of the same utterances.
        """
        present = [opened for opened in sets if not opened.manifest.absent]
        if not present:
            raise ArtifactError(
                "every modality is absent, so there is nothing to learn from", "use a dataset with text or audio"
            )
        first = present[0].manifest
        for other in present[1:]:
            if other.manifest.files[UTTERANCES_FILE].sha256 != first.files[UTTERANCES_FILE].sha256:
                raise ArtifactError(
                    f"the {first.modality} and {other.manifest.modality} embeddings are not of the same utterances",
                    _COMPUTE_AGAIN,
                )
        matrices: dict[str, Path] = {
            opened.manifest.modality: opened.file(f"{opened.manifest.modality}.npy") for opened in present
        }
        return cls.read_files(present[0].file(UTTERANCES_FILE), matrices, first.labels)

    @property
    def dimensions(self) -> dict[str, int]:
        """Width per modality, in order."""
        return {name: int(matrix.shape[1]) for name, matrix in self._matrices.items()}

    def only(self, modalities: Sequence[str]) -> EmbeddedDialogues:
        """The same dialogues with the named modalities, in that order; all modalities if none is named, or for ``auto``.

        Raises:
            UsageError: there are no embeddings of a modality.
        """
        if not modalities or modalities == "auto":
            return self
        for name in modalities:
            if name not in self._matrices:
                raise UsageError(
                    f"mixture.modalities: there are no {name} embeddings{did_you_mean(name, self._matrices)}"
                )
        chosen = {name: self._matrices[name] for name in modalities}
        return EmbeddedDialogues(self._dialogues, chosen, self.labels)

    def without(self, split: Split) -> EmbeddedDialogues:
        """The same without a split, for code that must not read it."""
        kept = {name: ones for name, ones in self._dialogues.items() if name != split}
        return EmbeddedDialogues(kept, self._matrices, self.labels)

    def with_splits(self, dialogues: Mapping[str, Sequence[EmbeddedDialogue]]) -> EmbeddedDialogues:
        """The same embeddings with their dialogues split in another way."""
        return EmbeddedDialogues(dialogues, self._matrices, self.labels)

    def split(self, split: Split) -> list[EmbeddedDialogue]:
        """The split's dialogues."""
        return self._dialogues.get(split, [])

    def read(self, dialogue: EmbeddedDialogue) -> dict[str, np.ndarray]:
        """The dialogue's rows of every modality ``[n, d]``."""
        return {name: np.asarray(matrix[dialogue.rows]) for name, matrix in self._matrices.items()}

    def fingerprint(self) -> str:
        """Digest of labels, dialogues and embeddings; reads the matrices once, dialogue by dialogue."""
        digest = hashlib.blake2b(digest_size=20)
        digest.update(json.dumps([self.labels, self.dimensions]).encode())
        for split, dialogues in sorted(self._dialogues.items()):
            for dialogue in dialogues:
                digest.update(f"{split}\0{dialogue.dialogue_id}\0".encode())
                digest.update(np.ascontiguousarray(dialogue.labels).data)
                for rows in self.read(dialogue).values():
                    digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()
