"""Pointers in the store: read, moved by a conditional put, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from mistere.artifacts.object_store import ABSENT, ConflictError, LocalStore
from mistere.artifacts.pointer import Pointer, Reading
from mistere.common.errors import ArtifactError
from mistere.data.latest import LATEST
from mistere.registry.champion import CHAMPION_KEY


class Release(BaseModel):
    """A value of a pointer."""

    name: str


RELEASE = Pointer("release.json", Release, "release", "delete it")


def test_a_pointer_that_was_never_moved_has_no_value(tmp_path: Path) -> None:
    assert RELEASE.read(LocalStore(tmp_path)) == Reading(None, ABSENT)


def test_a_moved_pointer_is_read_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    RELEASE.move(store, RELEASE.read(store).version, Release(name="first"))
    RELEASE.move(store, RELEASE.read(store).version, Release(name="second"))
    assert RELEASE.read(store).value == Release(name="second")
    assert store.read("release.json")[0] == b'{\n "name": "second"\n}'


def test_a_move_from_an_old_reading_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    seen = RELEASE.read(store)
    RELEASE.move(store, seen.version, Release(name="first"))
    with pytest.raises(ConflictError):
        RELEASE.move(store, seen.version, Release(name="second"))
    assert RELEASE.read(store).value == Release(name="first")


@pytest.mark.parametrize("content", [b"{half", b"[]", b'{"title": "first"}', b"\xff"])
def test_a_damaged_pointer_is_refused_with_its_location_and_a_remedy(tmp_path: Path, content: bytes) -> None:
    store = LocalStore(tmp_path)
    store.write("release.json", content)
    with pytest.raises(ArtifactError) as refusal:
        RELEASE.read(store)
    assert str(refusal.value) == f"the release pointer {store.location('release.json')} is damaged: delete it."


def test_the_keys_of_the_pointers_do_not_change() -> None:
    assert (CHAMPION_KEY, LATEST.key) == ("champion.json", "data/latest.json")
