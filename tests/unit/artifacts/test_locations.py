"""Locations in the store's own records: relative, so that a copied folder refers to its own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mistere.artifacts.bundle_reference import BundleReference
from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.locations import recorded_location, resolved_location
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import ArtifactError
from mistere.registry.lineage import Lineage, lineage_key, read_lineage, write_lineage
from mistere.serving.deployment import Deployment, deployment_key, read_deployment


def test_a_copied_output_folder_refers_to_its_own_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "output" / "store")
    bundle, data = store.location("artifacts/ModelBundle/abc"), str(tmp_path / "output" / "data-remote")
    lineage = Lineage(
        model_name="mistere",
        run=RunIdentity(run_id="r"),
        bundle_digest="abc",
        bundle_location=bundle,
        evaluation_digest="e",
        test_digest="t",
        verdict="promote",
        dataset="tones",
        dvc_digest="d",
        data_remote=data,
    )
    pointer = Deployment(service="mistere", bundle_location=bundle, bundle_digest="abc", model_version="1")
    assert write_lineage(store, lineage) == read_lineage(store, "abc") == lineage
    store.write(deployment_key("mistere"), pointer.recorded(store))
    assert read_deployment(store, "mistere") == pointer
    shutil.copytree(tmp_path / "output", tmp_path / "copy")
    copy = LocalStore(tmp_path / "copy" / "store")
    for key in (lineage_key("abc"), deployment_key("mistere")):
        assert str(tmp_path).encode() not in copy.read(key)[0]
    assert read_lineage(copy, "abc").bundle_location == copy.location("artifacts/ModelBundle/abc")
    assert read_lineage(copy, "abc").data_remote == str(tmp_path / "copy" / "data-remote")
    assert read_deployment(copy, "mistere").bundle_location == copy.location("artifacts/ModelBundle/abc")


def test_a_reference_to_a_bundle_finds_it_in_the_nearest_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "artifacts/ModelBundle/abc"
    stores = {name: LocalStore(tmp_path / name / "store") for name in ("output", "copy", "named")}
    for store in stores.values():
        store.write(f"{key}/manifest.json", b"{}")
    reference = BundleReference(bundle_digest="abc", store=stores["output"].uri)
    inside, elsewhere = tmp_path / "copy" / "store" / "mlflow" / "models" / "m-1" / "artifacts", tmp_path / "download"
    for folder in (inside, elsewhere):
        folder.mkdir(parents=True)
        reference.write(folder)
    monkeypatch.delenv("MISTERE_STORE", raising=False)
    assert BundleReference.read(inside).locate(inside) == stores["copy"].location(key)
    assert BundleReference.read(elsewhere).locate(elsewhere) == stores["output"].location(key)
    monkeypatch.setenv("MISTERE_STORE", stores["named"].uri)
    assert BundleReference.read(elsewhere).locate(elsewhere) == stores["named"].location(key)
    missing = BundleReference(bundle_digest="xyz", store=stores["output"].uri)
    with pytest.raises(
        ArtifactError, match=r"bundle xyz is not in .*named/store or .*output/store; set MISTERE_STORE to the store"
    ):
        missing.locate(elsewhere)
    (elsewhere / "bundle_reference.json").write_text('{"bundle_digest": "../abc", "store": ""}')
    with pytest.raises(ArtifactError, match="holds no reference to a bundle"):
        BundleReference.read(elsewhere)


def test_locations_elsewhere_stay_and_none_leads_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    local, remote = LocalStore(tmp_path / "output" / "store"), S3Store("s3://bucket/prefix")
    assert recorded_location(remote, "s3://bucket/prefix/artifacts/x") == "artifacts/x"
    assert resolved_location(remote, "artifacts/x") == "s3://bucket/prefix/artifacts/x"
    for store in (local, remote):
        for elsewhere in ("", "/srv/data-remote", "s3://bucket/prefixed/x", "https://host/x", str(tmp_path)):
            assert resolved_location(store, recorded_location(store, elsewhere)) == elsewhere
    for store, hostile in ((local, "../../x"), (local, ".."), (local, "a/../../x"), (local, "a\0"), (remote, "../x")):
        with pytest.raises(ArtifactError, match="leads out of"):
            resolved_location(store, hostile)
