"""The language of each utterance: imported, compared with its text's script, and a slice of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.evaluate_model.raw_utterances import columns_of
from components.validate_data.facts.shard_facts import facts_of_shard
from mistere.corpora.importers.table import import_table
from mistere.data.dataset import load_info
from tests.unit.data.corpus_files import read

ROWS = [
    ("a", "calm", "hello", "en"),
    ("a", "glad", "привіт", "uk"),
    ("b", "calm", "привіт", "en"),
    ("b", "glad", "hello there", ""),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    table = tmp_path / "table.csv"
    table.write_text("dialogue_id,label,text,lang\n" + "\n".join(map(",".join, ROWS)))
    import_table(table, tmp_path / "data", columns={"language": "lang"}, splits=(1, 0, 0))
    return tmp_path / "data"


def test_a_column_names_the_languages(dataset: Path, tmp_path: Path) -> None:
    assert load_info(dataset / "dataset.yaml").language == "mul"
    languages = {(row.dialogue_id, row.turn): row.language for row in read(dataset, "train")}
    assert languages == {("a", 0): "en", ("a", 1): "uk", ("b", 0): "en", ("b", 1): None}
    table = tmp_path / "one.csv"
    table.write_text("dialogue_id,label,text,language\na,calm,hallo,de\na,glad,gut,de\n")
    import_table(table, tmp_path / "one", splits=(1, 0, 0))
    assert load_info(tmp_path / "one" / "dataset.yaml").language == "de"


def test_a_text_is_compared_with_the_script_of_its_own_language(dataset: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        facts = facts_of_shard(dataset / "train-00000.parquet", "uk", -60.0, pool).rows.to_pylist()
    found = {(row["dialogue_id"], row["turn"]): (row["foreign"], row["script"]) for row in facts}
    assert found == {
        ("a", 0): (0.0, "Latin"),
        ("a", 1): (0.0, "Cyrillic"),
        ("b", 0): (1.0, "Cyrillic"),
        ("b", 1): (1.0, "Latin"),  # the dataset's, which this test says is Ukrainian
    }


class Reader:
    """A test split with a column of languages."""

    def __init__(self, *languages: str | None) -> None:
        self._languages = languages

    def has_column(self, split: str, name: str) -> bool:
        return name == "language" and bool(self._languages)

    def columns(self, split: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        return ({"dialogue_id": "a", "turn": turn, "language": one} for turn, one in enumerate(self._languages))


def test_languages_are_slices_if_there_are_several() -> None:
    keys = [("a", 0), ("a", 1), ("a", 2)]
    reader: Any = Reader("en", "uk", None)
    assert columns_of(reader, [], keys) == {"language": ["en", "uk", None]}
    for other in (Reader("en", "en", None), Reader()):
        same: Any = other
        assert columns_of(same, [], keys) == {}
