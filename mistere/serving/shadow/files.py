"""The files of comparisons in the store: ``shadow/FRONT/SHADOW/HOUR/REPLICA.until-DAY.parquet``, with the digests of both bundles.

The day in the name says how long a file is kept, so that a sweep opens none.
"""

from __future__ import annotations

import io
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import read_parquet
from mistere.config.predictor import PredictorConfig
from mistere.serving.sample.places import DAY_SECONDS, day_of
from mistere.serving.shadow.figures import (
    MOST_DIALOGUES,
    MOST_ID,
    OUTCOMES,
    SIDES,
    SUMS,
    DifferingDialogue,
    ShadowCounts,
)
from mistere.serving.traffic.deletion import delete_each
from mistere.serving.traffic.files import HOUR_SECONDS, hour_name, hour_of

PREFIX: Final = "shadow"
_KEY: Final = re.compile(r"(?P<hour>\d{4}-\d{2}-\d{2}T\d{2})/[A-Za-z0-9._-]{1,128}\.parquet")
_EXPIRY: Final = re.compile(rf"{PREFIX}/.+\.until-(?P<day>\d{{4}}-\d{{2}}-\d{{2}})\.parquet")
_MOST_BYTES: Final = 4 << 20
_MOST_COUNT: Final = 1 << 48
_ALL: Final = ""
"""Key of the sums over all labels."""
_COLUMNS: Final = ("figure", "key", "other", "bin", "count", "value")


def pair_prefix(front: str, shadow: str) -> str:
    """The folder of the comparisons of two bundles."""
    return f"{PREFIX}/{front}/{shadow}"


def shadow_key(front: str, shadow: str, hour: int, replica: str, days: int) -> str:
    """The key of the file of one hour and replica.

    Args:
        front: digest of the bundle in front.
        shadow: digest of the shadow's bundle.
        hour: counted since 1970.
        replica: the process that writes it.
        days: how long it is kept after the hour, days.
    """
    until = day_of((hour + 1) * HOUR_SECONDS + days * DAY_SECONDS)
    return f"{pair_prefix(front, shadow)}/{hour_name(hour)}/{replica}.until-{until}.parquet"


def sweep_comparisons(store: ObjectStore, now: float) -> int:
    """Delete the files whose last day has passed; returns how many they were.

    Those of earlier versions, whose names have no day, are kept as long as the default of the option says.

    Args:
        store: the object store.
        now: seconds since 1970.

    Raises:
        MistereError: one of them cannot be deleted; the others are.
    """
    today, days = day_of(now), PredictorConfig().shadow_days

    def until(key: str) -> str:
        if match := _EXPIRY.fullmatch(key):
            return match["day"]
        hour = _hour("/".join(key.rsplit("/", 2)[1:]))
        return today if hour < 0 else day_of((hour + 1) * HOUR_SECONDS + days * DAY_SECONDS)

    return delete_each(store.delete_object, [key for key in store.keys(PREFIX) if until(key) < today])


def _axes(counts: ShadowCounts) -> dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]]:
    """By array: the names of its rows, and of its columns, None where they are numbered bins."""
    return {
        "pairs": (counts.labels, counts.shadow_labels),
        "sums": ((*counts.labels, _ALL), SUMS),
        "confidence": (SIDES, None),
        "distance": ((_ALL,), None),
        "seconds": (SIDES, None),
    }


