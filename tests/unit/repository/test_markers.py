"""Every test has exactly one kind, so that `pytest -m` selects by kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mistere.common.paths import PROJECT_ROOT
from tests.conftest import KIND_OF_DIRECTORY, KINDS, ROOT, TRAINING_MODULES, kind_of, pytest_collection_modifyitems


def test_each_test_directory_has_a_kind() -> None:
    directories = {path.relative_to(ROOT).parts[0] for path in ROOT.rglob("test_*.py")}
    assert directories <= set(KIND_OF_DIRECTORY) and set(KIND_OF_DIRECTORY.values()) == set(KINDS)


def test_make_unit_collects_the_directories_of_unit_tests() -> None:
    """Other directories would only be imported."""
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"addprefix tests/,([a-z ]+)\)", makefile)
    assert listed
    assert set(listed[1].split()) == {name for name, kind in KIND_OF_DIRECTORY.items() if kind == "unit"}
    ignored = [ROOT.parent / path for path in re.findall(r"--ignore=(\S+)", makefile)]
    modules = [module for path in ignored for module in path.rglob("test_*.py")]
    assert modules and {kind_of(module) for module in modules} == {"training"}


def test_training_modules_exist() -> None:
    modules = {path.stem for folder in ("hostile", "unit") for path in (ROOT / folder).rglob("test_*.py")}
    assert modules >= TRAINING_MODULES


def test_collected_tests_have_exactly_one_kind(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        assert len({marker.name for marker in item.iter_markers()} & set(KINDS)) == 1, item.nodeid


def test_missing_or_second_kind_is_rejected(request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.UsageError, match="tests/elsewhere has no kind"):
        kind_of(ROOT / "elsewhere" / "test_it.py")

    class DoublyMarkedItem(pytest.Item):
        def runtest(self) -> None:
            """This item is collected and not run."""

    item = DoublyMarkedItem.from_parent(request.session, name="twice", path=Path(__file__))
    item.add_marker("unit")
    item.add_marker("cluster")
    with pytest.raises(pytest.UsageError, match="is marked cluster and unit: keep one"):
        pytest_collection_modifyitems([item])
