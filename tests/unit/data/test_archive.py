"""An archive to score: dialogues in one piece, and what is wrong with a row is one sentence before anything is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import DataError, MistereError, UsageError
from mistere.scoring.archive import Archive, open_archive
from mistere.scoring.archive_check import check_files, check_roles, check_rows
from mistere.scoring.call_columns import MAX_VALUES, ArchiveColumns

NONE = ArchiveColumns()


def archive(folder: Path, shards: dict[str, Any], info: str = "name: calls\n") -> Archive:
    """An archive of shards, each a table or pairs of dialogue and turn."""
    folder.mkdir()
    (folder / "dataset.yaml").write_text(info)
    for name, rows in shards.items():
        if not isinstance(rows, pa.Table):
            rows = pa.table(
                {"dialogue_id": [d for d, _ in rows], "turn": [t for _, t in rows], "text": ["hi"] * len(rows)}
            )
        pq.write_table(rows, folder / f"{name}.parquet")
    return open_archive(str(folder))


def table(**columns: Any) -> pa.Table:
    """Dialogues ``a``, ``b``, ... of one turn each with further columns."""
    count = len(next(iter(columns.values())))
    return pa.table({"dialogue_id": [chr(97 + n) for n in range(count)], "turn": [0] * count, **columns})


def dialogues(one: Archive) -> dict[str, list[tuple[str, int]]]:
    """The turns that belong to each shard."""
    turns = {shard: [turn.utterance for turn in one.turns(shard, NONE, ["text"])] for shard in one.shards}
    return {shard.removesuffix(".parquet"): [(u.dialogue_id, u.turn) for u in found] for shard, found in turns.items()}


def refused(kind: type[MistereError], message: str, one: Archive, columns: ArchiveColumns = NONE) -> None:
    with pytest.raises(kind, match=message) as caught:
        check_rows(one, one.shards, columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names", [("2026-03-30", "2026-03-31", "2026-04-01"), ("a", "b-2", "c"), ("x-1", "x-2", "x-3")]
)
def test_a_dialogue_goes_on_in_files_of_any_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    first, second, third = names
    one = archive(tmp_path / "d", {first: [("x", 0), ("y", 0)], second: [("y", 2)], third: [("y", 3), ("z", 0)]})
    check_rows(one, one.shards, NONE)
    assert dialogues(one) == {first: [("x", 0), ("y", 0), ("y", 2), ("y", 3)], second: [], third: [("z", 0)]}


def test_a_dialogue_does_not_go_on_in_another_split(tmp_path: Path) -> None:
    one = archive(tmp_path / "d", {"dev-0": [("x", 0), ("x", 1)], "test-0": [("x", 0)]})
    check_rows(one, one.shards, NONE)
    assert dialogues(one) == {"dev-0": [("x", 0), ("x", 1)], "test-0": [("x", 0)]}


def test_two_dialogues_of_one_id_are_not_merged(tmp_path: Path) -> None:
    next_to = archive(tmp_path / "next", {"a": [("1", 0), ("2", 0), ("2", 1)], "b": [("2", 0), ("2", 1), ("3", 0)]})
    message = r"b.parquet: turn 0 of dialogue '2' follows turn 1 in a.parquet: sort .* and give every dialogue an id of its own"
    refused(DataError, message, next_to)
    with pytest.raises(DataError, match=message):
        dialogues(next_to)
    apart = archive(tmp_path / "apart", {"a": [("2", 0), ("2", 1)], "b": [("1", 0)], "c": [("3", 0), ("2", 2)]})
    refused(DataError, r"c.parquet: the turns of dialogue '2' are apart, others are in a.parquet: write", apart)
    again = archive(tmp_path / "again", {"a": [("1", 0), ("2", 0)], "b": [("2", 1), ("3", 0), ("2", 2)]})
    with pytest.raises(DataError, match=r"b.parquet: the turns of dialogue '2' are apart: write"):
        dialogues(again)
    refused(DataError, r"b.parquet: the turns of dialogue '2' are apart, others are in a.parquet", again)
    late = archive(tmp_path / "late", {"a": [("1", 0), ("2", 0)], "b": [("3", 0), ("2", 1)]})
    with pytest.raises(DataError, match=r"b.parquet: the turns of dialogue '2' are apart: write"):
        dialogues(late)


@pytest.mark.parametrize("turn", [2**31, -1, None])
def test_a_turn_is_a_number_that_the_results_can_hold(tmp_path: Path, turn: int | None) -> None:
    one = archive(tmp_path / "d", {"a": [("x", 0), ("x", turn)]})
    refused(DataError, rf"a.parquet: a row has dialogue_id 'x' and turn {turn}: write .* from 0 to 2147483647", one)


def test_times_beyond_the_calendar_are_one_sentence(tmp_path: Path) -> None:
    columns = ArchiveColumns(time="at")
    wrong = [pa.array([2**40, 2**62], pa.timestamp(unit)) for unit in ("ms", "us")]
    wrong += [pa.array([0, 2**31 - 1], pa.date32())]
    wrong += [pa.array(["2026-03-31", "tomorrow"]), pa.array(["2026-03-31", "0001-01-01T00:00:00+14:00"])]
    for number, times in enumerate(wrong):
        one = archive(tmp_path / str(number), {"a": table(at=times)})
        refused(
            DataError, r"a.parquet: .* the column 'at' is (no time|not between the years 1 and 9999): ", one, columns
        )
    zoned = archive(
        tmp_path / "zoned", {"a": table(at=pa.array([1_000_000_000, None], pa.timestamp("ms", "Mars/Olympus")))}
    )
    found = [turn.time for turn in zoned.turns("a.parquet", columns, [])]
    assert str(found[0]) == "1970-01-12 13:46:40" and found[1] is None


def test_a_column_of_many_values_is_refused_before_scoring(tmp_path: Path) -> None:
    values = [f"caller {n}" for n in range(MAX_VALUES)]
    rows = {"dialogue_id": [str(n) for n in range(MAX_VALUES)], "turn": [0] * MAX_VALUES, "who": values}
    more = {"dialogue_id": ["x", "x", "y"], "turn": [0, 1, 0], "who": [None, values[0], values[1]]}
    check_rows(
        one := archive(tmp_path / "d", {"a": pa.table(rows), "b": pa.table(more)}), one.shards, ArchiveColumns(("who",))
    )
    more["who"] = [None, "another", "one"]
    many = archive(tmp_path / "many", {"a": pa.table(rows), "b": pa.table(more)})
    refused(UsageError, "'who' has more than 200 values, too many to be groups", many, ArchiveColumns(("who",)))


def test_some_turn_has_a_role_that_is_predicted(tmp_path: Path) -> None:
    info = "name: calls\npredict_roles: [custmer]\n"
    one = archive(tmp_path / "d", {"a": table(role=["customer", "agent", None])}, info)
    with pytest.raises(DataError, match=r"no turn .* \('custmer'\); those that occur are 'agent', 'customer': correct"):
        check_roles(one)
    with pytest.raises(DataError, match=r"those that occur are none"):
        check_roles(archive(tmp_path / "none", {"a": [("x", 0)]}, info))
    shards = {"a": [("x", 0)], "b": table(role=["agent", "custmer"])}
    check_roles(archive(tmp_path / "later", shards, info))


def test_no_file_is_left_out_unnoticed(tmp_path: Path) -> None:
    check_files(archive(tmp_path / "d", {"a": [("x", 0)]}))
    for name in ("B.PARQUET", "month=3/b.parquet"):
        (file := tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
        with pytest.raises(DataError, match=rf"'{name}' would be left out, .*: move or rename it"):
            check_files(open_archive(str(tmp_path / "d")))
        file.unlink()
    for name in (".cache/b.parquet", "scores/calls.parquet", "scores/plan.json", "scores/turns/a.parquet"):
        (file := tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    check_files(open_archive(str(tmp_path / "d")))


def test_a_missing_column_is_named_also_where_there_is_no_other(tmp_path: Path) -> None:
    refused(
        UsageError,
        r"a.parquet has no column 'queue'; there is no valid name.",
        one := archive(tmp_path / "d", {"a": [("x", 0)]}),
        ArchiveColumns(("queue",)),
    )
    refused(UsageError, "turn is a column of turns, not of calls", one, ArchiveColumns(time="turn"))


def test_text_that_is_no_utf_8_is_one_sentence(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    one = archive(tmp_path / "d", {"a": table(text=text)})
    with pytest.raises(DataError, match=r"a.parquet is not readable parquet \(.*UTF8"):
        dialogues(one)
