"""Fixtures for cluster runs: a stand-in for Kubeflow Pipelines, and a store and a DVC remote on an S3 server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistere.artifacts.s3.store import S3Store
from mistere.data.versions import pin
from pipelines.cli.commands.submit import submit
from tests.local.workshop import make_dataset, rows
from tests.stand_ins.kfp_api import KfpApi, served
from tests.unit.conftest import s3_endpoint, s3_store

__all__ = ["MountedCluster", "api", "json_web_token", "mounted", "no_token", "s3_endpoint", "s3_store"]

REMOTE = "s3://mistere-tests/dvc"
TRACKING = "http://mlflow.example.org"


@dataclass(frozen=True)
class MountedCluster:
    """Command-line options of ``submit`` and ``schedule``."""

    api: KfpApi
    store: S3Store
    data: Path

    @property
    def options(self) -> dict[str, str]:
        """Where everything is."""
        return {"host": self.api.url, "store": self.store.uri, "tracking": TRACKING}

    def submit(self, *settings: str, profile: str = "tiny", **options: Any) -> int:
        """Run ``mistere submit`` from the working tree under test."""
        data = options.pop("data", str(self.data))
        return submit(profile, data, settings, **self.options, allow_dirty=True, every=0.02, **options)


def json_web_token(**claims: Any) -> str:
    """A JSON Web Token with these claims and no valid signature."""
    parts = [json.dumps({"alg": "RS256"}), json.dumps(claims), "signature"]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


@pytest.fixture
def api() -> Iterator[KfpApi]:
    """An empty Kubeflow Pipelines."""
    with served(KfpApi()) as running:
        yield running


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore the settings of the local machine."""
    for name in (
        "KFP_TOKEN",
        "KFP_ENDPOINT",
        "KFP_UI_ENDPOINT",
        "MISTERE_STORE",
        "MLFLOW_TRACKING_URI",
        "MISTERE_DATA_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def mounted(api: KfpApi, s3_store: S3Store, session_cache: Path, tmp_path: Path) -> MountedCluster:
    """A DVC project whose default remote is on the S3 server; the dataset is pushed once per server."""
    listed = list(S3Store(REMOTE).keys("files"))
    if not listed:
        dataset = session_cache / "few"
        if not dataset.is_dir():
            make_dataset(dataset, islice(rows(audio=False), 4))
        pin(str(dataset), REMOTE)
        listed = list(S3Store(REMOTE).keys("files"))
    *_, start, rest = next(key for key in listed if key.endswith(".dir")).split("/")
    return MountedCluster(api, s3_store, dvc_project(tmp_path / "project", REMOTE, start + rest))


def dvc_project(folder: Path, remote: str, digest: str) -> Path:
    """A ``data.dvc`` that pins a digest, in a project with that default remote."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = True\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n"
    )
    tracked = folder / "data.dvc"
    tracked.write_text(yaml.safe_dump({"outs": [{"md5": digest, "hash": "md5", "path": "data"}]}))
    return tracked
