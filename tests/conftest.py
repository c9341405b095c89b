"""What every test shares: a cache of its own, so that no test reads or fills the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: what one test prepared, another need not prepare again."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point ``MISTERE_CACHE`` to the session's cache."""
    monkeypatch.setenv("MISTERE_CACHE", str(session_cache))
