"""A dialogue as a caller writes it: strings, mappings or objects, one for each utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.serving.client import Utterance
from mistere.serving.vectors import VectorDialogue, holds_vectors, read_vectors

AnyUtterance = str | Mapping[str, Any] | Utterance
"""A transcript; a mapping with ``text``, ``audio`` (a path, or the bytes of an audio file) and further modalities (a list of image
files, or of numbers); an object with ``text``, ``audio`` and, by name, ``others``; or, for a model that takes vectors, a mapping with
``text_embedding``, ``speech_embedding`` and so on.

With ``predict`` False, a mapping or an object is context for its neighbours only.
"""


_FIELDS = ("text", "audio", "predict")
"""Fields of an utterance; any other one is a further modality."""


@dataclass(frozen=True)
class DialogueTurn:
    """One utterance of a dialogue: a transcript, an encoded audio file, cells of further modalities, or nothing.

    ``predict`` is False for one that is context for its neighbours only.
    """

    text: str | None = None
    audio: bytes | None = None
    predict: bool = True
    others: Mapping[str, Any] = field(default_factory=dict)


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
    others: Mapping[str, Any]
    if isinstance(utterance, Mapping):
        text, audio, predict = utterance.get("text"), utterance.get("audio"), utterance.get("predict")
        further = {name: value for name, value in utterance.items() if name not in _FIELDS}
        cells = {name: _cell(number, name, value, directory) for name, value in further.items()}
        others = {name: cell for name, cell in cells.items() if cell is not None}
    else:
        text, audio, predict = (getattr(utterance, name, None) for name in ("text", "audio", "predict"))
        others = getattr(utterance, "others", {})
    if not isinstance(text, str | None) or not isinstance(audio, str | Path | bytes | None):
        raise UsageError(f"utterance {number}: text is a string, and audio is a path or the bytes of an audio file.")
    if not isinstance(predict, bool | None):
        raise UsageError(f"utterance {number}: predict is true or false.")
    if audio and not isinstance(audio, bytes):
        file = directory / audio
        if not file.is_file():
            raise UsageError(f"utterance {number}: there is no audio file {file}: correct its path.")
        audio = file.read_bytes()
    return DialogueTurn(text or None, audio or None, predict is not False, others)


def _cell(number: int, name: str, value: Any, directory: Path) -> Any | None:
    """A value of a further modality: a list of numbers as a vector, a list of files as images; None for an empty one.

    Raises:
        UsageError: it is no value of a modality, as for a mistyped field, or a file does not exist.
    """
    import numpy as np

    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    if not isinstance(value, list | tuple):
        raise UsageError(f"utterance {number}: unknown field {name!r}{did_you_mean(str(name), _FIELDS)}")
    if all(isinstance(part, Real) for part in value):
        return np.array(value, np.float32)
    if not all(isinstance(part, str | Path | bytes) for part in value):
        raise UsageError(f"utterance {number}: {name} is a list of numbers, or a list of image files.")
    files = [part if isinstance(part, bytes) else directory / part for part in value]
    for file in files:
        if isinstance(file, Path) and not file.is_file():
            raise UsageError(f"utterance {number}: there is no {name} file {file}: correct its path.")
    return tuple(file.read_bytes() if isinstance(file, Path) else file for file in files)
