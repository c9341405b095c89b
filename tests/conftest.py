"""Fixtures, markers and distribution of all tests: a cache that is not the machine's, one kind for each test."""

from __future__ import annotations

import gc
import inspect
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

# Before PyTorch is imported: the workers have one core each, and small models gain nothing from a second thread. On a loaded machine
# threads that wait for each other make training take a hundred times as long.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

ROOT = Path(__file__).parent
KINDS = ("unit", "training", "server", "cluster")
KIND_OF_DIRECTORY = {
    "cluster": "cluster",
    "compile": "cluster",
    "contract": "cluster",
    "e2e": "cluster",
    "gpu": "training",
    "hostile": "unit",
    "local": "training",
    "manifests": "cluster",
    "serving": "server",
    "unit": "unit",
}
"""The kind of a test by its directory. A module or a test with a kind's marker of its own keeps that."""
TRAINING_MODULES = {
    "test_bundles",
    "test_command_line",
    "test_comparison",
    "test_context_turns",
    "test_corruptions",
    "test_embedding_shards",
    "test_imported_embeddings",
    "test_importer_discovery",
    "test_kinds",
    "test_media",
    "test_package",
    "test_pull_data",
    "test_random_damage",
    "test_report_run",
    "test_sample_corpus",
    "test_train_command",
    "test_validate_data",
}
"""Modules of ``tests/unit`` and ``tests/hostile`` that run models, whole stages, commands or ffmpeg.

Those of ``tests/unit/model`` are of this kind by their folder.
"""


def pytest_configure() -> None:
    """React to SIGINT. A shell starts a job in the background with SIGINT ignored, and processes inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection() -> None:
    """Collect no garbage while modules are imported: nothing of them is freed."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let the garbage collector skip what was imported, and look seldom: a whole collection of what the tests import takes 0.5 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with exactly one kind; ``long`` is independent of the kind and set by hand.

    Raises:
        pytest.UsageError: a directory has no kind, or a test is marked with two.
    """
    for item in items:
        marked = {marker.name for marker in item.iter_markers()} & set(KINDS)
        if not marked:
            marked = {"server" if "s3_endpoint" in getattr(item, "fixturenames", ()) else kind_of(item.path)}
            item.add_marker(next(iter(marked)))
        if len(marked) > 1:
            raise pytest.UsageError(f"{item.nodeid} is marked {' and '.join(sorted(marked))}: keep one of them.")


def kind_of(path: Path) -> str:
    """The kind of the tests in a file that has no marker of its own.

    Raises:
        pytest.UsageError: its directory is missing from :data:`KIND_OF_DIRECTORY`.
    """
    directory, *below = path.relative_to(ROOT).parts
    if directory in ("hostile", "unit") and (path.stem in TRAINING_MODULES or below[0] == "model"):
        return "training"
    if directory not in KIND_OF_DIRECTORY:
        raise pytest.UsageError(f"tests/{directory} has no kind: add it to KIND_OF_DIRECTORY in tests/conftest.py.")
    return KIND_OF_DIRECTORY[directory]


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session, so that tests share prepared audio and downloads."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point ``MISTERE_CACHE`` to the session's cache."""
    monkeypatch.setenv("MISTERE_CACHE", str(session_cache))


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source() -> Iterator[None]:
    """Let ``inspect.stack`` read no source files.

    Each setter of a KFP task takes the name of its caller from the whole stack (kfp/dsl/pipeline_task.py,
    ``_ensure_container_spec_exists``). Below pytest's frames that is 80 ms a call, and five seconds a compilation.
    """
    before = inspect.stack.__defaults__
    inspect.stack.__defaults__ = (0,)
    yield
    inspect.stack.__defaults__ = before


class ByModule(LoadScopeScheduling):
    """Run a module's tests on one worker.

    Modules that start from the same pipeline run are on the same worker, and so are those that ask the session's servers: another
    worker would start both again.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        if scope.startswith("tests/serving/"):
            return "tests/serving"
        return scope.replace("tests/local/test_registry_commands.py", "tests/local/test_pipeline.py")


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Distribute by module, whatever ``--dist`` says."""
    return ByModule(config, log)
