"""Offline signatures of bundles by key, with sigstore's model signing.

A signature covers every file of a bundle except its manifest (and a file that MLflow may have added, which no reader opens).
``bundle.json`` repeats the manifest's fields and is compared with them, so that the signature covers everything that decides an
answer. The signature is stored at ``signatures/ModelBundle/<digest>.sig``; ``model_signing verify key`` can check it. An environment
variable names the path of the private key, which is mounted as a secret.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.io import MANIFEST, ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.public_keys import pem, read_public_keys

if TYPE_CHECKING:
    from model_signing import hashing

AFFECTS_RESULTS = False
"""Signatures are made by stages that are not cached."""

SIGNING_KEY_VARIABLE = "MISTERE_SIGNING_KEY"
"""Path of a private key (PEM, elliptic curve) to sign bundles with when they are registered."""
VERIFYING_KEY_VARIABLE = "MISTERE_VERIFYING_KEY"
"""A public key, as PEM text or as the path of a file; a bundle without a valid signature is not opened."""
KEY_SETTING = "deployment.bundle_key"
BUNDLE_FILE = "bundle.json"
_SIGN_AGAIN = (
    f"register the bundle again by a run with {SIGNING_KEY_VARIABLE}, or use the public key that belongs to it"
)


def signature_key(digest: str) -> str:
    """Key of a bundle's signature in the store."""
    return f"signatures/{ModelBundle.__name__}/{digest}.sig"


def write_description(folder: Path, manifest: ModelBundle) -> None:
    """Write ``bundle.json``: the manifest's fields as one of the bundle's files."""
    text = json.dumps(manifest.described(), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / BUNDLE_FILE).write_text(text, encoding="utf-8")


def sign_bundle(store: ObjectStore, bundle: ArtifactHandle[ModelBundle]) -> bool:
    """Sign a bundle if the environment names a key; returns whether it was signed.

    Raises:
        UsageError: the key does not exist or is not a private key.
    """
    key = os.environ.get(SIGNING_KEY_VARIABLE, "")
    if not key:
        return False
    if not Path(key).is_file():
        raise UsageError(
            f"{SIGNING_KEY_VARIABLE}: there is no key at {key}: mount it there, or set the variable to its path."
        )
    from model_signing import signing

    with tempfile.TemporaryDirectory() as scratch:
        signature = Path(scratch) / "signature"
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=Path(key))
            config.set_hashing_config(_hashing(bundle)).sign(bundle.path, signature)
        except (ValueError, TypeError, OSError) as error:
            raise UsageError(
                f"{SIGNING_KEY_VARIABLE}: {key} is not a private key that can sign ({_first_line(error)}): "
                "make one with `openssl ecparam -name prime256v1 -genkey -noout`."
            ) from error
        store.upload(signature, signature_key(bundle.manifest.digest))
    return True


def check_signer(keys: str, signer: str, how: str) -> None:
    """Refuse a run before it starts if its bundle would be refused at the end, because nothing signs it.

    Args:
        keys: ``deployment.bundle_key``.
        signer: what names the private key; empty if nothing does.
        how: what to set, for the error message.

    Raises:
        UsageError: signatures are required and nothing signs.
    """
    if keys and not signer:
        raise UsageError(f"{KEY_SETTING} requires a signature, and nothing signs this run's bundle: set {how}.")


def verify_bundle(store: ObjectStore, bundle: ArtifactHandle[ModelBundle], keys: str = "") -> None:
    """Check a bundle's signature with each configured key: the setting's, and the environment's.

    Args:
        store: the store of the bundle and its signature.
        bundle: the bundle.
        keys: ``deployment.bundle_key``: public keys as PEM text, one of which must have signed the bundle; empty for none.

    Raises:
        ArtifactError: there is no signature, or it is not of these files by that key.
        UsageError: a key cannot be read.
    """
    required = {KEY_SETTING: keys, VERIFYING_KEY_VARIABLE: os.environ.get(VERIFYING_KEY_VARIABLE, "")}
    for where, text in required.items():
        if text:
            _verify(store, bundle, text, where)


def _verify(store: ObjectStore, bundle: ArtifactHandle[ModelBundle], text: str, where: str) -> None:
    trusted = read_public_keys(text, where)
    from model_signing import verifying

    name = f"ModelBundle {bundle.manifest.digest[:12]}"
    with tempfile.TemporaryDirectory() as scratch:
        signature, file = Path(scratch) / "signature", Path(scratch) / "key.pub"
        try:
            store.download(signature_key(bundle.manifest.digest), signature)
        except MissingObjectError as error:
            raise ArtifactError(
                f"{name} is not signed, and {where} requires a signature: give the run that registers it the private key "
                f"({SIGNING_KEY_VARIABLE}, or cluster.signing_secret on a cluster)."
            ) from error
        for number, key in enumerate(trusted, start=1):
            file.write_bytes(pem(key))
            try:
                config = verifying.Config().use_elliptic_key_verifier(public_key=file)
                config.set_hashing_config(_hashing(bundle)).verify(bundle.path, signature)
                break
            except (
                Exception
            ) as error:  # the library raises errors of several packages; anything but success is a refusal
                if number == len(trusted):
                    raise ArtifactError(
                        f"{name} has no valid signature by the key of {where} ({_first_line(error)})", _SIGN_AGAIN
                    ) from error
    try:
        described = ModelBundle.model_validate_json(bundle.file(BUNDLE_FILE).read_bytes()).described()
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{name} lacks a readable {BUNDLE_FILE}, so its signature does not cover its fields", _SIGN_AGAIN
        ) from error
    if described != bundle.manifest.described():
        raise ArtifactError(f"{name} is not what was signed: its manifest and its {BUNDLE_FILE} differ", _SIGN_AGAIN)


def _hashing(bundle: ArtifactHandle[ModelBundle]) -> hashing.Config:
    from model_signing import hashing

    foreign = bundle.manifest.foreign_files - set(bundle.manifest.files)
    ignored = [MANIFEST, *(name for name in sorted(foreign) if (bundle.path / name).exists())]
    return hashing.Config().set_ignored_paths(paths=[bundle.path / name for name in ignored], ignore_git_paths=False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")[:200]
