"""Publishing and opening artifacts.

An artifact is stored at ``artifacts/<kind>/<digest>/`` with its ``manifest.json`` written last. Readers open it through
:func:`open_artifact`, which checks the files' sizes at every open, and their full hash once per machine and again if a
file's size or modification time has changed.
"""

from __future__ import annotations

import math
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from mistere.artifacts.manifest import FileEntry, Manifest, canonical_digest
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore, files_below
from mistere.common.digests.files import digest_of, digest_once
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.names import path_below, problem, shown
from mistere.common.parsing.documents import load_json
from mistere.common.paths import cache_directory

M = TypeVar("M", bound=Manifest)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ArtifactHandle(Generic[M]):
    """A verified artifact: its manifest and the folder with its files."""

    path: Path
    manifest: M

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ArtifactError: the name leads out of the folder.
        """
        return path_below(self.path, name, f"the artifact at {self.path}", ArtifactError, replacement(self.path))


def artifact_key(kind: str, digest: str) -> str:
    """Key of an artifact's folder in the store.

    Raises:
        ArtifactError: the digest, which may come from a damaged record, is no single name.
    """
    if "/" in digest or problem(digest):
        raise ArtifactError(f"{shown(digest)} is not the digest of a {kind}", "replace the record that names it")
    return f"artifacts/{kind}/{digest}"


def with_files(manifest: M, directory: Path) -> M:
    """The manifest, completed with the digests of a folder's files and its own digest."""
    files = {
        name: FileEntry(sha256=digest_of(directory / name), size=(directory / name).stat().st_size)
        for name in _files_below(directory)
    }
    manifest = manifest.model_copy(update={"files": files})
    return manifest.model_copy(update={"digest": manifest.content_digest()})


