"""Signatures of bundles: by key, offline, over every file and every field."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
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

pytest.importorskip("model_signing", reason="the package model-signing is optional: pip install 'mistere[signing]'")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pairs of keys."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
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


def bundle(store: ObjectStore, folder: Path) -> ArtifactHandle[ModelBundle]:
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


def test_without_a_key_nothing_is_signed_nor_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY_VARIABLE, raising=False)
    monkeypatch.delenv(VERIFYING_KEY_VARIABLE, raising=False)
    store = LocalStore(tmp_path / "store")
    made = bundle(store, tmp_path / "making")
    assert not sign_bundle(store, made)
    verify_bundle(store, made)


def test_a_signature_holds_for_its_key_alone_also_when_the_bundle_is_published_again(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    made = bundle(store, tmp_path / "making")
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["ours.pub"]))
    with pytest.raises(ArtifactError, match="is not signed"):
        verify_bundle(store, made)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["ours"]))
    assert sign_bundle(store, made)
    verify_bundle(store, made)
    verify_bundle(store, bundle(store, tmp_path / "again"))
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["theirs.pub"]))
    with pytest.raises(ArtifactError, match="no valid signature"):
        verify_bundle(store, made)


def test_changed_weights_or_fields_are_not_what_was_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    made = bundle(store, tmp_path / "making")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["ours"]))
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["ours.pub"]))
    sign_bundle(store, made)
    with pytest.raises(ArtifactError, match=r"its manifest and its bundle\.json differ"):
        verify_bundle(store, ArtifactHandle(made.path, made.manifest.model_copy(update={"temperature": 9.0})))
    copy = shutil.copytree(made.path, tmp_path / "copy")
    (copy / "mixture.safetensors").write_bytes(b"wEights")
    with pytest.raises(ArtifactError, match="no valid signature"):
        verify_bundle(store, ArtifactHandle(copy, made.manifest))


def test_a_bundle_that_an_earlier_release_signed_is_still_valid(
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
    folder = tmp_path / "making"
    folder.mkdir()
    description = {**manifest.described(), "encoders": {"text": {**flat, "dimension": 8, "settings": {}}}}
    (folder / "bundle.json").write_text(json.dumps(description), encoding="utf-8")
    made = open_artifact(store, ModelBundle, publish(store, manifest, folder).digest)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["ours"]))
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, str(keys["ours.pub"]))
    sign_bundle(store, made)
    verify_bundle(store, made)
    encoders = {"text": made.manifest.encoders["text"].model_copy(update={"dimension": 9})}
    with pytest.raises(ArtifactError, match=r"its manifest and its bundle\.json differ"):
        verify_bundle(store, ArtifactHandle(made.path, made.manifest.model_copy(update={"encoders": encoders})))


@pytest.mark.parametrize("variable", [SIGNING_KEY_VARIABLE, VERIFYING_KEY_VARIABLE])
def test_a_missing_or_invalid_key_is_reported(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    made = bundle(store, tmp_path / "making")
    act = sign_bundle if variable == SIGNING_KEY_VARIABLE else verify_bundle
    monkeypatch.setenv(variable, str(tmp_path / "nothing.pem"))
    with pytest.raises(UsageError, match="there is no key at"):
        act(store, made)
    (tmp_path / "odd.pem").write_text("no key")
    monkeypatch.setenv(variable, str(tmp_path / "odd.pem"))
    with pytest.raises((UsageError, ArtifactError)):
        store.write(signature_key(made.manifest.digest), b"{}")
        act(store, made)


def test_sigstores_own_command_understands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Path]
) -> None:
    store = LocalStore(tmp_path / "store")
    made = bundle(store, tmp_path / "making")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(keys["ours"]))
    sign_bundle(store, made)
    signature = store.local_path(signature_key(made.manifest.digest))
    assert json.loads(signature.read_text())["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(made.path), "--signature", str(signature)]
    command += ["--public_key", str(keys["ours.pub"]), "--ignore-paths", str(made.path / "manifest.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
