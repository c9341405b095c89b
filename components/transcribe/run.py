"""``transcribe``: transcripts of the utterances that have audio and no text, by a Whisper.

A human transcript is never changed. With ``asr_share``, training reads the model's transcript instead of the text of some train
utterances; the dataset keeps its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import UtteranceSet
from mistere.common.errors import MistereError, UsageError
from mistere.config.base import SeededSection
from mistere.config.transcription import TranscriptionConfig
from mistere.engine.stage import Result, RunContext, Stage, Step
from mistere.model.encoders.lookup.source_check import check_source
from mistere.model.encoders.source_state import source_state


class TranscribeConfig(SeededSection):
    """The part of the ``data`` section that is about transcripts."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    transcription: TranscriptionConfig = TranscriptionConfig()


def model_state(config: TranscribeConfig, _context: RunContext) -> Mapping[str, str]:
    """Digests of the files behind the model's source."""
    return source_state(config.transcription) if config.transcription.is_on else {}


def check_model(config: Any, _modality: str, in_this_image: bool) -> None:
    """Check that the model exists.

    Args:
        config: the ``data`` section.
        in_this_image: whether the model is loaded where this process runs.

    Raises:
        UsageError: a package, folder, object or model is missing, or the hub refuses it or cannot be reached.
        MistereError: the hub or the object store fails.
    """
    settings: TranscriptionConfig = config.transcription
    if not settings.is_on:
        return
    try:
        check_source(settings.source, in_this_image)
    except MistereError as error:
        raise type(error)(f"data.transcription.source: {error}") from error


STAGE = Stage(
    name="transcribe",
    config=TranscribeConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"transcribed": UtteranceSet},
    external_inputs=model_state,
    preflight=check_model,
)


def run(config: TranscribeConfig, step: Step, utterances: ArtifactHandle[UtteranceSet], transcribed: Path) -> Result:
    """Transcribe, or pass the dataset on where the run turned the transcription off.

    Args:
        config: the model and its settings.
        step: this execution.
        utterances: the dataset.
        transcribed: folder of the output artifact: the reference to the dataset, and the transcripts.

    Raises:
        UsageError: the model is missing or cannot transcribe the dataset's language, or the dataset has no audio.
    """
    reference = utterances.manifest
    settings = config.transcription
    if not settings.is_on:
        return Result(manifests={"transcribed": reference})
    if "speech" not in reference.modalities:
        raise UsageError(
            f"data.transcription.source={settings.source}: the dataset {reference.name} has no audio to transcribe: set "
            "data.transcription.source=off, or add the audio."
        )
    check_model(config, "", in_this_image=True)
    with step.loading():
        from components.transcribe.transcription import transcribe

    return Result(manifests={"transcribed": transcribe(config, step, reference, transcribed)})
