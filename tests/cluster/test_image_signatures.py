"""Signatures of images in a registry: cosign's forms, and what a registry may answer."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.errors import ArtifactError, UsageError
from mistere.common.public_keys import parse_public_keys
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes import image_registry
from mistere.kubernetes.image_registry import CREDENTIALS_VARIABLE, ImageRegistry, RegistryError
from mistere.kubernetes.image_signatures import (
    SBOM_PREDICATE,
    SIGNATURE_ANNOTATION,
    SIGNATURE_PREDICATE,
    SIMPLE_SIGNING,
    attestation_tag,
    signature_tag,
    signatures,
    verify_attestation,
    verify_image,
)
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.cluster_release import on_cluster
from pipelines import sign_images
from pipelines.sign_images import attest, sign
from tests.cluster.signed_images import TAG, attach_bundle, new_key, private, public, push, real_registry
from tests.stand_ins.http_server import Reply, running
from tests.stand_ins.image_registry import Registry

SBOM = {"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but those of the test, and no waiting between retries."""
    for name in (CREDENTIALS_VARIABLE, "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(image_registry, "_RETRY_DELAYS", (0.0,))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running(Registry()) as server:
        yield server


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(params=["distribution", "stand-in"])
def host(request: pytest.FixtureRequest) -> str:
    """Each test with it runs on the real registry and on the stand-in."""
    if request.param == "distribution":
        return str(request.getfixturevalue("distribution"))
    return str(request.getfixturevalue("registry").host)


def test_only_the_key_that_signed_an_image_verifies_it(host: str) -> None:
    image, key, other_key = push(host, "signed by one key"), new_key(), new_key()
    with pytest.raises(ArtifactError, match=r"is not signed by the key of deployment\.image_key: it has no signature"):
        verify_image(str(image), public(key))
    digest = sign(image, key)
    assert verify_image(str(image), public(key)) == f"{image}@{digest}"
    assert verify_image(f"{image.repository}@{digest}", public(key)) == f"{image.repository}@{digest}"
    with pytest.raises(ArtifactError, match="none of its 1 signatures is of this image by that key"):
        verify_image(str(image), public(other_key))
    assert verify_image(str(image), public(other_key) + public(key)), "one of several keys is enough"
    assert verify_image(str(image), "") == str(image), "without a key, nothing is read"
    sign(image, key)
    sign(image, other_key)
    stored = ImageRegistry(image.repository).manifest(signature_tag(digest))
    assert stored is not None and len(stored[0]["layers"]) == 2, "each key signs once"
    assert verify_image(str(image), public(other_key)) and verify_image(str(image), public(key))


def test_a_moved_tag_and_a_copied_signature_are_refused(host: str) -> None:
    key = new_key()
    image = push(host, "signed, then replaced")
    digest = sign(image, key)
    pinned = verify_image(str(image), public(key))
    moved = push(host, "the replacement")
    with pytest.raises(ArtifactError, match="it has no signature"):
        verify_image(str(moved), public(key))
    assert verify_image(pinned, public(key)) == pinned, "the digest is what counts, not the tag"
    repository = ImageRegistry(image.repository)
    stored, replacement = repository.manifest(signature_tag(digest)), repository.manifest(TAG)
    assert stored is not None and replacement is not None
    repository.put_manifest(signature_tag(replacement[1]), stored[0])
    with pytest.raises(ArtifactError, match="none of its 1 signatures is of this image"):
        verify_image(str(moved), public(key))


def test_changed_payload_is_refused(registry: Registry) -> None:
    key = new_key()
    image = push(registry.host, "a")
    digest = sign(image, key)
    other = sign(push(registry.host, "b", "src-aaaaaaaaaaaa"), key)
    repository = ImageRegistry(image.repository)
    stored = repository.manifest(signature_tag(other))
    assert stored is not None
    layer = stored[0]["layers"][0]
    payload = repository.blob(layer["digest"], 1000).replace(other.encode(), digest.encode())
    changed = {**layer, "digest": repository.put_blob(payload)}
    repository.put_manifest(signature_tag(digest), {**stored[0], "layers": [changed]})
    with pytest.raises(ArtifactError, match="none of its 1 signatures"):
        verify_image(str(image), public(key))


def test_sbom_is_attested_once_and_read_with_its_key_only(host: str) -> None:
    image, key = push(host, "with an SBOM"), new_key()
    with pytest.raises(ArtifactError, match="has no attestation of type"):
        verify_attestation(str(image), public(key), SBOM_PREDICATE)
    digest = attest(image, key, SBOM, SBOM_PREDICATE)
    attest(image, key, SBOM, SBOM_PREDICATE)
    stored = ImageRegistry(image.repository).manifest(attestation_tag(digest))
    assert stored is not None and len(stored[0]["layers"]) == 1
    assert stored[0]["layers"][0]["annotations"]["predicateType"] == SBOM_PREDICATE
    assert verify_attestation(str(image), public(key), SBOM_PREDICATE) == SBOM
    for keys, kind in ((public(new_key()), SBOM_PREDICATE), (public(key), "https://spdx.dev/Document")):
        with pytest.raises(ArtifactError, match="has no attestation"):
            verify_attestation(str(image), keys, kind)
    with pytest.raises(ArtifactError, match="is not signed"):
        verify_image(str(image), public(key))


def test_signature_of_cosign_3_verifies(host: str, request: pytest.FixtureRequest) -> None:
    """On the stand-in by the referrers API, on distribution 2.8 by the tag that replaces it."""
    if "stand-in" in request.node.name:
        request.getfixturevalue("registry").referrers_api = True
    key = new_key()
    image = push(host, "signed by cosign 3", "src-333333333333")
    stored_manifest = ImageRegistry(image.repository).manifest("src-333333333333")
    assert stored_manifest is not None
    attach_bundle(image, key, stored_manifest[1], SIGNATURE_PREDICATE)
    assert verify_image(str(image), public(key)).endswith(stored_manifest[1])
    with pytest.raises(ArtifactError, match="none of its 1 signatures"):
        verify_image(str(image), public(new_key()))


@pytest.mark.parametrize("fault", ["another image", "another type"])
def test_bundle_about_something_else_is_no_signature(registry: Registry, fault: str) -> None:
    registry.referrers_api = True
    key = new_key()
    image = push(registry.host, "x")
    stored_manifest = ImageRegistry(image.repository).manifest(TAG)
    assert stored_manifest is not None
    digest = f"sha256:{'0' * 64}" if fault == "another image" else stored_manifest[1]
    attach_bundle(image, key, digest, SBOM_PREDICATE if fault == "another type" else SIGNATURE_PREDICATE)
    with pytest.raises(ArtifactError, match="is not signed"):
        verify_image(str(image), public(key))


def test_signature_that_cosign_made_verifies(registry: Registry) -> None:
    """A public image's signature, from Rekor's entry 929816779 (https://rekor.sigstore.dev, log index 929816779)."""
    repository = ImageRegistry(f"{registry.host}/freedomofpress/dangerzone/v1")
    digest = "sha256:7396780b5862cf8b37527854a2a2331e5c746b6a71aa1f424258c3bfaf3a1bd7"
    critical = {
        "identity": {"docker-reference": "ghcr.io/freedomofpress/dangerzone/v1"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    payload = json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()
    stored = repository.put_blob(payload)
    assert stored == "sha256:88b8a2ac5b829f47bd25a5a4d9c2ccb0fccff7f53a17477b6d9b5680436aa80f", "byte by byte"
    signature = "MEQCIAQScnT03MVfmxjYyW5qAmvQ6TSoukPuw0HmSVlMBwYEAiAzGb76cvDb4CHJ+H6tD00bW1Sh1CK6opaRmI2ist4p2A=="
    layer = {"mediaType": SIMPLE_SIGNING, "size": 252, "digest": stored}
    layer["annotations"] = {SIGNATURE_ANNOTATION: signature}  # type: ignore[assignment]
    manifest = {"schemaVersion": 2, "mediaType": image_registry.IMAGE_MANIFEST, "layers": [layer]}
    repository.put_manifest(signature_tag(digest), manifest)
    (claim,) = signatures(repository, digest)
    key = (
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE3CUlnwh825Z5wQAJV6TekEi6bCK2\n"
        "YvAg7A+aeerM5hvc4CCCJFBae5AjnsjGHv4V/3xzssck6e51W+b0jU4qVw==\n-----END PUBLIC KEY-----\n"
    )
    assert claim.holds(parse_public_keys(key, "the test")) and claim.digest == digest
    assert claim.predicate_type == SIGNATURE_PREDICATE
    assert not claim.holds(parse_public_keys(public(new_key()), "the test"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs OpenSSL's command")
def test_openssl_verifies_our_signature(registry: Registry, tmp_path: Path) -> None:
    key = new_key()
    image = push(registry.host, "y")
    digest = sign(image, key)
    repository = ImageRegistry(image.repository)
    stored = repository.manifest(signature_tag(digest))
    assert stored is not None
    (layer,) = stored[0]["layers"]
    (tmp_path / "payload").write_bytes(repository.blob(layer["digest"], 1000))
    (tmp_path / "signature").write_bytes(base64.b64decode(layer["annotations"][SIGNATURE_ANNOTATION]))
    (tmp_path / "cosign.pub").write_text(public(key))
    command = ["openssl", "dgst", "-sha256", "-verify", "cosign.pub", "-signature", "signature", "payload"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "Verified OK" in result.stdout, result.stderr


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_pull_secret_is_used_where_the_registry_asks_for_a_login(
    registry: Registry, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    image = push(registry.host, "z")
    sign(image, key)
    registry.login, registry.scheme = "robot:s3cret", scheme
    with pytest.raises(RegistryError, match=r"does not give access to .* \(401\): name the registry's pull secret in"):
        verify_image(str(image), public(key))
    login = base64.b64encode(registry.login.encode()).decode()
    file = tmp_path / ".dockerconfigjson"
    file.write_text(json.dumps({"auths": {"other.example": {"auth": "eDp5"}, registry.host: {"auth": login}}}))
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(file))
    assert verify_image(str(image), public(key))
    file.write_text(json.dumps({"auths": {registry.host: {"username": "robot", "password": "wrong"}}}))
    with pytest.raises(RegistryError) as refused:
        verify_image(str(image), public(key))
    assert "wrong" not in str(refused.value)
    file.write_text("no JSON")
    with pytest.raises(UsageError, match="does not hold credentials of registries"):
        verify_image(str(image), public(key))


@pytest.mark.parametrize(
    "server", ["https://{}/", "http://{}", "https://{}/v1/", "{}/v2/", "{}/mistere", "https://{}/mistere/"]
)
def test_pull_secret_may_name_its_registry_as_an_address(
    registry: Registry, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kubectl create secret docker-registry --docker-server=https://…/`: the kubelet compares host and path only
    (Kubernetes, pkg/credentialprovider/keyring.go)."""
    key = new_key()
    image = push(registry.host, "with a pull secret")
    sign(image, key)
    registry.login = "robot:s3cret"
    secret = {"auths": {server.format(registry.host): {"username": "robot", "password": "s3cret"}}}
    (tmp_path / ".dockerconfigjson").write_text(json.dumps(secret))
    monkeypatch.setenv(CREDENTIALS_VARIABLE, str(tmp_path / ".dockerconfigjson"))
    assert verify_image(str(image), public(key))
    secret = {"auths": {server.format(f"{registry.host}.example.org"): {"username": "robot", "password": "s3cret"}}}
    (tmp_path / ".dockerconfigjson").write_text(json.dumps(secret))
    with pytest.raises(RegistryError, match=r"\(401\)"):
        verify_image(str(image), public(key))


def test_login_is_not_sent_to_another_host_without_tls(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = push(registry.host, "w")
    with running(Registry()) as thief:
        registry.login, registry.realm = "robot:s3cret", f"{thief.url}/token"
        login = base64.b64encode(registry.login.encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
        with pytest.raises(RegistryError, match=r"\(401\)"):
            verify_image(str(image), public(new_key()))
        assert thief.received == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 100_000, "does not answer like a container registry"),
        (b"<html>", "does not answer like a container registry"),
        (b"{" + b" " * (5 * 2**20) + b"}", r"more than 4194304 bytes where a signature is expected"),
    ],
)
def test_answers_that_are_no_manifest_are_refused(registry: Registry, body: bytes, expected: str) -> None:
    image = push(registry.host, "v")
    registry.trouble = Reply(200, body)
    with pytest.raises(RegistryError, match=expected) as refused:
        verify_image(str(image), public(new_key()))
    assert str(refused.value).count("\n") == 0


def test_content_with_another_digest_is_refused(registry: Registry) -> None:
    key = new_key()
    image = push(registry.host, "u")
    digest = sign(image, key)
    pinned = verify_image(str(image), public(key))
    registry.replaced[digest] = b'{"schemaVersion": 2}'
    with pytest.raises(RegistryError, match="answers with other content than sha256:"):
        verify_image(pinned, public(key))
    registry.replaced.clear()
    (payload,) = (blob for blob, content in registry.blobs.items() if b"docker-manifest-digest" in content)
    registry.replaced[payload] = b"{}"
    with pytest.raises(RegistryError, match="answers with other content than sha256:"):
        verify_image(pinned, public(key))


def test_unusable_layers_are_no_signatures(registry: Registry) -> None:
    image = push(registry.host, "t")
    repository = ImageRegistry(image.repository)
    stored_manifest = repository.manifest(TAG)
    assert stored_manifest is not None
    blobs = [
        repository.put_blob(content) for content in (b"[]", b"{", b'{"critical": 1}', b'{"critical": {"image": []}}')
    ]
    layers = [
        {"mediaType": SIMPLE_SIGNING, "size": 1, "digest": blob, "annotations": annotations}
        for blob in blobs
        for annotations in ({SIGNATURE_ANNOTATION: "no base64!"}, {SIGNATURE_ANNOTATION: "AAAA"}, [], {})
    ]
    manifest = {"schemaVersion": 2, "mediaType": image_registry.IMAGE_MANIFEST, "layers": layers}
    repository.put_manifest(signature_tag(stored_manifest[1]), manifest)
    with pytest.raises(ArtifactError, match="none of its 16 signatures"):
        verify_image(str(image), public(new_key()))


def test_unreachable_and_absent_registries_are_reported_in_one_sentence() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    key = public(new_key())
    with pytest.raises(
        RegistryError, match=rf"the registry 127\.0\.0\.1:{port} cannot be reached .*check the name, the network"
    ):
        verify_image(f"127.0.0.1:{port}/mistere/predictor-python:{TAG}", key)
    with pytest.raises(UsageError, match="names no registry, so the image has no signature: push the images"):
        verify_image(f"localhost/mistere/predictor-python:{TAG}", key)


def test_image_that_is_not_in_its_registry_is_reported(registry: Registry) -> None:
    with pytest.raises(ArtifactError, match=r"there is no image .* in its registry: push it"):
        verify_image(f"{registry.host}/mistere/predictor-python:{TAG}", public(new_key()))
    registry.trouble = Reply(503, {})
    with pytest.raises(RegistryError, match="answered 503"):
        verify_image(f"{registry.host}/mistere/predictor-python:{TAG}", public(new_key()))


def test_deployment_uses_the_digest_that_was_signed(registry: Registry) -> None:
    image, key = push(registry.host, "s"), new_key()
    pointer = Deployment(service="mistere", bundle_location="s3://b/x", bundle_digest="x", model_version="1")
    config = DeploymentConfig(mode="standard", image_key=public(key))
    with pytest.raises(ArtifactError, match="is not signed by the key"):
        on_cluster(pointer, config, str(image))
    digest = sign(image, key)
    assert on_cluster(pointer, config, str(image)).image == f"{image}@{digest}"
    assert on_cluster(pointer, DeploymentConfig(mode="standard"), str(image)).image == str(image)


def test_command_signs_and_verifies_the_images_of_the_lock_file(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = ("pipeline", "train", "predictor")
    images = {role: push(host, f"command {role}", role=role) for role in roles}
    lock = tmp_path / "images.lock.yaml"
    lock.write_text("images:\n" + "".join(f"  {role}: {images[role]}\n" for role in roles))
    monkeypatch.setattr(sign_images, "IMAGES_LOCK", lock)
    for role in roles:
        (tmp_path / f"{role}.cdx.json").write_text(json.dumps(SBOM))
    key = new_key()
    (tmp_path / "key.pem").write_bytes(private(key, "hush"))
    (tmp_path / "cosign.pub").write_text(public(key))
    monkeypatch.setenv("COSIGN_PASSWORD", "hush")
    command = ["--key", str(tmp_path / "key.pem"), "--sbom", str(tmp_path)]
    assert sign_images.main(["--verify", str(tmp_path / "cosign.pub"), "--role", "train"]) == 1
    assert capsys.readouterr().err.startswith("sign_images: ")
    assert sign_images.main(command) == 0
    assert capsys.readouterr().out.count("its SBOM attested") == 3
    assert sign_images.main(["--verify", str(tmp_path / "cosign.pub")]) == 0
    assert capsys.readouterr().out.count("is signed, and its SBOM lists 1 components") == 3
    (tmp_path / "train.cdx.json").unlink()
    assert sign_images.main(command) == 2
    assert "there is no SBOM at" in capsys.readouterr().err
    monkeypatch.delenv("COSIGN_PASSWORD")
    assert sign_images.main(command) == 2
    assert "its password in COSIGN_PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "is encrypted by cosign: sign with `cosign sign --key"),
        ("no key", "is not a private key that can sign images"),
        ("", "is not a private key that can sign images"),
    ],
)
def test_command_refuses_keys_that_it_cannot_use(
    content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(content)
    assert sign_images.main(["--key", str(tmp_path / "key")]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert sign_images.main(["--key", str(tmp_path / "nothing")]) == 2
    assert "there is no key at" in capsys.readouterr().err
