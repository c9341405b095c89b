"""Images and keys for tests of signatures, and the registries that hold them: a stand-in, and the real one where it is installed."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from mistere.common.processes.parent_death import die_with_parent
from mistere.common.public_keys import pem
from mistere.kubernetes.image_registry import IMAGE_INDEX, IMAGE_MANIFEST, ImageRegistry, digest_of
from mistere.kubernetes.image_signatures import STATEMENT, pre_authentication
from mistere.kubernetes.images import ImageReference
from pipelines import sign_images
from tests.local.servers import free_port

TAG = "src-0123456789ab"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@contextmanager
def real_registry(folder: Path) -> Iterator[str]:
    """CNCF distribution, as Debian packages it; its host and port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("the registry is not installed (Debian: apt-get install docker-registry)")
    address = f"127.0.0.1:{free_port()}"
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\nhttp: {{addr: {address}}}\n"
    )
    with (folder / "registry.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", str(settings)],
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def public(key: EllipticCurvePrivateKey) -> str:
    return pem(key.public_key()).decode()


def private(key: EllipticCurvePrivateKey, password: str = "") -> bytes:
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def push(host: str, content: str, tag: str = TAG, role: str = "predictor") -> ImageReference:
    """Push an image of one file; its reference, by tag."""
    repository = f"{host}/mistere/{role}-python"
    registry = ImageRegistry(repository)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content.encode()))
    layer = gzip.compress(archive.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [digest_of(archive.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": descriptor(registry, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(registry, layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    registry.put_manifest(tag, manifest)
    return ImageReference.parse(f"{repository}:{tag}", "the test")


def descriptor(registry: ImageRegistry, content: bytes, media_type: str) -> dict[str, Any]:
    """Upload a blob; its descriptor."""
    return {"mediaType": media_type, "size": len(content), "digest": registry.put_blob(content)}


def attach_bundle(image: ImageReference, key: EllipticCurvePrivateKey, digest: str, predicate_type: str) -> None:
    """Sign as cosign 3 does (specs/BUNDLE_SPEC.md in its repository): a bundle whose manifest refers to the image.

    Where the registry has no referrers API, the manifest is listed in the index under the tag ``sha256-DIGEST``.
    """
    registry = ImageRegistry(image.repository)
    image_manifest = registry.manifest(str(image).rpartition(":")[2])
    assert image_manifest is not None
    payload = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": predicate_type,
            "predicate": {},
        }
    ).encode()
    signature = sign_images._signature(key, pre_authentication(STATEMENT, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": STATEMENT,
        "signatures": [{"sig": signature}],
    }
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "hint"}},
        "dsseEnvelope": envelope,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": BUNDLE,
        "config": descriptor(registry, b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [descriptor(registry, json.dumps(bundle).encode(), BUNDLE)],
        "subject": {"mediaType": IMAGE_MANIFEST, "size": 1, "digest": image_manifest[1]},
    }
    stored = digest_of(json.dumps(manifest).encode())
    assert registry.put_manifest(stored, manifest) == stored
    if not registry.referrers(image_manifest[1]):
        listed = {"mediaType": IMAGE_MANIFEST, "digest": stored, "size": 1, "artifactType": BUNDLE}
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [listed]}
        registry.put_manifest(image_manifest[1].replace(":", "-"), index)
