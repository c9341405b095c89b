"""A release while a real MLflow server cuts connections or hangs in the middle of it: the champion decides, also for the aliases."""

from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.registry.mlflow.model_registry import mirror_champion, registered_versions
from mistere.registry.release import journal
from mistere.registry.release.atomic_release import release
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.recovery import recover
from mistere.serving.deployment import Deployment, read_deployment
from tests.local.servers import mlflow_server
from tests.local.test_registry import CONFIG, register_version
from tests.stand_ins.failing_proxy import FailingProxy

pytestmark = pytest.mark.long


def _promote(store: LocalStore, tracking_uri: str, version: str) -> None:
    digest = "ab"[int(version) - 1] * 64
    champion = Champion(
        bundle_digest=digest,
        evaluation_digest="e" * 64,
        model_name=CONFIG.model_name,
        model_version=version,
        run_id="run",
        moved_at=0.0,
    )
    deployment = Deployment(
        service="mistere", bundle_location=store.location(digest), bundle_digest=digest, model_version=version
    )
    mirror = partial(mirror_champion, tracking_uri)
    release(store, mirror, read_champion(store), champion, deployment, "promote", "why", "who")


def test_a_release_in_an_outage_of_mlflow_is_completed_or_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    released: list[str] = []
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server") as address:
        for name in "ab":
            register_version(address, tmp_path, name)
        server = urlsplit(address)
        proxy = FailingProxy((str(server.hostname), int(server.port or 0)))
        mirror = partial(mirror_champion, address)
        for failing in itertools.count():
            if "2" in released:
                break  # the release has fewer requests
            for way in ("request lost", "answer lost", "hangs"):
                store = LocalStore(tmp_path / f"{failing} {way}")
                _promote(store, address, "1")
                proxy.restart(
                    partial(int.__eq__, failing),
                    arrives=way == "answer lost",
                    hangs=4.0 if way == "hangs" else 0.0,
                )
                clock = time.monotonic()
                try:
                    _promote(store, proxy.url, "2")
                except MistereError as error:
                    assert "MLflow" in str(error) or "registry" in str(error), error
                assert time.monotonic() - clock < 60
                with monkeypatch.context() as later:
                    later.setattr(journal, "LEASE_SECONDS", -1.0)
                    recover(store, mirror, "mistere")
                champion = read_champion(store).champion
                assert champion is not None
                assert read_deployment(store, "mistere").bundle_digest == champion.bundle_digest
                aliases = {entry.version: entry.aliases for entry in registered_versions(address, CONFIG.model_name)}
                assert "champion" in aliases[champion.model_version], (failing, way)
                outcomes = [event.outcome for event in read_log(store).events]
                assert outcomes == ["done", "done" if champion.model_version == "2" else "undone"], (failing, way)
                released.append(champion.model_version)
        proxy.close()
    assert failing >= 3 and set(released[-3:]) == {"2"}
