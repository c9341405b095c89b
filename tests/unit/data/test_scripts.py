"""The scripts of texts."""

from __future__ import annotations

import pytest

from mistere.data.scripts import foreign_share, main_script, scripts_of, trained_scripts, unknown_scripts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello", "Latin"),
        ("Größe", "Latin"),
        ("Привет, OK", "Cyrillic"),
        ("元気ですか", "Kana"),
        ("謝謝", "Han"),
        ("ＯＫ", None),
        ("12 …!", None),
        ("😀", None),
        ("", None),
        (None, None),
    ],
)
def test_the_main_script_is_that_of_most_letters(text: str | None, script: str | None) -> None:
    assert main_script(text) == script


def test_a_few_stray_texts_do_not_make_a_script_known() -> None:
    assert trained_scripts({"Latin": 990, "Cyrillic": 9, "Greek": 1}) == ["Cyrillic", "Latin"]
    assert trained_scripts({}) == []


def test_unknown_scripts_are_listed_by_index() -> None:
    texts = ["Hello", "Привет", None, "γεια", "да"]
    assert unknown_scripts(texts, ["Latin"]) == {"Cyrillic": [1, 4], "Greek": [3]}
    assert unknown_scripts(texts, []) == {}, "bundles of earlier versions record none"


def test_letters_of_other_scripts_are_foreign_to_a_language() -> None:
    latin = scripts_of("pt-BR")
    assert latin is not None and scripts_of("xx") is None
    assert foreign_share("Olá", latin) == 0 and foreign_share("да no", latin) == 0.5
