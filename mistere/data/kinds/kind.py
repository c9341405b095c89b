"""The interface of a kind of modality: how its values are stored, checked, read by an encoder, and sent to the endpoint.

A value of a modality is a cell. A dataset has one cell for each utterance and modality; None is an absent one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mistere.common.errors import MistereError
from mistere.common.modalities import HasModalities, cell_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mistere.config.encoder import EncoderConfig, ExtractionSettings

TOKENS_PER_SECOND = 25
"""Tokens of text, or positions of another transformer, that cost about as much to encode as one second of audio."""
DIGEST_BYTES = 16


class UnreadableError(MistereError):
    """A cell that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Degradation:
    """A way to make a cell worse, for the evaluation of robustness.

    Attributes:
        words: describes it in reports.
        change: makes a degraded cell from a cell and a generator of random numbers; a cell that cannot be read stays as it is.
    """

    words: str
    change: Callable[[Any, np.random.Generator], Any]


class Kind(ABC):
    """One kind of modality."""

    name: ClassVar[str]
    stored_as: ClassVar[str]
    """The type of the column in words, for errors: the column must be …"""
    limits: ClassVar[Mapping[str, int]] = {}
    """The limits of a cell by name, as the endpoint's metadata states them."""
    rows_per_window: ClassVar[int] = 256
    """Utterances that the extraction prepares at once: enough to find some of similar length, few enough for the memory."""
    batch_positions: ClassVar[int] = 128
    """Positions of a batch from which matrix products on one core are efficient (a few per cent below the best)."""
    size_setting: ClassVar[str] = "batch_size"
    """The setting of the encoder to lower if one utterance does not fit into the device's memory."""
    timed: ClassVar[bool] = False
    """Whether a family's ``length`` is time, so that an excerpt of some seconds can stand for an utterance in training."""
    degradations: ClassVar[Mapping[str, Degradation]] = {}
    """By name, which is unique among all kinds."""
    datatype: ClassVar[Literal["BYTES", "FP32"]] = "BYTES"
    """Of the endpoint's tensor: ``BYTES [n]``, ``BYTES [n, m]`` with :attr:`several`, or ``FP32 [n, d]``."""
    several: ClassVar[bool] = False
    """Whether a cell consists of several BYTES elements; a shorter row is filled up with empty elements."""
    plain_text: ClassVar[bool] = False
    """Whether the elements are strings in JSON, rather than base64."""

    def column(self, modality: str) -> str:
        """The parquet column of a modality of this kind."""
        return modality

    @abstractmethod
    def leaf(self, modality: str) -> str:
        """The path of the values in the parquet schema, whose statistics tell whether a row group has any."""

    @abstractmethod
    def arrow_type(self) -> pa.DataType:
        """The column's type as it is written."""

    @abstractmethod
    def fits(self, column_type: pa.DataType) -> bool:
        """Whether a column of this type can be read."""

    def can_read(self, column_type: pa.DataType) -> bool:
        """As :meth:`fits`, also of a dictionary or of nulls alone, which :meth:`cells` reads."""
        from pyarrow import types

        plain = column_type.value_type if types.is_dictionary(column_type) else column_type
        return bool(types.is_null(plain)) or self.fits(plain)

    @abstractmethod
    def read(self, column: pa.Array) -> list[Any]:
        """The cells of a column; None where there is nothing."""

    def cells(self, column: pa.Array) -> list[Any]:
        """As :meth:`read`, also of a column of a dictionary or of nulls alone."""
        from pyarrow import types

        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return [None] * len(column) if types.is_null(column.type) else self.read(column)

    def write(self, cell: Any) -> Any:
        """A cell, which is not None, as pyarrow takes it."""
        return cell

    @abstractmethod
    def content(self, cell: Any, context: Sequence[str] = ()) -> Iterable[bytes]:
        """What identifies the input of an encoder: of the cell and, if the kind reads it, of the transcripts of the turns before."""

    def digest(self, cell: Any, context: Sequence[str] = ()) -> bytes:
        """Digest of :meth:`content`: the key of the cell's vector in a cache."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=self.name.encode()[:16])
        for part in self.content(cell, context):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()

    def size(self, cell: Any) -> int:
        """Bytes of a cell in a shard, about."""
        return sum(map(len, self.content(cell)))

    def width(self, cell: Any) -> int | None:
        """The number of values of a cell of which a dataset has the same number everywhere; None for a kind without such a rule."""
        return None

    def made_up(self, turn: int, width: int | None = None) -> Any | None:
        """A cell that nobody said or showed, for an example dialogue; None if the kind cannot make one.

        Args:
            turn: place in the dialogue, counted from 0.
            width: as :meth:`width`, if it is known.
        """
        return None

    @abstractmethod
    def problem(self, cell: Any, *, thorough: bool = False) -> str:
        """Why a cell cannot be used, as one sentence; empty if it can.

        Args:
            cell: the cell, from a dataset or a request.
            thorough: decode it, too; otherwise only what is cheap is checked (sizes, headers).
        """

    @abstractmethod
    def encoder_input(self, cell: Any, settings: EncoderConfig, context: Sequence[str] = ()) -> Any | None:
        """What :meth:`~mistere.model.encoders.families.family.Family.prepare` gets; None if the cell has nothing to encode.

        Args:
            cell: the cell.
            settings: the encoder's section.
            context: transcripts of the turns before the utterance, oldest first.

        Raises:
            UnreadableError: the cell does not decode.
        """

    def input_of(
        self, utterance: HasModalities, modality: str, settings: EncoderConfig, context: Sequence[str] = ()
    ) -> Any | None:
        """As :meth:`encoder_input`, of the cell that an utterance has of a modality; None if it has none."""
        cell = cell_of(utterance, modality)
        return None if cell is None else self.encoder_input(cell, settings, context)

    def batch_budget(self, extraction: ExtractionSettings, rate: float) -> float:
        """The padded size of a batch at most, in units of a family's ``length``.

        Args:
            extraction: the settings.
            rate: units of ``length`` in a second of audio.
        """
        return float(extraction.batch_tokens)

    def seconds(self, length: float) -> float:
        """What encoding costs, in seconds of audio.

        Args:
            length: the sum of the family's ``length``, divided by its ``rate``.
        """
        return length / TOKENS_PER_SECOND

    @abstractmethod
    def tokens(self, cell: Any, settings: EncoderConfig) -> int:
        """What encoding a cell costs at most, in tokens of text, before it is decoded."""

    @abstractmethod
    def received(self, row: Any) -> Any | None:
        """The cell of one row of a tensor: a list of BYTES elements, or float32 ``[d]``; None if the row is empty or NaN."""

    @abstractmethod
    def sent(self, cell: Any) -> Any:
        """The inverse of :meth:`received`."""
