"""What an encoder's source names right now, as digests for a step's key: names alone do not say what is behind them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.common.errors import UsageError
from mistere.common.file_digest import digest_once
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.converters import converters

_SAFETENSORS = "model.safetensors"


def package_folder(package: str) -> Path | None:
    """The ``model`` folder of an installed package that carries an encoder; None where it is not installed."""
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
    """The store and the key of a model's folder ``s3://BUCKET/PREFIX``.

    Raises:
        UsageError: the bucket's root is named.
    """
    parent, _, leaf = uri.rstrip("/").rpartition("/")
    if parent in {"s3:/", "s3:"} or not leaf:
        raise UsageError(f"encoder {uri}: name the model's folder in the bucket: s3://BUCKET/PREFIX.")
    return open_store(parent), leaf


def source_state(settings: EncoderConfig, _context: Any = None) -> Mapping[str, str]:
    """Digests of the files behind ``package:``, ``path:`` and ``s3:`` sources, and the commit behind a hub id that pins none.

    A source that is not there has no state; the stage itself says so.
    """
    kind, _, rest = settings.source.partition(":")
    if kind == "random":
        return {}
    if kind == "s3":
        store, leaf = model_folder(settings.source)
        return {f"encoder/{key}": version for key, version in store.versions(leaf)}
    if kind == "package":
        folder = package_folder(rest)
        weights = package_weights(folder) if folder else None
        return {"encoder": digest_once(weights)} if weights else {}
    place = Path(rest if kind == "path" else settings.source).expanduser()
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.is_file())
        return {f"encoder/{file.name}": digest_once(file) for file in files}
    name, _, revision = (rest if kind == "hub" else settings.source).partition("@")
    return {} if revision or kind == "path" else {"encoder": _hub_commit(name)}


def _hub_commit(name: str) -> str:
    """The commit that the hub, or else its local cache, has for a model's main branch; empty where neither knows it."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().model_info(name, timeout=10).sha)
    except (HfHubHTTPError, OSError, ValueError, RuntimeError):
        reference = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
        return reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
