"""Precomputed features of an utterance: one vector of float32 numbers, with the same number of values everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mistere.data.kinds.kind import Degradation, Kind, UnreadableError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mistere.config.encoder import EncoderConfig

MAX_WIDTH = 16384


def with_jitter(vector: np.ndarray, decibels: float, draw: np.random.Generator) -> np.ndarray:
    """The vector ``[d]`` with white noise ``decibels`` below its own root mean square."""
    import numpy as np

    level = float(np.sqrt(np.mean(vector.astype(np.float64) ** 2)))
    noise = draw.standard_normal(len(vector)) * level * 10 ** (-decibels / 20)
    return (vector + noise).astype(np.float32)


def without_columns(vector: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """The vector ``[d]`` with each value set to 0 with probability ``share``."""
    import numpy as np

    return np.where(draw.random(len(vector)) < share, np.float32(0), vector)


class Vector(Kind):
    """A numpy array float32 ``[d]``, stored as a list of floats."""

    name = "vector"
    stored_as = "a list of floating-point numbers"
    limits = {"width": MAX_WIDTH}  # noqa: RUF012
    rows_per_window = 2048
    datatype = "FP32"
    degradations = {  # noqa: RUF012
        "jitter_10db": Degradation("noise 10 dB below the values", lambda cell, draw: with_jitter(cell, 10.0, draw)),
        "columns_10": Degradation("every tenth value set to 0", lambda cell, draw: without_columns(cell, 0.1, draw)),
        "columns_30": Degradation("three of ten values set to 0", lambda cell, draw: without_columns(cell, 0.3, draw)),
    }

    def leaf(self, modality: str) -> str:
        return f"{modality}.list.element"

    def arrow_type(self) -> pa.DataType:
        import pyarrow as pa

        return pa.list_(pa.float32())

    def fits(self, column_type: pa.DataType) -> bool:
        from pyarrow import types

        is_list = (
            types.is_list(column_type) or types.is_large_list(column_type) or types.is_fixed_size_list(column_type)
        )
        return is_list and bool(types.is_floating(column_type.value_type) or types.is_null(column_type.value_type))

    def read(self, column: pa.Array) -> list[Any]:
        import numpy as np

        flat = column.flatten()  # leaves null lists out
        values = np.array(flat.to_numpy(zero_copy_only=False), dtype=np.float32)
        size = getattr(column.type, "list_size", None)
        present = column.is_valid().to_pylist()
        lengths = [size] * len(column) if size is not None else column.value_lengths().to_pylist()
        cells: list[Any] = []
        start = 0
        for valid, length in zip(present, lengths, strict=True):
            stop = start + length if valid else start
            cell = values[start:stop]
            start = stop
            cells.append(None if np.isnan(cell).all() else cell)
        return cells

    def content(self, cell: np.ndarray, context: Sequence[str] = ()) -> Iterable[bytes]:
        return [cell.astype("<f4").tobytes()]

    def width(self, cell: np.ndarray) -> int:
        return len(cell)

    def made_up(self, turn: int, width: int | None = None) -> np.ndarray | None:
        import numpy as np

        return None if width is None else np.linspace(-1, 1, width, dtype=np.float32) * (turn + 1) / 2

    def problem(self, cell: Any, *, thorough: bool = False) -> str:
        import numpy as np

        if len(cell) > MAX_WIDTH:
            return f"The vector has {len(cell)} values; at most {MAX_WIDTH} are read."
        if not np.isfinite(cell).all():
            return "The vector holds NaN or infinity."
        return ""

    def encoder_input(self, cell: np.ndarray, settings: EncoderConfig, context: Sequence[str] = ()) -> np.ndarray:
        import numpy as np

        vector = np.asarray(cell, np.float32)
        if problem := self.problem(vector):
            raise UnreadableError(problem)
        return vector

    def tokens(self, cell: np.ndarray, settings: EncoderConfig) -> int:
        return 1

    def received(self, row: np.ndarray) -> np.ndarray | None:
        import numpy as np

        return None if np.isnan(row).all() else row

    def sent(self, cell: Any) -> np.ndarray:
        import numpy as np

        return np.asarray(cell, np.float32)
