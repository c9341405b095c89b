"""Digests of the files behind an encoder's source, for the step's key: a name alone does not identify the weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.common.digests.files import digest_once
from mistere.common.errors import UsageError
from mistere.model.encoders.converters import converters
from mistere.model.encoders.lookup.hub import hub_commit

_SAFETENSORS = "model.safetensors"


def package_folder(package: str) -> Path | None:
    """The ``model`` folder of an installed package that holds an encoder; None if it is not installed."""
    try:
        spec = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def package_weights(folder: Path) -> Path | None:
    """The weights file of a package's ``model`` folder: safetensors, else a file that a converter reads; None if neither."""
    names = [_SAFETENSORS, *converters()]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def model_folder(uri: str) -> tuple[ObjectStore, str]:
    """The store and the key of a model folder ``s3://BUCKET/PREFIX``.

    Raises:
        UsageError: the URI names no folder in the bucket.
    """
    parent, _, leaf = uri.rstrip("/").rpartition("/")
    if parent in {"s3:/", "s3:"} or not leaf:
        raise UsageError(f"encoder {uri}: name the model's folder in the bucket: s3://BUCKET/PREFIX.")
    return open_store(parent), leaf


class HasSource(Protocol):
    """The settings of an encoder, or of another pretrained model."""

    @property
    def source(self) -> str: ...


def source_state(settings: HasSource, _context: Any = None) -> Mapping[str, str]:
    """Digests of the files of ``package:``, ``path:`` and ``s3:`` sources, and the commit of a hub id without a revision.

    A missing source has an empty state; the stage raises the error.
    """
    kind, _, rest = settings.source.partition(":")
    if kind in {"random", "measured"}:
        return {}
    if kind == "s3":
        store, leaf = model_folder(settings.source)
        return {f"encoder/{key}": version for key, version in store.versions(leaf)}
    if kind == "package":
        package = package_folder(rest)
        weights = package_weights(package) if package else None
        return {"encoder": digest_once(weights)} if weights else {}
    folder = Path(rest if kind == "path" else settings.source).expanduser()
    if folder.is_dir():
        files = sorted(file for file in folder.iterdir() if file.is_file())
        return {f"encoder/{file.name}": digest_once(file) for file in files}
    name, _, revision = (rest if kind == "hub" else settings.source).partition("@")
    return {} if revision or kind == "path" else {"encoder": hub_commit(name)}
