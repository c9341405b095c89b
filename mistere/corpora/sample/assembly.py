"""Plan, synthesize, record and write the sample."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mistere.common.splits import Split
from mistere.corpora.sample.faces import draw_frames
from mistere.corpora.sample.ogg import encode
from mistere.corpora.sample.planner import DIALOGUES, PlannedUtterance, plan
from mistere.corpora.sample.prosody import SAMPLE_RATE, Prosody, draw_prosody, record, synthesis_settings
from mistere.corpora.sample.synthesis import require_synthesizer, synthesize
from mistere.corpora.sample.wording import EMOTIONS
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset

_MICROPHONE_DB = 6.0
"""Largest gain or loss of a speaker's microphone in a dialogue, in dB."""
_FACES = "The speakers' faces are drawings of a few frames, and missing in some turns. "


def make_sample(
    directory: Path,
    seed: int,
    dialogues: int = DIALOGUES,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    faces: bool = False,
) -> dict[Split, int]:
    """Make the sample: short dialogues with six acted emotions, as text and as synthesized speech.

    The same seed gives the same bytes on the same machine with the same versions of espeak-ng, numpy and libopus.

    Args:
        directory: directory of the new dataset; must not exist or be empty.
        seed: seed of the dialogues and their delivery.
        dialogues: number of dialogues over all splits.
        on_progress: called with (utterances done, utterances in all) after each utterance.
        faces: add the modality ``face``, a few drawn frames for each utterance. Text and speech are the same without it.

    Returns:
        Utterances per split.

    Raises:
        MissingPackageError: the speech synthesizer is not installed.
        MistereError: it failed.
        UsageError: fewer dialogues than splits, or the directory is not empty.
    """
    require_synthesizer()
    planned = list(plan(seed, dialogues))
    return write_dataset(directory, describe(seed, faces=faces), _rows(planned, on_progress, faces))


def describe(seed: int, *, faces: bool = False) -> DatasetInfo:
    """The ``dataset.yaml`` of the sample."""
    return DatasetInfo(
        name="sample-faces" if faces else "sample",
        description=(
            "Synthetic: made by a program, with no people in it. Short two-person dialogues with acted emotions, "
            "worded from templates and spoken by the espeak-ng synthesizer; in two of five turns one modality says little: a "
            f"filler word that fits every emotion, or a recording in loud noise. {_FACES if faces else ''}For trying the pipeline, not for "
            "judging models of real speech."
        ),
        labels=list(EMOTIONS),
        language="en",
        licence="CC0-1.0",
        splits="By dialogue; every split has its own synthetic speakers.",
        speaker_disjoint=True,
        synthetic=True,
        source=f"mistere data sample --seed {seed}" + (" --faces" if faces else ""),
        modalities={"face": "frames"} if faces else {},
    )


def _rows(
    planned: list[PlannedUtterance], on_progress: Callable[[int, int], None] | None, faces: bool
) -> Iterator[tuple[Split, Utterance]]:
    """Speak the plan in order. Each utterance has its own seed, so its audio does not depend on the ones before it."""
    draws = [np.random.Generator(np.random.PCG64(utterance.seed)) for utterance in planned]
    deliveries = [
        draw_prosody(utterance.emotion, utterance.kind, draw) for utterance, draw in zip(planned, draws, strict=True)
    ]
    requests = [_request(utterance, delivery) for utterance, delivery in zip(planned, deliveries, strict=True)]
    spoken = zip(planned, deliveries, draws, synthesize(requests), strict=True)
    for done, (utterance, delivery, draw, (speech, rate)) in enumerate(spoken, start=1):
        gain = _microphone_gain(utterance)
        recording = record(speech, rate, utterance.voice, delivery, utterance.kind, gain, draw)
        serial = zlib.crc32(f"{utterance.dialogue_id}/{utterance.turn}".encode())
        frames = draw_frames(utterance.emotion, utterance.voice.name, utterance.seed) if faces else None
        row = Utterance(
            dialogue_id=utterance.dialogue_id,
            turn=utterance.turn,
            label=utterance.emotion,
            text=utterance.text,
            audio=encode(recording, SAMPLE_RATE, serial),
            speaker=utterance.voice.name,
            others={"face": frames} if frames else {},
        )
        yield utterance.split, row
        if on_progress is not None:
            on_progress(done, len(planned))


def _request(utterance: PlannedUtterance, delivery: Prosody) -> dict[str, str | int]:
    settings = synthesis_settings(utterance.voice, delivery)
    return {"text": utterance.text, "variant": utterance.voice.variant, **settings}


def _microphone_gain(utterance: PlannedUtterance) -> float:
    """Gain in dB, constant for a speaker within a dialogue, so that the level alone predicts little."""
    fraction = zlib.crc32(f"{utterance.dialogue_id}/{utterance.voice.name}".encode()) / 0xFFFFFFFF
    return _MICROPHONE_DB * (2 * fraction - 1)
