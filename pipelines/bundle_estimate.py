"""What the bundle of a planned run will need at least, by the sizes of its encoders' sources, so that a deployment that cannot hold it is refused before the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistere.common.counting import plural
from mistere.common.errors import MistereError
from mistere.common.parsing.documents import read_json
from mistere.config.deployment import DeploymentConfig
from mistere.config.loader import Config
from mistere.config.predictor_options import is_option
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


def _needs(config: Config, sizes: Mapping[str, tuple[int, int]]) -> BundleNeeds:
    """What a bundle needs with encoders of these sizes; a source that several use is stored once, and loaded by each."""
    stored = {config.encoders()[name].source: size for name, (size, _) in sizes.items()}
    return BundleNeeds(sum(stored.values()), tuple(size * wide for size, wide in sizes.values()))


def planned_sizes(config: Config) -> dict[str, tuple[int, int] | None]:
    """The bytes of the weights of each encoder's source, and how many times as many they are in float32; None where they are not known."""
    return {name: _size(encoder.source) for name, encoder in config.encoders().items()}


def _size(source: str) -> tuple[int, int] | None:
    from mistere.model.encoders.lookup.hub import hub_weight_bytes
    from mistere.model.encoders.lookup.source_check import installed_weights, is_folder

    kind, _, rest = source.partition(":")
    try:
        if kind in {"random", "measured"}:
            return 0, 1
        if kind == "package":
            return installed_weights(rest)[1].stat().st_size, 1
        if kind == "s3":
            return None
        if is_folder(source):
            return _folder_size(Path(rest if kind == "path" else source).expanduser())
        size = hub_weight_bytes(rest if kind == "hub" else source)
    except (MistereError, OSError):
        return None
    return (size, 1) if size else None


def _folder_size(folder: Path) -> tuple[int, int] | None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if not size:
        return None
    described = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return size, 2 if isinstance(described, dict) and stores_half(described) else 1
