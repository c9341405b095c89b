"""``finetune_encoder``: fine-tune one modality's encoder on the labels; the best epoch is selected on dev."""

from __future__ import annotations

from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EncoderCheckpoint, UtteranceSet
from mistere.common.modalities import Modality
from mistere.config.encoder import EncoderConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.model.encoders.lookup.source_check import check_encoder
from mistere.model.encoders.source_state import source_state

STAGE = Stage(
    name="finetune_encoder",
    config=EncoderConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"encoder": EncoderCheckpoint},
    external_inputs=source_state,
    preflight=check_encoder,
)


def run(
    config: EncoderConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    encoder: Path,
    modality: Modality,
) -> Result:
    """Fine-tune the encoder, or mark it as absent if the dataset lacks the modality.

    Args:
        config: the modality's section.
        step: this execution.
        utterances: the dataset.
        encoder: folder of the output artifact.
        modality: the encoder's modality.

    Raises:
        MistereError: as :func:`mistere.model.encoders.lookup.source_check.check_encoder`, before any data is read.
    """
    if modality not in utterances.manifest.modalities:
        step.progress.note(f"the dataset has no {modality}: the encoder is marked as absent and none is loaded.")
        return Result(manifests={"encoder": EncoderCheckpoint(modality=modality, absent=True)})
    check_encoder(config, modality, in_this_image=True)
    with step.loading():
        from components.finetune_encoder.fine_tuning import fine_tune

    return Result(manifests={"encoder": fine_tune(config, step, utterances.manifest, encoder, modality)})