def shadow_file(counts: ShadowCounts) -> bytes:
    """The counts as a parquet file; zeros are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[str, str, str, int, int, float | None]] = []
    for name, (keys, others) in _axes(counts).items():
        table = counts.arrays[name].reshape(len(keys), -1)
        for key, place in np.argwhere(table > 0).tolist():
            other = others[place] if others else ""
            rows.append((name, keys[key], other, place, int(table[key, place]), None))
    rows += [("outcome", key, "", 0, count, None) for key, count in counts.outcomes.items() if count]
    rows += [("dialogue", one.identity, "", one.turns, one.differing, one.distance) for one in counts.dialogues]
    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int64(), pa.float64())
    columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(_COLUMNS)), buffer, compression="zstd")
    return buffer.getvalue()


def read_counts(path: Path, labels: tuple[str, ...], shadow_labels: tuple[str, ...]) -> ShadowCounts:
    """Read a file; rows of labels, bins and outcomes that are unknown are ignored.

    Args:
        path: the file.
        labels: of the predictor in front.
        shadow_labels: of the shadow.

    Raises:
        ParseError: it is not such a file.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ParseError(f"it has more than {_MOST_BYTES} bytes")
    table = read_parquet(path, list(_COLUMNS))
    counts = ShadowCounts(labels, shadow_labels)
    axes = _axes(counts)
    dialogues: list[DifferingDialogue] = []
    for figure, key, other, place, count, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if not (isinstance(figure, str) and isinstance(key, str) and type(place) is int and type(count) is int):
            raise ParseError("a row has no figure, key, bin and count")
        if not (0 <= count < _MOST_COUNT and 0 <= place < _MOST_COUNT):
            raise ParseError(f"a row of {figure[:20]} has no valid bin and count")
        if figure == "outcome":
            if key in OUTCOMES:
                counts.outcomes[key] += count
        elif figure == "dialogue":
            dialogues.append(_dialogue(key, place, count, value))
        elif figure in axes:
            _add_row(counts.arrays[figure], axes[figure], key, other, place, count)
    if len(dialogues) > MOST_DIALOGUES:
        raise ParseError(f"it lists more than {MOST_DIALOGUES} dialogues")
    for dialogue in dialogues:
        counts.keep(dialogue)
    return counts


def _add_row(
    array: np.ndarray,
    axes: tuple[tuple[str, ...], tuple[str, ...] | None],
    key: str,
    other: Any,
    place: int,
    count: int,
) -> None:
    keys, others = axes
    table = array.reshape(len(keys), -1)
    if others is not None:
        place = others.index(other) if other in others else -1
    if key in keys and 0 <= place < table.shape[1]:
        table[keys.index(key), place] += count


def _dialogue(key: str, turns: int, differing: int, value: Any) -> DifferingDialogue:
    valid = isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1
    if not (valid and len(key) <= MOST_ID and 0 < differing <= turns):
        raise ParseError("a row of dialogue is none")
    return DifferingDialogue(key, turns, differing, value)


def read_comparisons(
    store: ObjectStore,
    digests: tuple[str, str],
    labels: tuple[tuple[str, ...], tuple[str, ...]],
    window: tuple[int, int],
    note: Callable[[str], object],
) -> dict[int, ShadowCounts]:
    """The comparisons of two bundles by hour, over all replicas; hours without any are left out.

    Args:
        store: the object store.
        digests: of the bundle in front, and of the shadow's.
        labels: of the two.
        window: first hour, counted since 1970, and the hour after the last one.
        note: receives a sentence for each file that cannot be read, which is left out.
    """
    prefix = pair_prefix(*digests)
    hours: dict[int, ShadowCounts] = {}
    with tempfile.TemporaryDirectory(prefix="mistere-shadow-") as folder:
        path = Path(folder) / "counts.parquet"
        for key in sorted(store.keys(prefix)):
            hour = _hour(key.removeprefix(f"{prefix}/"))
            if not window[0] <= hour < window[1]:
                continue
            try:
                store.download(key, path)
                counts = read_counts(path, *labels)
            except MissingObjectError:  # deleted meanwhile
                continue
            except ParseError as error:
                note(f"{store.location(key)} is left out: {error}")
                continue
            hours.setdefault(hour, ShadowCounts(*labels)).add(counts)
    return dict(sorted(hours.items()))


def _hour(name: str) -> int:
    """The hour of a file's name below its pair's folder; -1 for another file."""
    match = _KEY.fullmatch(name)
    try:
        return hour_of(match["hour"]) if match else -1
    except ValueError:  # the 31st of February
        return -1
