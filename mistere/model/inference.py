"""A released model from its bundle, computed by PyTorch. Serving and evaluation share it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.artifacts.signing import verify_bundle
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.config.encoder import Device, Precision
from mistere.model.dialogue_model import EmotionModel
from mistere.model.embedders import open_embedder
from mistere.model.encoders.embedding import SERVING, Embedder
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import CalibratedMixture, load_mixture
from mistere.model.transcription.transcriber import open_transcriber
from mistere.model.weight_files import OTHER_MODEL


def load_bundle(
    location: str, *, int8: bool = False, device: Device = "auto", dtype: Precision = "float32"
) -> EmotionModel:
    """Open and verify a bundle (its signature too, if the environment names a key) with its base weights.

    Args:
        location: ``<store>/artifacts/ModelBundle/<digest>``, a folder or ``s3://``.
        int8: compute the encoders in 8-bit integers if there is no GPU.
        device: of the encoders; ``auto`` uses a GPU if there is one.
        dtype: precision of the encoders' weights; ``auto`` is half precision on a GPU.

    Raises:
        ArtifactError: it is missing, incomplete or damaged; the message names the file.
        UsageError: it is no bundle's location.
    """
    root, digest = split_bundle_location(location)
    store = open_store(root)
    opened = open_artifact(store, ModelBundle, digest)
    verify_bundle(store, opened)
    bundle = opened.manifest
    extraction = SERVING.model_copy(update={"precision": dtype})
    embedders = {
        name: open_embedder(
            store,
            name,
            encoder,
            opened.file(f"encoders/{name}.safetensors"),
            len(bundle.labels),
            extraction,
            device,
            int8=int8,
        )
        for name, encoder in bundle.encoders.items()
    }
    for embedder in embedders.values():
        _ = embedder.encoder  # damage is found now, not at the first request
    mixture = load_mixture(opened.path)
    if reason := _disagreement(bundle, mixture, embedders):
        raise ArtifactError(f"the bundle {opened.path} holds no usable model: {reason}", OTHER_MODEL)
    transcriber = None
    if bundle.transcription is not None:
        transcriber = open_transcriber(store, bundle.transcription, device)
    return EmotionModel(bundle, CalibratedMixture(mixture, bundle.temperature), embedders, transcriber)


def _disagreement(bundle: ModelBundle, mixture: MixtureOfExperts, embedders: Mapping[str, Embedder]) -> str:
    """What in a bundle's manifest its mixture and encoders contradict, as a clause; empty if nothing does."""
    if not (math.isfinite(bundle.temperature) and bundle.temperature > 0):
        return f"its temperature is {bundle.temperature}"
    if len(bundle.labels) != mixture.classes or len(set(bundle.labels)) != len(bundle.labels):
        return (
            f"it names {counted(len(bundle.labels), 'label')}, {len(set(bundle.labels))} of them different; its mixture has "
            f"{counted(mixture.classes, 'class', 'classes')}"
        )
    if bundle.experts != mixture.experts:
        return "it names other experts than its mixture has"
    if bundle.vectors and not embedders:
        return "" if bundle.vectors.keys() == mixture.dimensions.keys() else "its vectors are not those of its mixture"
    widths = {name: embedder.dimension for name, embedder in embedders.items()}
    if widths != mixture.dimensions or any(
        (implicit := IMPLICIT_KINDS.get(name)) and embedder.kind.name != implicit
        for name, embedder in embedders.items()
    ):
        return "its encoders are not those of its mixture"
    return ""
