"""The first step of a distillation: what it takes from the teacher, and what it records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from components.plan_distillation.run import Plan, plan
from mistere.artifacts.identities import EncoderDescription
from mistere.artifacts.io import publish
from mistere.artifacts.manifests import DatasetShard, ModelBundle, UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import ArtifactError
from mistere.kubernetes.settings_keys import DATA_DIGEST, DATA_REMOTE
from mistere.runs.outcome import read_run_info

JOB = "0a1b2c"
PINNED = "c" * 32 + ".dir"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store, which the ConfigMap names with data of its own."""
    monkeypatch.setattr("mistere.registry.mlflow.connection.check_tracking", lambda uri: None)
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(TRACKING_VARIABLE, "sqlite://")
    monkeypatch.setenv(DATA_DIGEST, "b" * 32 + ".dir")
    monkeypatch.setenv(DATA_REMOTE, "s3://bucket/other")
    store = LocalStore(tmp_path / "store")
    monkeypatch.setenv(STORE_VARIABLE, store.uri)
    return store


def planned(store: LocalStore, **compiled: Any) -> Plan:
    """The plan of a run that another client starts, for a teacher with a name of its own."""

    def empty(name: str) -> Path:
        folder = store.root.parent / name
        folder.mkdir()
        return folder

    data = UtteranceSet(
        name="calls", dvc_digest=PINNED, remote="s3://bucket/calls", info_md5="0" * 32, labels=["a", "b"], language="en",
        speaker_disjoint=True, synthetic=True, shards=[DatasetShard(name="test-0.parquet", md5="0" * 32, size=9, split="test", rows=2)],
        rows={"test": 2}, dialogues={"test": 1}, modalities=["text"], test_digest="t" * 64,
    )  # fmt: skip
    utterances = publish(store, data, empty("data")).digest
    bundle = ModelBundle(
        name="calls", labels=["a", "b"], experts=["text"], encoders={"text": EncoderDescription()}, temperature=1.0,
        test_digest="t" * 64, metrics={}, dvc_digest=PINNED, inputs={"utterances": utterances},
    )  # fmt: skip
    teacher = publish(store, bundle, empty("bundle")).digest
    return plan({}, JOB, {"modalities": ["text"], **compiled}, {"distillation": {"teacher": teacher}})


def test_name_and_data_are_the_teachers(store: LocalStore) -> None:
    made = planned(store)
    assert made.sections["registry"]["model_name"] == "calls"
    assert (made.context["data_digest"], made.context["data_remote"]) == (PINNED, "s3://bucket/calls")


def test_a_run_that_another_client_started_is_recorded(store: LocalStore) -> None:
    planned(store)
    info = read_run_info(store, JOB)
    assert info["command"] == "started in Kubeflow Pipelines" and info["config"]["distillation"]["teacher"]
    assert info["data"] == {"source": "the teacher's data", "dvc_digest": PINNED, "endpoint": ""}


def test_the_teacher_must_be_signed_by_the_profiles_key(store: LocalStore) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ArtifactError, match=r"is not signed, and deployment\.bundle_key requires a signature"):
        planned(store, bundle_key=key.decode())
