"""The one constructor of an embedder from a stored encoder: extraction, evaluation and serving share it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mistere.artifacts.identities import EncoderDescription
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import ObjectStore
from mistere.config.encoder import Device, ExtractionSettings
from mistere.model.encoders.embedding import SERVING, Embedder
from mistere.model.encoders.folder_check import check_folder


def open_embedder(
    store: ObjectStore,
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
        encoder: describes the encoder.
        tuned: the file of fine-tuned weights.
        classes: number of labels (the head's width).
        extraction: batches and precision.
        device: ``auto`` selects a GPU if there is one.
        note: called with a message when batches had to become smaller.
        int8: compute the backbone's linear layers in 8-bit integers; on a CPU only.

    Raises:
        ArtifactError: the base weights are missing or damaged.
    """
    base = open_artifact(store, BaseEncoder, encoder.base_digest)
    check_folder(base.path, base.manifest.source)
    return Embedder(
        encoder.family, base.path, tuned, encoder.settings, classes, extraction, device, note=note, int8=int8
    )
