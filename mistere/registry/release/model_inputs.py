"""What requests to a model hold, and whether another model understands the same requests.

A release or a shadow gets the requests that clients send to the deployed model. One that reads vectors only refuses texts and recordings, and
one without a modality cannot use what clients send of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.modalities import SPEECH
from mistere.serving.deployment import find_deployment


def described_inputs(bundle: ModelBundle) -> str:
    """What a model reads: ``speech and text``, or ``vectors of speech and text``."""
    return _listed(_read_raw(bundle)) if bundle.encoders else f"vectors of {_listed(bundle.vectors)}"


def lacking_inputs(deployed: ModelBundle, other: ModelBundle) -> str:
    """Why a model does not understand the requests of another one's clients, as the end of a sentence that begins with its name.

    Args:
        deployed: the model whose clients send the requests.
        other: the model that gets them.

    Returns:
        For example ``takes vectors of text, and the deployed version reads text``; empty if it understands them. A model with encoders also
        takes the vectors that these make.
    """
    reads = f"and the deployed version reads {described_inputs(deployed)}"
    if deployed.encoders:
        if not other.encoders:
            return f"takes {described_inputs(other)}, {reads}"
        lost = _read_raw(deployed) - _read_raw(other)
        return f"does not read {_listed(lost)}, {reads}" if lost else ""
    known = _vector_digests(other)
    if lost := deployed.vectors.keys() - known.keys():
        return f"does not read {_listed(lost)}, {reads}"
    changed = {
        name
        for name, made in deployed.vectors.items()
        if (made.digest or other.encoders) and made.digest != known[name]
    }
    return f"reads {described_inputs(other)} by other encoders of {_listed(changed)}, {reads}" if changed else ""


def require_inputs_of_deployed(
    store: ObjectStore, service: str, bundle: ModelBundle, version: str, remedy: str, *, may_read_less: bool = False
) -> None:
    """Check that a version understands the requests that clients send to a service now.

    Args:
        store: the object store.
        service: the service; nothing is checked if it is not deployed.
        bundle: of the version.
        version: the version, for the message.
        remedy: the end of the message: how to go on all the same.
        may_read_less: accept a modality less, where a profile says which ones a model reads: it still answers every request.

    Raises:
        UsageError: it does not.
    """
    with suppress(ArtifactError):  # of a pointer or bundle that cannot be read: replacing it is a repair
        front = find_deployment(store, service)
        if front is None:
            return
        deployed = read_manifest(store, ModelBundle, front.bundle_digest)
        lacking = lacking_inputs(deployed, bundle)
        if not lacking or (may_read_less and deployed.encoders and bundle.encoders):
            return
        raise UsageError(
            f"version {version} {lacking}: it would refuse or ignore what clients of {service} send; {remedy}."
        )


def _read_raw(bundle: ModelBundle) -> set[str]:
    """The modalities that a model with encoders reads; transcribed speech is one of them."""
    return set(bundle.encoders) | ({SPEECH} if bundle.transcription is not None else set())


def _vector_digests(bundle: ModelBundle) -> dict[str, str]:
    """By modality the digest of what makes the vectors; empty text if it is unknown."""
    made = {name: encoder.identity for name, encoder in bundle.encoders.items()} or bundle.vectors
    return {name: identity.digest for name, identity in made.items()}


def _listed(names: Iterable[str]) -> str:
    *first, last = sorted(names) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last
