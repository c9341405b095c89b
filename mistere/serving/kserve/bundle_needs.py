"""What a bundle needs of the pod that serves it: room for its files, and memory for its weights.

The sizes come from the manifests in the store; no weight is read. The amounts beyond the weights were measured: the predictor with
the encoders of the profile ``sample`` holds 735 MiB after its start, of which 0.1 GiB are weights, and bodies in flight may hold 64
times the limit of a body (docs/guides/serving.md, Memory). Streams hold their audio beside them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from mistere.artifacts.io import artifact_key, read_manifest
from mistere.artifacts.manifests import BaseEncoder, ModelBundle
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, load_json
from mistere.config.base import AUTO
from mistere.config.deployment import SMALLEST, DeploymentConfig
from mistere.kubernetes.quantities import GIB, in_gib, quantity

_HALF: Final = ("float16", "bfloat16")
_WEIGHTS: Final = ".safetensors"
_PROCESS, _PROCESS_WITH_GPU = 0.65 * GIB, 3.0 * GIB
"""Memory of Python, its packages and a request's arrays, with CUDA's libraries and context in the second."""
_BODIES: Final = 64
"""Bodies that may be in flight together."""
_STREAM_BODIES: Final = 3
"""Bodies of the largest size that a stream's audio takes: the context, the turns that wait, and the open turns of its channels."""
_COPIES: Final = 1.15
"""Memory beyond the weights while they are loaded, and for activations, as a factor."""
_DISK, _DISK_MARGIN = 1.05, 1.0 * GIB
_LIMIT: Final = 1.25
"""The memory limit, as a factor of the memory that is needed."""
_DOWNLOAD_RATE: Final = 40 * 2**20
"""Bytes a second of a slow download, with the check of the files' digests."""
_START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class BundleNeeds:
    """Sizes of a bundle.

    Attributes:
        files: of all its files, with those of its base models, bytes.
        weights: of each of its models in float32, bytes; models with one base hold it once each.
    """

    files: int
    weights: tuple[int, ...]

    def disk(self) -> float:
        """Bytes of a cache that holds the files."""
        return _DISK * self.files + _DISK_MARGIN

    def memory(self, config: DeploymentConfig) -> float:
        """Bytes of the pod's memory. On a GPU, the pod holds one model at a time, until it is copied there."""
        options = config.predictor
        on_gpu = config.gpus and options.device != "cpu"
        half = options.dtype in _HALF or (options.dtype == "auto" and on_gpu)
        weights = max(self.weights, default=0) if on_gpu else sum(self.weights)
        process = _PROCESS_WITH_GPU if on_gpu else _PROCESS
        bodies = _BODIES + _STREAM_BODIES * options.max_streams
        stores = options.audio_store_mib + options.vector_store_mib + bodies * options.max_request_mib
        return process + stores * 2**20 + _COPIES * weights * (0.5 if half else 1)

    def seconds(self) -> float:
        """Seconds in which a pod with an empty cache becomes ready."""
        return _START_SECONDS + self.files / _DOWNLOAD_RATE


def bundle_needs(store: ObjectStore, bundle: ModelBundle) -> BundleNeeds:
    """Read the sizes of a bundle and of its base models from their manifests.

    Raises:
        ArtifactError: a manifest is missing or damaged.
    """
    files, weights = _size(bundle), [_size(bundle)]
    for (_, digest), references in Counter(bundle.refers_to()).items():
        base = read_manifest(store, BaseEncoder, digest)
        files += _size(base)
        stored = sum(entry.size for name, entry in base.files.items() if name.endswith(_WEIGHTS))
        weights += [stored * (2 if _is_half(store, digest) else 1)] * references
    return BundleNeeds(files, tuple(weights))


def amounts_for(config: DeploymentConfig, needs: BundleNeeds) -> dict[str, Any]:
    """What a bundle needs, for the settings that are ``auto``, and at least as much time to start as its download takes.

    Args:
        config: the ``deployment`` section.
        needs: of the bundle.

    Returns:
        Values that replace those of the section.

    Raises:
        UsageError: a given amount is too small for the bundle; names both.
    """
    check_room(config, needs)
    memory = needs.memory(config)
    least = {"cache": needs.disk(), "memory": memory, "memory_limit": _LIMIT * memory}
    amounts: dict[str, Any] = {
        name: _largest(SMALLEST[name], in_gib(amount))
        for name, amount in least.items()
        if getattr(config, name) == AUTO
    }
    limit = amounts.get("memory_limit", config.memory_limit)
    request = amounts.get("memory", config.memory)
    if "memory_limit" in amounts:
        amounts["memory_limit"] = _largest(limit, request)
    elif "memory" in amounts and quantity(request) > quantity(limit):
        amounts["memory"] = limit
    if config.ready_timeout < needs.seconds():
        amounts["ready_timeout"] = float(round(needs.seconds()))
    return amounts


def check_room(config: DeploymentConfig, needs: BundleNeeds, what: str = "the bundle") -> None:
    """Refuse a deployment whose pods cannot hold a bundle.

    Args:
        config: the ``deployment`` section.
        needs: of the bundle.
        what: names the bundle in the error.

    Raises:
        UsageError: a given amount is too small; names both.
    """
    if config.cache != AUTO and not config.cache_claim and quantity(config.cache) < needs.files:
        raise UsageError(_too_small("cache", config.cache, f"the files of {what} take", needs.files, needs.disk()))
    need = needs.memory(config)
    if config.memory_limit != AUTO and quantity(config.memory_limit) < need:
        raise UsageError(_too_small("memory_limit", config.memory_limit, f"{what} needs", need, need))


def _too_small(name: str, given: str, what: str, amount: float, enough: float) -> str:
    return (
        f"deployment.{name}={given} is too small: {what} {amount / GIB:.1f} GiB; set deployment.{name} to {AUTO}, or to at least "
        f"{in_gib(enough)}."
    )


def _largest(*amounts: str) -> str:
    return max(amounts, key=quantity)


def _size(manifest: ModelBundle | BaseEncoder) -> int:
    return sum(entry.size for entry in manifest.files.values())


def _is_half(store: ObjectStore, digest: str) -> bool:
    """Whether the weights of a base model are stored with 16 bits each, by its configuration."""
    try:
        config = load_json(store.read(f"{artifact_key(BaseEncoder.__name__, digest)}/config.json")[0])
    except (MissingObjectError, ParseError):
        return False
    return isinstance(config, dict) and stores_half(config)


def stores_half(config: dict[str, Any]) -> bool:
    """Whether a model's ``config.json`` says that its weights have 16 bits each."""
    nested = [each for each in config.values() if isinstance(each, dict)]
    return any(each.get("dtype", each.get("torch_dtype")) in _HALF for each in (config, *nested))
