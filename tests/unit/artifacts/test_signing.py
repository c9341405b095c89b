"""Bundles are signed with a key, offline; the signature covers every file and every field."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistere.artifacts.io import ArtifactHandle, open_artifact, publish, verify_directory
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.signing import (
    SIGNING_KEY_VARIABLE,
    VERIFYING_KEY_VARIABLE,
    sign_bundle,
    signature_key,
    verify_bundle,
    write_description,
)
from mistere.common.errors import ArtifactError, UsageError
from pipelines.cli.commands.run import run
from pipelines.compile import compile_pipeline
from pipelines.profiles import load_profile


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two key pairs, ``trusted`` and ``other``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("trusted", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / name).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return {path.name: path for path in folder.iterdir()}


def publish_bundle(store: ObjectStore, folder: Path) -> ArtifactHandle[ModelBundle]:
    manifest = ModelBundle(
        name="mistere",
        labels=["calm", "glad"],
        experts=["text", "cross_modal"],
        encoders={},
        temperature=1.5,
        test_digest="t",
        metrics={"test.weighted_f1": 0.5},
        dvc_digest="d",
    )
    folder.mkdir()
    (folder / "mixture.safetensors").write_bytes(b"weights")
    write_description(folder, manifest)
    return open_artifact(store, ModelBundle, publish(store, manifest, folder).digest)


def test_bundle_without_a_key_is_neither_signed_nor_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY_VARIABLE, raising=False)
    monkeypatch.delenv(VERIFYING_KEY_VARIABLE, raising=False)
    store = LocalStore(tmp_path / "store")
    published = publish_bundle(store, tmp_path / "source")
    assert not sign_bundle(store, published)
    verify_bundle(store, published)


def test_signature_verifies_with_its_key_only_and_survives_republishing(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    published = publish_bundle(store, tmp_path / "source")
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["trusted.pub"]))
    with pytest.raises(ArtifactError, match="is not signed"):
        verify_bundle(store, published)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["trusted"]))
    assert sign_bundle(store, published)
    verify_bundle(store, published)
    verify_bundle(store, publish_bundle(store, tmp_path / "again"))
    # mlflow/store/artifact/models_artifact_repo.py, _add_registered_model_meta_file: into the folder that is a version's source
    foreign = published.path / "registered_model_meta"
    foreign.write_text("model_name: mistere\nmodel_version: '1'\n")
    verify_bundle(store, open_artifact(store, ModelBundle, published.manifest.digest))
    other = foreign.rename(published.path / "registered_model_meta.json")
    with pytest.raises(ArtifactError, match="no valid signature"):
        verify_bundle(store, published)
    with pytest.raises(ArtifactError, match=r"registered_model_meta\.json is not in its manifest"):
        verify_directory(published.path, ModelBundle)
    other.unlink()
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["other.pub"]))
    with pytest.raises(ArtifactError, match="no valid signature"):
        verify_bundle(store, published)


def test_keys_of_the_setting_verify_where_one_of_them_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    published = publish_bundle(store, tmp_path / "source")
    trusted, other = keys["trusted.pub"].read_text(), keys["other.pub"].read_text()
    monkeypatch.delenv(VERIFYING_KEY_VARIABLE, raising=False)
    with pytest.raises(
        ArtifactError, match=r"is not signed, and deployment\.bundle_key requires a signature: give the run"
    ):
        verify_bundle(store, published, trusted)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["trusted"]))
    sign_bundle(store, published)
    verify_bundle(store, published, trusted)
    verify_bundle(store, published, other + trusted)
    verify_bundle(store, published, " ".join(trusted.split("\n")))
    with pytest.raises(ArtifactError, match=r"has no valid signature by the key of deployment\.bundle_key"):
        verify_bundle(store, published, other)
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, other)
    with pytest.raises(ArtifactError, match=f"no valid signature by the key of {VERIFYING_KEY_VARIABLE}"):
        verify_bundle(store, published, trusted)
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, trusted)
    verify_bundle(store, published, trusted)


@pytest.mark.parametrize("setting", ["bundle_key", "image_key"])
def test_setting_takes_public_keys_only_and_shows_no_private_one(setting: str, keys: dict[str, Path]) -> None:
    text = keys["trusted.pub"].read_text()
    for variable in (text, f"'{text}'", f'"{text}"'):  # as a shell passes "$(cat cosign.pub)"
        assert getattr(load_profile("tiny", [f"deployment.{setting}={variable}"]).deployment, setting) == text
    private = keys["trusted"].read_text()
    with pytest.raises(UsageError, match="it holds a private key") as refused:
        load_profile("tiny", [f"deployment.{setting}='{private}'"])
    assert not any(line in str(refused.value) for line in private.splitlines()[1:-1])
    for text in ("cosign.pub", "-----BEGIN PUBLIC KEY----- AAAA -----END PUBLIC KEY-----"):
        with pytest.raises(UsageError, match=rf"deployment\.{setting}.*it is not a public key"):
            load_profile("tiny", [f"deployment.{setting}='{text}'"])


@pytest.mark.long
def test_run_that_requires_signatures_and_does_not_sign_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    key = f"deployment.bundle_key={keys['trusted.pub'].read_text()}"
    monkeypatch.delenv(SIGNING_KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=r"nothing signs this run's bundle: set MISTERE_SIGNING_KEY to the path"):
        run("tiny", None, [key], tmp_path)
    output = tmp_path / "pipeline.yaml"
    with pytest.raises(UsageError, match=r"nothing signs this run's bundle: set cluster\.signing_secret to the secret"):
        compile_pipeline("sample", [key], output)
    monkeypatch.setattr("pipelines.catalogue.image", lambda role: f"localhost/mistere/{role}-python:src-0123456789ab")
    with pytest.raises(UsageError, match="names no registry, so the image has no signature"):
        compile_pipeline("sample", [key.replace("bundle_key", "image_key")], output)
    assert not output.exists()
    compile_pipeline("sample", [key, "cluster.signing_secret=mistere-signing"], output)
    assert "-----BEGIN PUBLIC KEY-----" in output.read_text(encoding="utf-8")


def test_changed_weights_or_fields_fail_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    published = publish_bundle(store, tmp_path / "source")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["trusted"]))
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["trusted.pub"]))
    sign_bundle(store, published)
    with pytest.raises(ArtifactError, match=r"its manifest and its bundle\.json differ"):
        verify_bundle(store, ArtifactHandle(published.path, published.manifest.model_copy(update={"temperature": 9.0})))
    copy = shutil.copytree(published.path, tmp_path / "copy")
    (copy / "mixture.safetensors").write_bytes(b"wEights")
    with pytest.raises(ArtifactError, match="no valid signature"):
        verify_bundle(store, ArtifactHandle(copy, published.manifest))


def test_bundle_signed_by_an_earlier_release_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    flat = {"family": "text", "source": "hub:m", "precision": "float32", "base_digest": "b", "encoder_digest": "e"}
    manifest = ModelBundle.model_validate(
        {
            "name": "mistere",
            "labels": ["calm"],
            "experts": ["text"],
            "encoders": {"text": {**flat, "dimension": 8, "settings": {}}},
            "temperature": 1.5,
            "test_digest": "t",
            "metrics": {},
            "dvc_digest": "d",
        }
    )
    folder = tmp_path / "source"
    folder.mkdir()
    description = {**manifest.described(), "encoders": {"text": {**flat, "dimension": 8, "settings": {}}}}
    (folder / "bundle.json").write_text(json.dumps(description), encoding="utf-8")
    published = open_artifact(store, ModelBundle, publish(store, manifest, folder).digest)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["trusted"]))
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["trusted.pub"]))
    sign_bundle(store, published)
    verify_bundle(store, published)
    encoders = {"text": published.manifest.encoders["text"].model_copy(update={"dimension": 9})}
    with pytest.raises(ArtifactError, match=r"its manifest and its bundle\.json differ"):
        verify_bundle(
            store, ArtifactHandle(published.path, published.manifest.model_copy(update={"encoders": encoders}))
        )


@pytest.mark.parametrize("variable", [SIGNING_KEY_VARIABLE, VERIFYING_KEY_VARIABLE])
def test_missing_or_invalid_key_is_reported(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    published = publish_bundle(store, tmp_path / "source")
    sign_or_verify = sign_bundle if variable == SIGNING_KEY_VARIABLE else verify_bundle
    monkeypatch.setenv(variable, str(tmp_path / "nothing.pem"))
    with pytest.raises(UsageError, match="there is no key at"):
        sign_or_verify(store, published)
    (tmp_path / "invalid.pem").write_text("no key")
    monkeypatch.setenv(variable, str(tmp_path / "invalid.pem"))
    with pytest.raises((UsageError, ArtifactError)):
        store.write(signature_key(published.manifest.digest), b"{}")
        sign_or_verify(store, published)


def test_model_signing_command_verifies_the_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    published = publish_bundle(store, tmp_path / "source")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["trusted"]))
    sign_bundle(store, published)
    signature = store.local_path(signature_key(published.manifest.digest))
    assert json.loads(signature.read_text())["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(published.path),
        "--signature",
        str(signature),
    ]
    command += ["--public_key", str(keys["trusted.pub"]), "--ignore-paths", str(published.path / "manifest.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