def publish(store: ObjectStore, manifest: M, directory: Path) -> M:
    """Write an artifact to the store: files first, then ``manifest.json``.

    A local store gets the folder by a rename. It replaces an incomplete or damaged artifact with the same digest and keeps
    an intact one. In S3 the manifest is the last object written.

    Args:
        store: the object store.
        manifest: fields filled in by the stage and the engine; files and digest are added here.
        directory: the artifact's files; a local store moves it away.

    Returns:
        The manifest as published.

    Raises:
        MistereError: a field holds NaN or infinity.
    """
    _refuse_non_numbers(manifest.model_dump(), type(manifest).__name__)
    manifest = with_files(manifest, directory)
    key = artifact_key(manifest.kind, manifest.digest)
    text = manifest.model_dump_json(indent=1)
    if not isinstance(store, LocalStore):
        for name in manifest.files:
            store.upload(directory / name, f"{key}/{name}")
        store.write(f"{key}/{MANIFEST}", text.encode())
        return manifest
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    target = store.local_path(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    shutil.move(directory, aside)
    try:
        _move_into_place(aside, target, type(manifest))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _move_into_place(aside: Path, target: Path, cls: type[Manifest]) -> None:
    """Rename a folder to its target. An intact target stays, since others may be reading it; only its manifest is replaced."""
    if target.exists() and not _is_intact(target, cls):
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        target.rename(old)
        shutil.rmtree(old)
    try:
        aside.rename(target)
    except OSError:
        if not _is_intact(target, cls):
            raise
        (aside / MANIFEST).replace(target / MANIFEST)


def _is_intact(path: Path, cls: type[Manifest]) -> bool:
    try:
        verify_directory(path, cls)
    except ArtifactError:
        return False
    return True


def _refuse_non_numbers(value: object, where: str) -> None:
    """Refuse NaN and infinity: JSON has neither, and as null they could not be read back."""
    if isinstance(value, float) and not math.isfinite(value):
        raise MistereError(f"{where} is {value}, which cannot be published; a lower learning rate may keep it finite.")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_numbers(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_non_numbers(item, f"{where}.{index}")


ABSENT: Final = "check that the store is the right one, or run the pipeline again to make it"
"""The remedy for an artifact that is not in the store."""


def replacement(location: object) -> str:
    """The remedy for a damaged or incomplete artifact at a location, for error messages."""
    return f"delete {location} and run the pipeline again, or copy it again from where it is intact"


def parse_manifest(text: str | bytes, cls: type[M], name: str, where: object) -> M:
    """Read a manifest and check it against its own digest.

    The digest covers the JSON as it was written, so that manifests of earlier releases keep their digests although their
    fields are converted.

    Args:
        text: the content of ``manifest.json``.
        cls: the expected kind.
        name: names the artifact in messages.
        where: names the file in messages.

    Raises:
        ArtifactError: the text is not a manifest of this kind, of a later release, or does not match its digest.
    """
    damaged = f"{name} is damaged: {where} does not hold a valid manifest"
    remedy = replacement(str(where).removesuffix(f"/{MANIFEST}"))
    try:
        content = load_json(text)
    except ValueError as error:
        raise ArtifactError(damaged, remedy) from error
    if not isinstance(content, dict):
        raise ArtifactError(damaged, remedy)
    if content.get("kind", cls.__name__) != cls.__name__:
        raise ArtifactError(
            f"{where} is a {content['kind']}, not a {cls.__name__}", f"name the location of a {cls.__name__}"
        )
    version, newest = content.get("schema_version"), cls.model_fields["schema_version"].default
    if isinstance(version, int) and version > newest:
        raise ArtifactError(
            f"{name} has schema version {version}, this release of mistere reads versions up to {newest}: upgrade it."
        )
    try:
        manifest = cls.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(damaged, remedy) from error
    if manifest.digest != canonical_digest({k: v for k, v in content.items() if k not in cls.outside_digest}):
        raise ArtifactError(f"{name} is damaged: {where} does not match its own digest {manifest.digest[:12]}", remedy)
    return manifest


def read_manifest(store: ObjectStore, cls: type[M], digest: str) -> M:
    """Read an artifact's manifest without its files.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    key = f"{artifact_key(cls.__name__, digest)}/{MANIFEST}"
    name = f"{cls.__name__} {digest[:12]}"
    try:
        text = store.read(key)[0]
    except MissingObjectError as error:
        raise ArtifactError(f"{name} is not in the store ({store.location(key)})", ABSENT) from error
    manifest = parse_manifest(text, cls, name, store.location(key))
    if manifest.digest != digest:
        raise ArtifactError(
            f"{name} is damaged: {store.location(key)} does not match its digest",
            replacement(store.location(artifact_key(cls.__name__, digest))),
        )
    return manifest


def _read_manifest(path: Path, cls: type[M], name: str) -> M:
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{name} is incomplete: {path / MANIFEST} is missing", replacement(path)) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{name} is damaged: {path / MANIFEST} does not hold a valid manifest", replacement(path)
        ) from error
    return parse_manifest(text, cls, name, path / MANIFEST)


def _files_below(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in sorted(files_below(directory)) if path.is_file()]


def verify_directory(path: Path, cls: type[M], name: str = "", stored: str = "") -> ArtifactHandle[M]:
    """Check a folder against its manifest and open it.

    Args:
        path: the artifact's folder.
        cls: the expected kind.
        name: names the artifact in messages.
        stored: the artifact's location in the store if the folder is a copy of it; messages say to replace that one.

    Raises:
        ArtifactError: a file is missing or damaged; the message names it, the expected and the actual value.
    """
    name = name or f"{cls.__name__} at {path}"
    manifest = _read_manifest(path, cls, name)
    remedy = replacement(stored or path)
    for extra in sorted(set(_files_below(path)) - set(manifest.files) - {MANIFEST} - cls.foreign_files):
        raise ArtifactError(f"{name} is damaged: {path / extra} is not in its manifest", remedy)
    for file, entry in manifest.files.items():
        location = path_below(path, file, f"{name}: {path / MANIFEST}", ArtifactError, remedy)
        try:
            if not location.is_file():
                raise FileNotFoundError
            size = location.stat().st_size
            digest = digest_once(location) if size == entry.size else ""
        except FileNotFoundError as error:  # perhaps another process deletes the artifact
            raise ArtifactError(f"{name} is damaged: {location} is missing", remedy) from error
        if size != entry.size:
            raise ArtifactError(
                f"{name} is damaged: {location} has {size} bytes, its manifest says {entry.size}", remedy
            )
        if digest != entry.sha256:
            raise ArtifactError(
                f"{name} is damaged: {location} has SHA-256 {digest[:12]}…, its manifest says {entry.sha256[:12]}…",
                remedy,
            )
    return ArtifactHandle(path, manifest)


def open_artifact(store: ObjectStore, cls: type[M], digest: str) -> ArtifactHandle[M]:
    """Open and verify an artifact by its digest. A remote artifact is downloaded into the cache once.

    Raises:
        ArtifactError: it is missing, incomplete, damaged or has another digest.
    """
    key = artifact_key(cls.__name__, digest)
    name = f"{cls.__name__} {digest[:12]}"
    path = store.local_path(key)
    if path is None:
        path = cache_directory("artifacts", cls.__name__, digest)
        try:
            return verify_directory(path, cls, name)
        except ArtifactError:
            _fetch(store, key, path, cls, name)
    if not path.is_dir():
        raise ArtifactError(f"{name} is not in the store ({store.location(key)})", ABSENT)
    opened = verify_directory(path, cls, name, store.location(key))
    if opened.manifest.digest != digest:
        raise ArtifactError(
            f"{path} holds {opened.manifest.digest[:12]}, expected {digest[:12]}", replacement(store.location(key))
        )
    return opened


def _fetch(store: ObjectStore, key: str, path: Path, cls: type[M], name: str) -> None:
    try:
        text, _ = store.read(f"{key}/{MANIFEST}")
    except MissingObjectError as error:
        raise ArtifactError(f"{name} is not in the store ({store.location(key)})", ABSENT) from error
    manifest = parse_manifest(text, cls, name, store.location(f"{key}/{MANIFEST}"))
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        for file in manifest.files:
            store.download(f"{key}/{file}", path_below(partial, file, name, ArtifactError))
        (partial / MANIFEST).write_bytes(text)
        _move_into_place(partial, path, cls)  # another pod that shares the cache may have been faster
    except MissingObjectError as error:
        raise ArtifactError(f"{name} is incomplete: {error}", replacement(store.location(key))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
