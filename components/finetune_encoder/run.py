"""``finetune_encoder``: one modality's encoder, fine-tuned on the labels, its best epoch chosen on dev."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EncoderCheckpoint, UtteranceSet
from mistere.config.encoder import EncoderConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.model.encoders.source_state import source_state

STAGE = Stage(
    name="finetune_encoder",
    config=EncoderConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"encoder": EncoderCheckpoint},
    external_inputs=source_state,
)


def run(
    config: EncoderConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    encoder: Path,
    modality: Literal["speech", "text"],
) -> Result:
    """Fine-tune, or say that the modality is absent.

    Args:
        config: the modality's section.
        step: this execution.
        utterances: the dataset.
        encoder: folder of the output artifact.
        modality: which encoder.
    """
    if modality not in utterances.manifest.modalities:
        step.progress.note(f"the dataset has no {modality}: this branch is absent and loads no encoder.")
        return Result(manifests={"encoder": EncoderCheckpoint(modality=modality, absent=True)})
    with step.loading():
        from components.finetune_encoder.fine_tuning import fine_tune

    return Result(manifests={"encoder": fine_tune(config, step, utterances.manifest, encoder, modality)})
