"""The parts of a bundle as the artifacts that steps read; equal bundles give equal artifacts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mistere.artifacts.io import ArtifactHandle, publish
from mistere.artifacts.manifests import EncoderCheckpoint, ModelBundle, MoEModel
from mistere.artifacts.object_store import ObjectStore


def publish_encoder(
    store: ObjectStore, teacher: ArtifactHandle[ModelBundle], modality: str, beside: Path
) -> EncoderCheckpoint:
    """Publish the encoder of a modality.

    Args:
        store: the store that holds the bundle.
        teacher: the bundle.
        modality: the modality.
        beside: a folder on the disk where the files are copied first.
    """
    made = teacher.manifest
    files = Path(tempfile.mkdtemp(prefix=f"{modality}-", dir=beside.parent))
    shutil.copyfile(teacher.file(f"encoders/{modality}.safetensors"), files / "tuned.safetensors")
    manifest = EncoderCheckpoint(modality=modality, labels=made.labels, encoder=made.encoders[modality])
    return publish(store, manifest, files)


def mixture_of(teacher: ArtifactHandle[ModelBundle], folder: Path) -> MoEModel:
    """Copy the files of the mixture to a folder and return its manifest."""
    from mistere.model.mixture.prediction import load_mixture

    made = teacher.manifest
    for name in ("mixture.json", "mixture.safetensors"):
        shutil.copyfile(teacher.file(name), folder / name)
    mixture = load_mixture(folder)
    return MoEModel(
        labels=made.labels,
        dimensions=dict(mixture.dimensions),
        experts=mixture.experts,
        parameters=mixture.size,
        temperature=made.temperature,
        encoders={name: made.encoders[name].identity for name in mixture.dimensions},
    )
