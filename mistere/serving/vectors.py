"""A dialogue as vectors, for a model that has no encoders: a row of each modality for each utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.names import shown
from mistere.serving import protocol


@dataclass(frozen=True)
class VectorDialogue:
    """A dialogue of n utterances.

    Attributes:
        vectors: modality → float32 ``[n, d]``; a row of NaN where the utterance lacks the modality.
        encoder_digest: the request parameter of that name; empty if the model does not know its encoders.
        context: indices of the utterances that are not predicted.
    """

    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    encoder_digest: str = ""
    context: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """The number of utterances."""
        return len(next(iter(self.vectors.values()), ()))

    @property
    def ordered(self) -> dict[str, np.ndarray]:
        """Embedding tensor → rows, in the order in which ``encoder_digest`` names the encoders."""
        return {protocol.embedding_name(name): self.vectors[name] for name in protocol.in_order(self.vectors)}

    @property
    def parameters(self) -> dict[str, str | bool]:
        """The request parameters that the vectors need."""
        parameters: dict[str, str | bool] = {}
        if self.encoder_digest:
            parameters[protocol.ENCODER_DIGEST] = self.encoder_digest
        if any(np.isnan(rows).any() for rows in self.vectors.values()):
            parameters[protocol.NAN_IS_MISSING] = True
        return parameters

    def document(self) -> dict[str, Any]:
        """The dialogue as JSON, as :func:`read_vectors` reads it."""
        rows: list[dict[str, Any]] = [
            {protocol.PREDICT: False} if index in self.context else {} for index in range(len(self))
        ]
        for name, matrix in self.ordered.items():
            for row, values in zip(rows, matrix, strict=True):
                if not np.isnan(values).any():
                    row[name] = [float(str(value)) for value in values]
        return {protocol.ENCODER_DIGEST: self.encoder_digest, "utterances": rows}


def holds_vectors(utterances: Sequence[Any]) -> bool:
    """Whether utterances that a caller wrote as mappings are vectors."""
    return any(
        isinstance(utterance, Mapping) and any(protocol.modality_of(str(name)) for name in utterance)
        for utterance in utterances
    )


def read_vectors(utterances: Sequence[Any], encoder_digest: str = "") -> VectorDialogue:
    """Convert utterances like ``{"text_embedding": [0.1, …]}``; one that lacks a modality has a row of NaN.

    Args:
        utterances: a mapping for each utterance: embedding tensor → numbers; with ``predict`` False it is context only.
        encoder_digest: the request parameter of that name.

    Raises:
        UsageError: an utterance has another form, or vectors of one modality differ in their width.
    """
    rows: dict[str, dict[int, np.ndarray]] = {}
    context: set[int] = set()
    for number, utterance in enumerate(utterances):
        if not isinstance(utterance, Mapping):
            raise UsageError(f'utterance {number}: write an object such as {{"text_embedding": [0.1, 0.2]}}.')
        for name, values in utterance.items():
            if name == protocol.PREDICT:
                if not isinstance(values, bool | None):
                    raise UsageError(f"utterance {number}: predict is true or false.")
                context |= {number} if values is False else set()
                continue
            modality = protocol.modality_of(str(name))
            if not modality:
                raise UsageError(
                    f"utterance {number}: {shown(name)} is no vector; the dialogue has vectors, so an utterance holds "
                    "MODALITY_embedding and predict only."
                )
            if values is not None:
                rows.setdefault(modality, {})[number] = _row(number, str(name), values)
    if not rows:
        raise UsageError("no utterance of the dialogue has a vector.")
    matrices = {name: _matrix(name, by_turn, len(utterances)) for name, by_turn in rows.items()}
    return VectorDialogue(matrices, encoder_digest, frozenset(context))


def _row(number: int, name: str, values: Any) -> np.ndarray:
    try:
        row = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"utterance {number}: {name} is a list of numbers.") from error
    if row.ndim != 1 or not row.size or not np.isfinite(row).all():
        raise UsageError(f"utterance {number}: {name} is a list of finite numbers.")
    return row


def _matrix(modality: str, rows: Mapping[int, np.ndarray], length: int) -> np.ndarray:
    width = len(next(iter(rows.values())))
    matrix = np.full((length, width), np.nan, dtype=np.float32)
    for number, row in rows.items():
        if len(row) != width:
            raise UsageError(
                f"utterance {number}: its {modality} vector has {len(row)} numbers, an earlier one {width}; all need the same."
            )
        matrix[number] = row
    return matrix
