"""Signatures and attestations beside an image in its registry, as cosign writes them.

Three forms are read: signatures under the tag ``sha256-DIGEST.sig`` (simple signing), attestations under ``sha256-DIGEST.att``
(DSSE envelopes with an in-toto statement), and the bundles of cosign 3, which refer to the image. All are verified by key;
whether a transparency log has them is not checked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import ParseError, load_json
from mistere.common.public_keys import parse_public_keys
from mistere.kubernetes.image_registry import ImageRegistry
from mistere.kubernetes.images import ImageReference

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

AFFECTS_RESULTS = False

KEY_SETTING: Final = "deployment.image_key"
SIGNATURE_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"
STATEMENT: Final = "application/vnd.in-toto+json"
SIGNATURE_TYPE: Final = "cosign container image signature"
SIGNATURE_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
"""Type of the statement that is an image's signature in a bundle of cosign 3."""
SBOM_PREDICATE: Final = "https://cyclonedx.org/bom"

_BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
_MAX_ENTRIES: Final = 100
"""Signatures, attestations and their subjects that are read; more are ignored."""
_SIGNATURE_BYTES: Final = 2**16
_ATTESTATION_BYTES: Final = 64 * 2**20
"""Size limit of an attestation: an SBOM of an image with thousands of files has some MiB."""


@dataclass(frozen=True)
class Claim:
    """Signed content about an image.

    Attributes:
        signed: the bytes that the signature covers.
        signature: DER.
        digest: digest of the image that the content is about.
        predicate_type: type of its statement.
        predicate: the statement about the image.
    """

    signed: bytes
    signature: bytes
    digest: str
    predicate_type: str
    predicate: Any

    def holds(self, keys: Sequence[EllipticCurvePublicKey]) -> bool:
        """Whether one of the keys made the signature."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

        for key in keys:
            # cosign hashes with SHA-256 for every key; its bundles use the hash of the key's size.
            for algorithm in (SHA256(), {384: SHA384(), 521: SHA512()}.get(key.curve.key_size)):
                if algorithm is None:
                    continue
                try:
                    key.verify(self.signature, self.signed, ECDSA(algorithm))
                    return True
                except InvalidSignature:
                    pass
        return False


def verify_image(image: str, keys: str) -> str:
    """Verify the signature of an image, and pin the image to the digest that was signed.

    Args:
        image: the image's reference.
        keys: ``deployment.image_key``: public keys as PEM text; empty for no check.

    Returns:
        The reference with the digest, so that a tag that is moved later deploys nothing else; without keys, the reference as it is.

    Raises:
        ArtifactError: none of the keys signed this image.
        RegistryError: the registry cannot be reached or refuses.
        UsageError: the image is on no registry, or the keys are not valid.
    """
    if not keys:
        return image
    trusted = parse_public_keys(keys, KEY_SETTING)
    reference = ImageReference.parse(image, "the image to deploy")
    registry, digest = locate(reference)
    number = 0
    for claim in signatures(registry, digest):
        number += 1
        if claim.predicate_type == SIGNATURE_PREDICATE and claim.digest == digest and claim.holds(trusted):
            return str(replace(reference, digest=digest))
    found = f"none of its {number} signatures is of this image by that key" if number else "it has no signature"
    raise ArtifactError(
        f"{image} ({digest[:19]}) is not signed by the key of {KEY_SETTING}: {found}; sign it (`cosign sign --key`), or name the "
        "public key of who signed it."
    )


def check_registry(image: str, keys: str) -> None:
    """Refuse a run before it starts if its image cannot have a signature, because it is on no registry.

    Raises:
        UsageError: signatures are required, and the image was only built locally.
    """
    if keys:
        ImageRegistry(ImageReference.parse(image, "the image to deploy").repository)


def verify_attestation(image: str, keys: str, predicate_type: str) -> Any:
    """The predicate of a signed attestation of an image, such as its SBOM.

    Args:
        image: the image's reference.
        keys: public keys as PEM text.
        predicate_type: type of the attestation.

    Raises:
        ArtifactError: the image has no such attestation by one of the keys.
        RegistryError: the registry cannot be reached or refuses.
    """
    trusted = parse_public_keys(keys, "the key")
    registry, digest = locate(ImageReference.parse(image, "the image"))
    for claim in attestations(registry, digest):
        if claim.predicate_type == predicate_type and claim.digest == digest and claim.holds(trusted):
            return claim.predicate
    raise ArtifactError(f"{image} ({digest[:19]}) has no attestation of type {predicate_type} by that key: attest it.")


def locate(reference: ImageReference) -> tuple[ImageRegistry, str]:
    """The registry of an image and the digest of its manifest.

    Raises:
        ArtifactError: the registry does not have the image.
        RegistryError: the registry cannot be reached or refuses.
        UsageError: the image is on no registry.
    """
    registry = ImageRegistry(reference.repository)
    tag = str(replace(reference, digest="")).removeprefix(f"{reference.repository}:")
    manifest = registry.manifest(reference.digest or tag)
    if manifest is None:
        raise ArtifactError(f"there is no image {reference} in its registry: push it.")
    return registry, manifest[1]


def signatures(registry: ImageRegistry, digest: str) -> Iterator[Claim]:
    """The signatures of an image, not yet verified."""
    for layer in _layers(registry, signature_tag(digest)):
        if layer.get("mediaType") == SIMPLE_SIGNING:
            payload = registry.blob(str(layer.get("digest")), _SIGNATURE_BYTES)
            yield _simple(payload, str(_annotations(layer).get(SIGNATURE_ANNOTATION, "")))
    yield from _bundles(registry, digest)


def attestations(registry: ImageRegistry, digest: str) -> Iterator[Claim]:
    """The attestations of an image, not yet verified."""
    for layer in _layers(registry, attestation_tag(digest)):
        if layer.get("mediaType") == ENVELOPE:
            yield from envelope_claims(_json(registry.blob(str(layer.get("digest")), _ATTESTATION_BYTES)))
    yield from _bundles(registry, digest)


def signature_tag(digest: str) -> str:
    """The tag of an image's signatures."""
    return f"{digest.replace(':', '-')}.sig"


