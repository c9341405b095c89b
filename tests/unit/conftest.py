"""The object store in both its forms: a folder, and S3 served over a socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from tests.stand_ins.s3_server import running_s3


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server on this machine."""
    with running_s3() as url:
        yield url


@pytest.fixture
def s3_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """An empty prefix of a bucket."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    boto3.client("s3").create_bucket(Bucket="mistere-tests")
    return S3Store(f"s3://mistere-tests/{uuid.uuid4().hex}")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.server)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store, once as a folder and once as S3."""
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    remote_store: S3Store = request.getfixturevalue("s3_store")
    return remote_store


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as the tests' are only slowed by a second thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
