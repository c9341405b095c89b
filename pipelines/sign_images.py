"""Sign the images of ``images.lock.yaml`` with a key and attest their SBOMs, or verify both; in the form that cosign uses.

``python -m pipelines.sign_images --key KEY`` signs pushed images where cosign is not at hand; ``--verify PUBLIC_KEY`` verifies
what this command or cosign signed. Signatures are stored beside the image in its registry and in no transparency log.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.common.paths import PROJECT_ROOT
from mistere.common.processes.standard_streams import guard_streams
from mistere.common.public_keys import pem, read_public_keys
from mistere.kubernetes.image_registry import IMAGE_MANIFEST, ImageRegistry
from mistere.kubernetes.image_signatures import (
    ENVELOPE,
    SBOM_PREDICATE,
    SIGNATURE_ANNOTATION,
    SIGNATURE_PREDICATE,
    SIGNATURE_TYPE,
    SIMPLE_SIGNING,
    STATEMENT,
    Claim,
    attestation_tag,
    attestations,
    locate,
    pre_authentication,
    signature_tag,
    signatures,
    verify_attestation,
    verify_image,
)
from mistere.kubernetes.images import IMAGES_LOCK, ROLES, ImageReference, read_images

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PASSWORD_VARIABLE: Final = "COSIGN_PASSWORD"  # noqa: S105  (the name of a variable)
"""Password of the private key, by the name that cosign reads it from."""
SBOM_FOLDER: Final = PROJECT_ROOT / "output" / "sbom"

_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_NO_TIME: Final = "0001-01-01T00:00:00Z"


def sign(image: ImageReference, key: EllipticCurvePrivateKey) -> str:
    """Sign an image; an image that this key signed already stays as it is.

    Args:
        image: an image on a registry.
        key: the private key.

    Returns:
        The digest of the image.

    Raises:
        MistereError: the image is not on its registry, or the registry refuses.
    """
    registry, digest = locate(image)
    if _is_claimed(
        signatures(registry, digest), key, digest, lambda claim: claim.predicate_type == SIGNATURE_PREDICATE
    ):
        return digest
    critical = {
        "identity": {"docker-reference": image.repository},
        "image": {"docker-manifest-digest": digest},
        "type": SIGNATURE_TYPE,
    }
    payload = json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()
    annotations = {SIGNATURE_ANNOTATION: _signature(key, payload)}
    _add_layer(registry, signature_tag(digest), SIMPLE_SIGNING, payload, annotations)
    return digest


def attest(image: ImageReference, key: EllipticCurvePrivateKey, predicate: Any, predicate_type: str) -> str:
    """Attach a signed statement to an image, such as its SBOM; the same statement is attached once.

    Args:
        image: an image on a registry.
        key: the private key.
        predicate: the statement, as JSON.
        predicate_type: its type, a URI.

    Returns:
        The digest of the image.

    Raises:
        MistereError: the image is not on its registry, or the registry refuses.
    """
    registry, digest = locate(image)
    if _is_claimed(
        attestations(registry, digest),
        key,
        digest,
        lambda claim: claim.predicate_type == predicate_type and claim.predicate == predicate,
    ):
        return digest
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": predicate_type,
        "subject": [{"name": image.repository, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicate": predicate,
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    envelope = {
        "payloadType": STATEMENT,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": _signature(key, pre_authentication(STATEMENT, payload))}],
    }
    annotations = {SIGNATURE_ANNOTATION: "", "predicateType": predicate_type}
    _add_layer(registry, attestation_tag(digest), ENVELOPE, json.dumps(envelope).encode(), annotations)
    return digest


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a private key: PEM, elliptic curve, with its password in ``COSIGN_PASSWORD`` if it has one.

    Raises:
        UsageError: it is none, or has another password.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--key: there is no key at {path}: name the file of the private key.") from error
    if b"ENCRYPTED SIGSTORE PRIVATE KEY" in content or b"ENCRYPTED COSIGN PRIVATE KEY" in content:
        raise UsageError(f"--key: {path} is encrypted by cosign: sign with `cosign sign --key {path}` instead.")
    password = os.environ.get(PASSWORD_VARIABLE) or None
    encrypted = b"ENCRYPTED PRIVATE KEY" in content
    try:
        key = load_pem_private_key(content, password.encode() if password and encrypted else None)
        if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"--key: {path} is not a private key that can sign images: it must be PEM on the curve P-256, and its password in "
            f"{PASSWORD_VARIABLE} if it has one."
        ) from error
    return key


def _is_claimed(claims: Any, key: EllipticCurvePrivateKey, digest: str, matches: Callable[[Claim], bool]) -> bool:
    return any(claim.digest == digest and matches(claim) and claim.holds([key.public_key()]) for claim in claims)


def _signature(key: EllipticCurvePrivateKey, content: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    return base64.b64encode(key.sign(content, ECDSA(SHA256()))).decode()


def _add_layer(registry: ImageRegistry, tag: str, media_type: str, content: bytes, annotations: dict[str, str]) -> None:
    """Add a layer to the manifest under a tag, beside the layers of other keys."""
    known = registry.manifest(tag)
    layer = {
        "mediaType": media_type,
        "size": len(content),
        "digest": registry.put_blob(content),
        "annotations": annotations,
    }
    layers = [*(known[0].get("layers") or [] if known else []), layer]
    config = json.dumps(
        {
            "architecture": "",
            "created": _NO_TIME,
            "history": [{"created": _NO_TIME}] * len(layers),
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
            "config": {},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": {"mediaType": _CONFIG, "size": len(config), "digest": registry.put_blob(config)},
        "layers": layers,
    }
    registry.put_manifest(tag, manifest)


def _sign_roles(roles: Sequence[str], key: EllipticCurvePrivateKey, folder: Path) -> None:
    images = read_images(IMAGES_LOCK)
    for role in roles:
        file = folder / f"{role}.cdx.json"
        try:
            sbom = read_json(file)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--sbom: there is no SBOM at {file}: `make images` writes it, or name the folder that has it."
            ) from error
        digest = sign(images[role], key)
        attest(images[role], key, sbom, SBOM_PREDICATE)
        print(f"{role}: signed {images[role].repository}@{digest}, and its SBOM attested")


def _verify_roles(roles: Sequence[str], keys: str) -> None:
    images = read_images(IMAGES_LOCK)
    for role in roles:
        verified = verify_image(str(images[role]), keys)
        sbom = verify_attestation(verified, keys, SBOM_PREDICATE)
        components = sbom.get("components") if isinstance(sbom, dict) else None
        print(f"{role}: {verified} is signed, and its SBOM lists {len(components or [])} components")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.sign_images", allow_abbrev=False)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--key", type=Path, help=f"private key (PEM, P-256); its password is read from {PASSWORD_VARIABLE}"
    )
    action.add_argument("--verify", type=Path, metavar="PUBLIC_KEY", help="only verify, with this public key")
    parser.add_argument("--role", action="append", choices=ROLES, help="only this image")
    parser.add_argument("--sbom", type=Path, default=SBOM_FOLDER, help="folder of the SBOMs (default: output/sbom)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Sign and attest, or verify; returns the exit code."""
    guard_streams()
    options = _options(arguments)
    roles = options.role or ROLES
    try:
        if options.verify:
            keys = read_public_keys(str(options.verify), "--verify")
            _verify_roles(roles, "".join(pem(key).decode() for key in keys))
        else:
            _sign_roles(roles, read_private_key(options.key), options.sbom)
    except MistereError as error:
        print(f"sign_images: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
