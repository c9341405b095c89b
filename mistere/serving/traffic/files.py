"""The files of traffic in the store: ``traffic/<bundle digest>/<hour>/<replica>.parquet``, a row for each count above 0."""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import read_parquet
from mistere.serving.traffic.figures import Counts, Figures

PREFIX: Final = "traffic"
HOUR_SECONDS: Final = 3600
_HOUR_FORMAT: Final = "%Y-%m-%dT%H"
_KEY: Final = re.compile(r"(?P<hour>\d{4}-\d{2}-\d{2}T\d{2})/[A-Za-z0-9._-]{1,128}\.parquet")
_READERS: Final = 8
_MOST_BYTES: Final = 4 << 20


def hour_name(hour: int) -> str:
    """An hour, counted since 1970, as files name it: ``2026-01-31T07``, in UTC."""
    return time.strftime(_HOUR_FORMAT, time.gmtime(hour * HOUR_SECONDS))


def hour_of(name: str) -> int:
    """The hour, counted since 1970, of its name.

    Raises:
        ValueError: it is no name of an hour.
    """
    from calendar import timegm

    return timegm(time.strptime(name, _HOUR_FORMAT)) // HOUR_SECONDS


def bundle_prefix(digest: str) -> str:
    """The folder of a bundle's files."""
    return f"{PREFIX}/{digest}"


def traffic_key(digest: str, hour: int, replica: str) -> str:
    """The key of the file of one hour and replica."""
    return f"{bundle_prefix(digest)}/{hour_name(hour)}/{replica}.parquet"


def counts_file(counts: Counts) -> bytes:
    """The counts as a parquet file with the columns figure, key, bin, low, high and count; zeros are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[object]] = {name: [] for name in ("figure", "key", "bin", "low", "high", "count")}
    for figure in counts.figures.by_name.values():
        table, edges = counts.table(figure.name), figure.edges
        for key, place in np.argwhere(table > 0).tolist():
            values = (figure.name, figure.keys[key], place, edges[place], edges[place + 1], int(table[key, place]))
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
    schema = pa.schema(
        [
            ("figure", pa.string()),
            ("key", pa.string()),
            ("bin", pa.int32()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("count", pa.int64()),
        ]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows, schema), buffer, compression="zstd")
    return buffer.getvalue()


def read_counts(path: Path, figures: Figures) -> Counts:
    """Read the counts of a file; rows of keys and bins that the figures lack are ignored.

    Raises:
        ParseError: it is not such a file.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ParseError(f"it has more than {_MOST_BYTES} bytes")
    table = read_parquet(path, ["figure", "key", "bin", "count"])
    counts = figures.empty()
    names = figures.by_name
    for figure, key, place, count in zip(*(column.to_pylist() for column in table.columns), strict=True):
        known = names.get(figure) if isinstance(figure, str) else None
        if known is None or key not in known.keys:
            continue
        if not (type(place) is int and 0 <= place < known.bins and type(count) is int and 0 <= count < 1 << 48):
            raise ParseError(f"a row of {figure} has no valid bin and count")
        counts.table(figure)[known.keys.index(key), place] += count
    return counts


def read_traffic(
    store: ObjectStore, digest: str, figures: Figures, since: int, until: int, note: Callable[[str], object]
) -> dict[int, Counts]:
    """The traffic of a bundle by hour, over all replicas; hours without traffic are left out.

    Args:
        store: the object store.
        digest: of the bundle.
        figures: of the bundle.
        since: first hour, counted since 1970.
        until: the hour after the last one.
        note: receives a sentence for each file that cannot be read, which is left out.
    """
    chosen = [(hour, key) for hour, key in traffic_keys(store, digest) if since <= hour < until]
    hours: dict[int, Counts] = {}
    with tempfile.TemporaryDirectory(prefix="mistere-traffic-") as folder, ThreadPoolExecutor(_READERS) as pool:

        def read(item: tuple[int, tuple[int, str]]) -> Counts | str:
            number, (_, key) = item
            path = Path(folder) / f"{number}.parquet"
            try:
                store.download(key, path)
                return read_counts(path, figures)
            except MissingObjectError:  # deleted meanwhile
                return figures.empty()
            except ParseError as error:
                return f"{store.location(key)} is left out: {error}"

        for (hour, _), counts in zip(chosen, pool.map(read, enumerate(chosen)), strict=True):
            if isinstance(counts, str):
                note(counts)
            elif counts.values.any():
                hours[hour] = hours[hour] + counts if hour in hours else counts
    return dict(sorted(hours.items()))


def traffic_keys(store: ObjectStore, digest: str) -> Iterator[tuple[int, str]]:
    """The hour and the key of each file of a bundle's traffic; what else lies there is ignored."""
    prefix = bundle_prefix(digest)
    for key in store.keys(prefix):
        match = _KEY.fullmatch(key.removeprefix(f"{prefix}/"))
        if match is not None:
            try:
                yield hour_of(match["hour"]), key
            except ValueError:  # the 31st of February
                continue
