"""The identity of a dataset version: one value from its manifest to MLflow, and the KFP types named after the manifests."""

from __future__ import annotations

import json

import pytest
from kfp import dsl
from pydantic import ValidationError

from mistere.artifacts import kfp_types
from mistere.artifacts.identities import DatasetIdentity
from mistere.artifacts.manifests import MANIFESTS, UtteranceSet
from mistere.registry.mlflow.run_logging import _dataset_input


def test_manifest_returns_the_identity_and_keeps_its_fields() -> None:
    manifest = UtteranceSet(
        name="calls", dvc_digest="0a.dir", remote="s3://data/dvc", info_md5="1b", labels=["calm"], language="en",
        speaker_disjoint=True, synthetic=False, shards=[], rows={}, dialogues={}, modalities=["text"], test_digest="2c",
    )  # fmt: skip
    assert manifest.dataset == DatasetIdentity(name="calls", dvc_digest="0a.dir", remote="s3://data/dvc")
    content = manifest.model_dump()
    assert "dataset" not in content and (content["name"], content["remote"]) == ("calls", "s3://data/dvc")
    with pytest.raises(ValidationError, match="frozen"):
        manifest.dataset.name = "other"  # type: ignore[misc]


def test_mlflow_input_omits_the_password_of_the_remote() -> None:
    identity = DatasetIdentity(name="calls", dvc_digest="0a" * 16 + ".dir", remote="https://me:secret@host/dvc")
    dataset = _dataset_input(identity).dataset
    assert (dataset.name, dataset.digest) == ("calls", identity.dvc_digest[:36])
    source = json.loads(dataset.source)
    assert source["dvc_digest"] == identity.dvc_digest and "secret" not in source["uri"] and "host/dvc" in source["uri"]


def test_kfp_types_are_named_after_manifests() -> None:
    types = {
        name: value for name, value in vars(kfp_types).items() if name.endswith("Artifact") and not name.startswith("_")
    }
    assert {name.removesuffix("Artifact") for name in types} == set(MANIFESTS) - {"BaseEncoder"}
    for name, cls in types.items():
        assert issubclass(cls, dsl.Artifact)
        assert cls.schema_title == f"system.{name.removesuffix('Artifact')}" and cls.schema_version == "0.0.1"
