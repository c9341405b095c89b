"""The one constructor of an embedder from a stored encoder: extraction, evaluation and serving share it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from mistere.artifacts.identities import EncoderDescription
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError
from mistere.common.names import shown
from mistere.config.encoder import Device, EncoderConfig, ExtractionSettings
from mistere.model.encoders.embedding import SERVING, Embedder
from mistere.model.encoders.families import families
from mistere.model.encoders.folder_check import check_folder
from mistere.model.weight_files import OTHER_MODEL


def open_embedder(
    store: ObjectStore,
    modality: str,
    encoder: EncoderDescription,
    tuned: Path,
    classes: int,
    extraction: ExtractionSettings = SERVING,
    device: Device = "auto",
    note: Callable[[str], None] | None = None,
    int8: bool = False,
) -> Embedder:
    """Open the base weights of a fine-tuned encoder and make its embedder.

    Args:
        store: holds the base weights.
        modality: the encoder's modality.
        encoder: describes the encoder.
        tuned: the file of fine-tuned weights.
        classes: number of labels (the head's width).
        extraction: batches and precision.
        device: ``auto`` selects a GPU if there is one.
        note: called with a message when batches had to become smaller.
        int8: compute the backbone's linear layers in 8-bit integers; on a CPU only.

    Raises:
        ArtifactError: the base weights are missing or damaged, or the description is not of an encoder.
    """
    base = open_artifact(store, BaseEncoder, encoder.base_digest)
    check_folder(base.path, base.manifest.source)
    try:
        EncoderConfig.model_validate(encoder.settings)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        raise ArtifactError(f"the encoder of {tuned} has the invalid setting {where}", OTHER_MODEL) from error
    if encoder.family not in families():
        raise ArtifactError(f"the encoder of {tuned} is of the unknown family {shown(encoder.family)}", OTHER_MODEL)
    return Embedder(
        modality, encoder.family, base.path, tuned, encoder.settings, classes, extraction, device, note=note, int8=int8
    )
