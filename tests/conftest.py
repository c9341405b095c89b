"""What every test shares: a cache of its own, so that no test reads or fills the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: what one test prepared, another need not prepare again."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point ``MISTERE_CACHE`` to the session's cache."""
    monkeypatch.setenv("MISTERE_CACHE", str(session_cache))


class ByModule(LoadScopeScheduling):
    """A module's tests on one worker; so are those of two modules that start from the same run of the pipeline."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.replace("tests/local/test_registry_commands.py", "tests/local/test_pipeline.py")


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Distribute by module, whatever ``--dist`` says."""
    return ByModule(config, log)