def attestation_tag(digest: str) -> str:
    """The tag of an image's attestations."""
    return f"{digest.replace(':', '-')}.att"


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature covers (https://github.com/secure-systems-lab/dsse, protocol.md)."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type.encode()), payload_type.encode(), len(payload), payload)


def envelope_claims(envelope: Mapping[str, Any]) -> Iterator[Claim]:
    """The claims of a DSSE envelope: one for each signature and image."""
    kind, payload = str(envelope.get("payloadType", "")), _decoded(envelope.get("payload"))
    if kind != STATEMENT:
        return
    statement = _json(payload)
    for signature in _dictionaries(envelope.get("signatures")):
        for subject in _dictionaries(statement.get("subject")):
            digests = subject.get("digest")
            yield Claim(
                signed=pre_authentication(kind, payload),
                signature=_decoded(signature.get("sig")),
                digest=f"sha256:{digests.get('sha256', '')}" if isinstance(digests, dict) else "",
                predicate_type=str(statement.get("predicateType", "")),
                predicate=statement.get("predicate"),
            )


def _simple(payload: bytes, signature: str) -> Claim:
    critical = _json(payload).get("critical")
    critical = critical if isinstance(critical, dict) else {}
    image = critical.get("image")
    return Claim(
        signed=payload,
        signature=_decoded(signature),
        digest=str(image.get("docker-manifest-digest", "")) if isinstance(image, dict) else "",
        predicate_type=SIGNATURE_PREDICATE if critical.get("type") == SIGNATURE_TYPE else "",
        predicate=None,
    )


def _bundles(registry: ImageRegistry, digest: str) -> Iterator[Claim]:
    """Claims in the bundles of cosign 3: manifests whose subject is the image, with the bundle as their layer."""
    for descriptor in registry.referrers(digest)[:_MAX_ENTRIES]:
        if not str(descriptor.get("artifactType", "")).startswith(_BUNDLE):
            continue
        manifest = registry.manifest(str(descriptor.get("digest")))
        for layer in _dictionaries(manifest[0].get("layers") if manifest else None)[:1]:
            if str(layer.get("mediaType", "")).startswith(_BUNDLE):
                bundle = _json(registry.blob(str(layer.get("digest")), _ATTESTATION_BYTES))
                envelope = bundle.get("dsseEnvelope")
                yield from envelope_claims(envelope if isinstance(envelope, dict) else {})


def _layers(registry: ImageRegistry, tag: str) -> list[dict[str, Any]]:
    manifest = registry.manifest(tag)
    return _dictionaries(manifest[0].get("layers") if manifest else None)


def _annotations(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = layer.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def _dictionaries(value: object) -> list[dict[str, Any]]:
    return [one for one in value[:_MAX_ENTRIES] if isinstance(one, dict)] if isinstance(value, list) else []


def _decoded(text: object) -> bytes:
    """Content in base64; empty if it is none, which no signature covers."""
    try:
        return base64.b64decode(str(text or ""), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _json(content: bytes) -> dict[str, Any]:
    """An object in JSON; empty if it is none, which no image's signature is."""
    try:
        value = load_json(content)
    except ParseError:
        return {}
    return value if isinstance(value, dict) else {}
