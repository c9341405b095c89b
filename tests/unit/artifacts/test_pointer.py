"""Pointers in the store are read, moved by a conditional write, and rejected when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistere.artifacts.object_store import ABSENT, ConflictError, LocalStore
from mistere.artifacts.pointer import Pointer, Reading
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError
from mistere.data.latest import LATEST
from mistere.registry.release.champion import CHAMPION_KEY


class Release(SealedRecord):
    """The value of the test's pointer."""

    name: str


RELEASE = Pointer("release.json", Release, "release", "delete it")


def test_pointer_without_a_move_has_no_value(tmp_path: Path) -> None:
    assert RELEASE.read(LocalStore(tmp_path)) == Reading(None, ABSENT)


def test_pointer_read_returns_the_last_move(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    RELEASE.move(store, RELEASE.read(store).version, Release(name="first"))
    RELEASE.move(store, RELEASE.read(store).version, Release(name="second"))
    assert RELEASE.read(store).value == Release(name="second")
    assert json.loads(store.read("release.json")[0])["name"] == "second"
    store.write("release.json", b'{"name": "of a release without checksums"}')
    assert RELEASE.read(store).value == Release(name="of a release without checksums")


def test_pointer_move_from_an_old_version_raises_conflict(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    reading = RELEASE.read(store)
    RELEASE.move(store, reading.version, Release(name="first"))
    with pytest.raises(ConflictError):
        RELEASE.move(store, reading.version, Release(name="second"))
    assert RELEASE.read(store).value == Release(name="first")


@pytest.mark.parametrize("content", [b"{half", b"[]", b'{"title": "first"}', b"\xff"])
def test_damaged_pointer_error_names_location_and_fix(tmp_path: Path, content: bytes) -> None:
    store = LocalStore(tmp_path)
    store.write("release.json", content)
    with pytest.raises(ArtifactError) as caught:
        RELEASE.read(store)
    assert str(caught.value) == f"the release pointer {store.location('release.json')} is damaged: delete it."


def test_pointer_keys_are_stable() -> None:
    assert (CHAMPION_KEY, LATEST.key) == ("champion.json", "data/latest.json")
