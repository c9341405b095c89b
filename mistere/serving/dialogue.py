"""A dialogue as a caller writes it: strings, mappings or objects, one for each utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistere.common.errors import UsageError
from mistere.serving.client import Utterance
from mistere.serving.vectors import VectorDialogue, holds_vectors, read_vectors

AnyUtterance = str | Mapping[str, Any] | Utterance
"""A transcript; a mapping with ``text`` and ``audio`` (a path, or the bytes of an audio file); an object with both; or, for a model
that takes vectors, a mapping with ``text_embedding``, ``speech_embedding`` and so on.

With ``predict`` False, a mapping or an object is context for its neighbours only.
"""


@dataclass(frozen=True)
class DialogueTurn:
    """One utterance of a dialogue: a transcript, an encoded audio file, both, or neither.

    ``predict`` is False for one that is context for its neighbours only.
    """

    text: str | None = None
    audio: bytes | None = None
    predict: bool = True


def dialogue_content(
    dialogue: Sequence[AnyUtterance], directory: Path = Path(), encoder_digest: str = ""
) -> list[DialogueTurn] | VectorDialogue:
    """The utterances with their audio read, or their vectors.

    Args:
        dialogue: the utterances, in order.
        directory: the directory that relative paths of audio files start from.
        encoder_digest: names the encoders of vectors; empty where the model does not know them.

    Raises:
        UsageError: the dialogue is empty, an utterance has another form, or an audio file does not exist.
    """
    if not isinstance(dialogue, str | bytes) and holds_vectors(dialogue):
        return read_vectors(dialogue, encoder_digest)
    return dialogue_turns(dialogue, directory)


def dialogue_turns(dialogue: Sequence[AnyUtterance], directory: Path = Path()) -> list[DialogueTurn]:
    """Utterances with their audio read.

    Args:
        dialogue: the utterances, in order.
        directory: the directory that relative paths of audio files start from.

    Raises:
        UsageError: the dialogue is empty, an utterance has another form, or an audio file does not exist.
    """
    if isinstance(dialogue, str | bytes) or not dialogue:
        raise UsageError("a dialogue is a non-empty list of utterances.")
    return [_turn(number, utterance, directory) for number, utterance in enumerate(dialogue)]


def _turn(number: int, utterance: AnyUtterance, directory: Path) -> DialogueTurn:
    if isinstance(utterance, str):
        return DialogueTurn(utterance)
    if isinstance(utterance, Mapping):
        text, audio, predict = utterance.get("text"), utterance.get("audio"), utterance.get("predict")
    else:
        text, audio, predict = (getattr(utterance, name, None) for name in ("text", "audio", "predict"))
    if not isinstance(text, str | None) or not isinstance(audio, str | Path | bytes | None):
        raise UsageError(f"utterance {number}: text is a string, and audio is a path or the bytes of an audio file.")
    if not isinstance(predict, bool | None):
        raise UsageError(f"utterance {number}: predict is true or false.")
    if audio and not isinstance(audio, bytes):
        file = directory / audio
        if not file.is_file():
            raise UsageError(f"utterance {number}: there is no audio file {file}.")
        audio = file.read_bytes()
    return DialogueTurn(text or None, audio or None, predict is not False)
