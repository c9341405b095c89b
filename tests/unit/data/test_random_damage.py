"""Validation of a randomly damaged dataset ends in a verdict with a report or in one sentence, never in a traceback."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.run import write_report
from components.validate_data.validation import validate
from mistere.common.errors import DataError
from mistere.common.splits import SPLITS
from mistere.data.dataset import load_info, shards_of
from mistere.data.dataset_writer import write_dataset
from mistere.data.profile import Profile
from tests.unit.data.test_validate_data import INFO, LABELS, clean

PREVIOUS_PROFILE = Profile(
    name="before",
    utterances=40,
    labels=dict.fromkeys(LABELS, 13),
    histograms={"seconds": [1] * 120, "text_length": [1] * 200, "rms_dbfs": [1] * 90},
    words={"train0": 4},
    other_words=9,
)

text_values = st.one_of(
    st.none(), st.text(max_size=40), st.just("\x00\ud800".encode("utf-8", "ignore").decode()), st.just("a " * 3000)
)
values: dict[str, st.SearchStrategy[Any]] = {
    "dialogue_id": text_values,
    "turn": st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    "label": st.one_of(st.sampled_from(LABELS), text_values),
    "text": text_values,
    "speaker": text_values,
    "audio": st.one_of(
        st.none(),
        st.binary(max_size=200),
        st.sampled_from([audio for _, row in clean()[:2] if (audio := row.audio)]).flatmap(
            lambda audio: st.builds(
                lambda at, byte, cut: (audio[:at] + bytes([byte]) + audio[at + 1 :])[:cut],
                st.integers(0, 60),
                st.integers(0, 255),
                st.integers(1, len(audio)),
            )
        ),
    ),
}
row_changes = st.lists(
    st.sampled_from(sorted(values)).flatmap(
        lambda name: st.tuples(
            st.integers(0, 47), st.just(name), values[name], st.sampled_from(["one", "all", "drop", "twice"])
        )
    ),
    max_size=4,
)
byte_changes = st.one_of(
    st.none(),
    st.tuples(st.sampled_from(SPLITS), st.floats(0, 1), st.binary(min_size=1, max_size=8), st.booleans()),
)
type_changes = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from(["dialogue_id", "turn", "label", "text", "audio", "speaker"]),
        st.sampled_from(
            [pa.int64(), pa.float64(), pa.string(), pa.binary(), pa.bool_(), pa.list_(pa.string()), pa.null()]
        ),
    ),
)


mutations = given(st.tuples(row_changes, byte_changes, type_changes, st.booleans(), st.booleans()))
SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=2, derandomize=True, **SLOW)
@mutations
@pytest.mark.long
def test_validation_handles_random_damage(mutation: tuple[Any, ...]) -> None:
    validate_mutated(*mutation)


@pytest.mark.long
@pytest.mark.timeout(2400)
@settings(max_examples=400, **SLOW)
@mutations
def test_validation_handles_random_damage_many_times(mutation: tuple[Any, ...]) -> None:
    validate_mutated(*mutation)


def validate_mutated(
    row_edits: list[tuple[int, str, Any, str]], damage: Any, kind: Any, quarantine: bool, champion: bool
) -> None:
    rows = clean()
    for index, name, value, scope in row_edits:
        if not rows:
            break
        index %= len(rows)
        split, row = rows[index]
        if scope == "drop":
            del rows[index]
        elif scope == "twice":
            rows.insert(index, rows[index])
        elif scope == "all":
            rows = [(s, replace(r, **{name: value})) for s, r in rows]
        else:
            rows[index] = (split, replace(row, **{name: value}))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        write_dataset(folder, INFO, rows)
        if kind:
            retype(folder, *kind)
        if damage:
            overwrite(folder, *damage)
        (Path(scratch) / "report").mkdir()
        try:
            info = load_info(folder / "dataset.yaml")
        except DataError as error:
            assert "\n" not in str(error)
            return
        files = [ShardFile(split, path, path.name) for split in SPLITS for path in shards_of(folder.iterdir(), split)]
        config = ValidationConfig(quarantine=quarantine, max_quarantined_share=0.5)
        declared = Declared(info.name, info.labels, info.language, info.speaker_disjoint)
        validation = validate(files, declared, config, before=PREVIOUS_PROFILE if champion else None)
        write_report(validation, files, Path(scratch) / "report", "")
        assert validation.verdict in {"pass", "warn", "reject"}
        assert (validation.verdict == "reject") == bool(validation.failed)
        assert all("defect of the validation" not in sentence for sentence in validation.failed), validation.failed
        assert all("\n" not in sentence for sentence in (*validation.failed, *validation.warnings))


def retype(folder: Path, column: str, kind: pa.DataType) -> None:
    """Cast a column of one file to another type; use nulls if the cast fails."""
    path = sorted(folder.glob("*.parquet"))[0] if any(folder.glob("*.parquet")) else None
    if path is None:
        return
    table = pq.read_table(path)
    try:
        changed = table[column].cast(kind)
    except (pa.ArrowException, NotImplementedError):
        changed = pa.nulls(len(table), kind)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, changed), path)


def overwrite(folder: Path, split: str, position: float, data: bytes, truncate: bool) -> None:
    """Overwrite some bytes of a split's files, or truncate the files after them."""
    for path in folder.glob(f"{split}-*.parquet"):
        content = bytearray(path.read_bytes())
        offset = int(position * (len(content) - 1))
        content[offset : offset + len(data)] = data
        path.write_bytes(bytes(content[:offset]) if truncate else bytes(content))
