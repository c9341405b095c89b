"""What the bundle of a planned run will need at least, by the sizes of its encoders' sources, so that a deployment that cannot hold it is refused before the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistere.common.counting import plural
from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.config.deployment import DeploymentConfig
from mistere.config.loader import Config
from mistere.config.predictor_options import is_option
from mistere.model.encoders.lookup.checkpoint_size import (
    BaseWeights,
    StoredWeight,
    WeightSize,
    read_names,
    size_of,
    stored_weights,
)
from mistere.model.encoders.lookup.hub import hub_checkpoint, hub_configuration, hub_stored_weights
from mistere.serving.kserve.bundle_needs import BundleNeeds, amounts_for, check_room, stores_half


def check_planned_room(config: Config) -> str:
    """Check that the deployment can hold the models of a planned run, as far as their sizes are known here.

    Returns:
        What is known, as a sentence.

    Raises:
        UsageError: it cannot; names both amounts.
    """
    if config.deployment.mode == "local":
        return "a run on this machine deploys no service."
    sizes = {name: size for name, size in planned_sizes(config).items() if size is not None}
    needs = _needs(config, sizes)
    check_room(config.deployment, needs, f"a bundle with {' and '.join(sizes) or 'these'} encoders")
    unknown = [name for name in config.modalities if name not in sizes]
    known = (
        f"the models of {', '.join(sizes)} ({needs.files / 2**30:.1f} GiB) fit" if sizes else "no size is known here"
    )
    later = f"; that of {', '.join(unknown)} is known when it is deployed" if unknown else ""
    return f"{known}{later}."


def hidden_options(config: DeploymentConfig) -> str:
    """Which options of the predictor a service has that are not known here, as a sentence; empty for none.

    A variable of ``deployment.env`` that refers to a secret or ConfigMap has its value in the pod alone.
    """
    names = [] if config.mode == "local" else sorted(name for name in config.env if is_option(name))
    if not names:
        return ""
    return (
        f"deployment.env takes {', '.join(names)} from a secret or ConfigMap, so only the pod knows {plural(len(names), 'it', 'them')}: "
        "memory, probes and whatever else follows from options are those without; write a value that matters to them as text, or below "
        "deployment.predictor."
    )


def planned_amounts(config: Config) -> dict[str, Any]:
    """What the deployment of a planned run will get for the settings that are ``auto``, as far as the sizes are known here.

    Raises:
        UsageError: a given amount is too small.
    """
    sizes = {name: size for name, size in planned_sizes(config).items() if size is not None}
    return amounts_for(config.deployment, _needs(config, sizes))


def _needs(config: Config, sizes: Mapping[str, WeightSize]) -> BundleNeeds:
    """What a bundle needs with encoders of these sizes; a source that several use is stored once, and loaded by each."""
    stored = {(config.encoder(name).source, config.encoder(name).kind): size.stored for name, size in sizes.items()}
    return BundleNeeds(sum(stored.values()), tuple(size.float32 for size in sizes.values()))


def planned_sizes(config: Config) -> dict[str, WeightSize | None]:
    """The weights that each encoder keeps of its source; None where they are not known."""
    return {name: _size(encoder.source, encoder.kind) for name, encoder in config.encoders().items()}


def _size(source: str, kind: str) -> WeightSize | None:
    from mistere.model.encoders.lookup.source_check import installed_weights, is_folder

    scheme, _, rest = source.partition(":")
    try:
        if scheme in {"random", "measured"}:
            return WeightSize(0, 0)
        if scheme == "package":
            weights = installed_weights(rest)[1]
            size = weights.stat().st_size
            return _folder_size(weights.parent, kind) if weights.suffix == ".safetensors" else WeightSize(size, size)
        if scheme == "s3":
            return None
        if is_folder(source):
            return _folder_size(Path(rest if scheme == "path" else source).expanduser(), kind)
        return _hub_size(rest if scheme == "hub" else source, kind)
    except (MistereError, OSError):
        return None


def _folder_size(folder: Path, kind: str) -> WeightSize | None:
    described = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    described = described if isinstance(described, dict) else {}
    kept = _kept(str(described.get("model_type", "")), kind)
    names = read_names((file.name for file in folder.glob("*.safetensors")), kept)
    try:
        return size_of([weight for name in names for weight in stored_weights(folder / name)], kept) if names else None
    except ValueError:
        return None  # the run refuses such a folder


def _hub_size(name: str, kind: str) -> WeightSize | None:
    checkpoint = hub_checkpoint(name)
    if checkpoint is None or not checkpoint.files:
        return None
    described = {} if checkpoint.model_type else hub_configuration(name, checkpoint.commit)
    kept = _kept(checkpoint.model_type or str(described.get("model_type", "")), kind)
    if kept != BaseWeights():
        weights = hub_stored_weights(name, checkpoint.commit, read_names(checkpoint.files, kept))
        return None if weights is None else size_of(weights, kept)
    stored = sum(checkpoint.files.values())
    if not stored:
        return None
    counted = size_of([StoredWeight("", type_, count) for type_, count in checkpoint.counts.items()], kept)
    if counted.stored:  # the hub counts a model once that a repository holds twice; deploy_model finds every file
        return WeightSize(stored, round(stored * counted.float32 / counted.stored))
    half = stores_half(described or hub_configuration(name, checkpoint.commit))
    return WeightSize(stored, stored * (2 if half else 1))


def _kept(model_type: str, kind: str) -> BaseWeights:
    """What the family of a model keeps of its weights; all of them if no family handles it, which the run refuses.

    Raises:
        UsageError: PyTorch, which the families need, is not installed, as in the pipeline image.
    """
    try:
        from mistere.model.encoders.families import families
    except ModuleNotFoundError as error:
        raise UsageError(f"the size of an encoder needs {error.name}, which is not installed.") from error
    fitting = (family for family in families().values() if kind in ("", family.kind) and family.handles(model_type))
    family = next(fitting, None)
    return BaseWeights() if family is None else family.base_weights(model_type)
