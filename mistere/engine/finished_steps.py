"""The records of finished steps, by their key (``steps/<stage>/<key>.json``)."""

from __future__ import annotations

from collections.abc import Mapping

from mistere.artifacts.io import (
    ABSENT,
    MANIFEST,
    artifact_key,
    open_artifact,
    parse_manifest,
    replacement,
)
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.manifests import MANIFESTS
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError
from mistere.common.progress import Progress
from mistere.engine.stage import Stage


class _FinishedStep(SealedRecord):
    """The outputs and values of a finished step."""

    outputs: dict[str, str]
    values: dict[str, str]


def _record_key(stage: Stage, key: str) -> str:
    return f"steps/{stage.name}/{key}.json"


def remember(
    stage: Stage, store: ObjectStore, key: str, manifests: Mapping[str, Manifest], values: Mapping[str, str]
) -> None:
    """Record the outputs and values of a finished step under its key."""
    outputs = {name: manifest.digest for name, manifest in manifests.items()}
    store.write(_record_key(stage, key), _FinishedStep(outputs=outputs, values=dict(values)).sealed())


def find_finished(
    stage: Stage, store: ObjectStore, key: str, progress: Progress
) -> tuple[dict[str, Manifest], dict[str, str]] | None:
    """The outputs recorded under a key; None if one is missing or damaged."""
    try:
        data, _ = store.read(_record_key(stage, key))
    except MissingObjectError:
        return None
    record = _FinishedStep.unsealed(data)
    if record is None:
        progress.note(f"{store.location(_record_key(stage, key))} is damaged: the step runs again.")
        return None
    try:
        manifests = {name: _check(store, kind, record.outputs.get(name, "")) for name, kind in stage.outputs.items()}
        for manifest in manifests.values():
            for kind, digest in manifest.refers_to():
                _check(store, MANIFESTS[kind], digest)
        return manifests, dict(record.values)
    except ArtifactError as error:
        progress.note(f"{error.finding}. It is computed again.")
        return None


def _check(store: ObjectStore, cls: type[Manifest], digest: str) -> Manifest:
    """The manifest of a finished artifact. A remote artifact is not downloaded; only the presence of its files is checked."""
    if isinstance(store, LocalStore):
        return open_artifact(store, cls, digest).manifest
    folder = artifact_key(cls.__name__, digest)
    try:
        text, _ = store.read(f"{folder}/{MANIFEST}")
    except MissingObjectError as error:
        raise ArtifactError(
            f"{cls.__name__} {digest[:12]} is not in the store ({store.location(folder)})", ABSENT
        ) from error
    manifest = parse_manifest(text, cls, f"{cls.__name__} {digest[:12]}", store.location(f"{folder}/{MANIFEST}"))
    stored = set(store.keys(folder))
    for name in manifest.files:
        if f"{folder}/{name}" not in stored:
            raise ArtifactError(
                f"{cls.__name__} {digest[:12]} is incomplete: {store.location(folder)}/{name} is missing",
                replacement(store.location(folder)),
            )
    return manifest
