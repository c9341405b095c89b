"""The example dialogue of a bundle: a test dialogue with the offline evaluation's probabilities, for testing a deployment.

``example/dialogue.json`` has the form that ``mistere predict --dialogue`` reads, with audio files beside it, or with vectors in it.
``example/expected.json`` holds the probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.names import path_below
from mistere.common.parsing.documents import read_json
from mistere.data.audio import AudioError, decode_recording, encode_flac
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.serving import protocol
from mistere.serving.dialogue import DialogueTurn
from mistere.serving.vectors import VectorDialogue, read_vectors

FOLDER = "example"
DIALOGUE, EXPECTED = f"{FOLDER}/dialogue.json", f"{FOLDER}/expected.json"
FEW_UTTERANCES = 16
_EXTENSIONS = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg"}


@dataclass(frozen=True)
class Example:
    """A dialogue of n utterances, or their vectors, and its offline probabilities ``[n, C]``.

    An utterance whose label is None is context only; its expected row is zeros.
    """

    dialogue: list[Utterance] | VectorDialogue
    expected: np.ndarray

    @property
    def turns(self) -> list[DialogueTurn] | VectorDialogue:
        """The dialogue as it is sent."""
        if isinstance(self.dialogue, VectorDialogue):
            return self.dialogue
        return [DialogueTurn(one.text, one.audio, one.label is not None, one.others) for one in self.dialogue]


def sendable(dialogue: Sequence[Utterance]) -> list[Utterance] | None:
    """Convert a dialogue to WAV, FLAC and OGG, which every player reads; None if it exceeds a limit of the endpoint or does not decode."""
    if len(dialogue) > protocol.MAX_UTTERANCES:
        return None
    converted = []
    seconds = 0.0
    for utterance in dialogue:
        audio = utterance.audio
        if audio:
            try:
                recording = decode_recording(audio, protocol.MAX_UTTERANCE_SECONDS)
            except AudioError:
                return None
            if len(recording.wave) > protocol.MAX_UTTERANCE_SECONDS * recording.rate:
                return None
            seconds += len(recording.wave) / recording.rate
            if audio[:4] not in _EXTENSIONS or recording.channels > 2:
                audio = encode_flac(recording.wave, recording.rate)
        converted.append(replace(utterance, audio=audio))
    size = sum(
        len(utterance.audio or b"") * 4 // 3 + len((utterance.text or "").encode()) + 64 + _others_size(utterance)
        for utterance in converted
    )
    tokens = sum(protocol.token_count(utterance.text or "") for utterance in converted)
    fits = size < protocol.MAX_BYTES and seconds <= protocol.MAX_SECONDS and tokens <= protocol.MAX_TOKENS
    return converted if fits else None


def _others_size(utterance: Utterance) -> int:
    """Bytes of the further modalities in a request, in JSON."""
    return sum(
        12 * len(cell) if isinstance(cell, np.ndarray) else sum(len(part) * 4 // 3 + 8 for part in cell)
        for cell in utterance.others.values()
        if isinstance(cell, np.ndarray | tuple)
    )


def as_sent(dialogue: Sequence[Utterance], kinds: Mapping[str, str]) -> list[Utterance]:
    """The dialogue with its further modalities as they are sent: arrays, or tuples of files.

    Args:
        dialogue: the utterances, as the dataset holds them.
        kinds: the kind of each modality.
    """

    def sent(name: str, cell: Any) -> Any:
        value = kind_of(kinds[name]).sent(cell)
        return value if isinstance(value, np.ndarray) else tuple(value)

    return [
        replace(one, others={name: sent(name, cell) for name, cell in one.others.items() if name in kinds})
        for one in dialogue
    ]


def write_example(folder: Path, example: Example) -> None:
    """Write the dialogue, its audio and the expected probabilities below ``folder``."""
    (folder / FOLDER).mkdir()
    expected = example.expected
    if not isinstance(example.dialogue, VectorDialogue):
        predicted = np.array([utterance.label is not None for utterance in example.dialogue])
        expected = np.where(predicted[:, None], expected, 0)
    probabilities = [[float(f"{value:.9g}") for value in row] for row in expected.tolist()]
    (folder / EXPECTED).write_text(json.dumps({"probabilities": probabilities}), encoding="utf-8")
    if isinstance(example.dialogue, VectorDialogue):
        (folder / DIALOGUE).write_text(json.dumps(example.dialogue.document()), encoding="utf-8")
        return
    rows = []
    for turn, utterance in enumerate(example.dialogue):
        row: dict[str, Any] = {"text": utterance.text} if utterance.text else {}
        if utterance.label is None:
            row["predict"] = False
        if utterance.audio:
            row["audio"] = f"{turn}.{_EXTENSIONS[utterance.audio[:4]]}"
            (folder / FOLDER / row["audio"]).write_bytes(utterance.audio)
        for name, cell in utterance.others.items():
            if isinstance(cell, np.ndarray):
                row[name] = [float(f"{value:.9g}") for value in cell.tolist()]
            elif isinstance(cell, tuple):
                row[name] = [f"{turn}-{name}-{index}.image" for index in range(len(cell))]
                for file, part in zip(row[name], cell, strict=True):
                    (folder / FOLDER / file).write_bytes(part)
        rows.append(row)
    (folder / DIALOGUE).write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def read_example(folder: Path) -> Example | None:
    """Read an example that :func:`write_example` wrote; None if there is none.

    Raises:
        ArtifactError: the files are not a valid example.
    """
    if not (folder / DIALOGUE).is_file():
        return None
    try:
        rows = read_json(folder / DIALOGUE)
        expected = np.array(read_json(folder / EXPECTED)["probabilities"], np.float32)
        dialogue = _vectors(rows) if isinstance(rows, dict) else _utterances(rows, folder)
        if expected.ndim != 2 or len(expected) != len(dialogue) or not np.isfinite(expected).all():
            raise ValueError("expected a row of probabilities for each utterance")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, UsageError) as error:
        raise ArtifactError(
            f"{folder / FOLDER} does not hold an example dialogue", "run the pipeline again to make a new bundle"
        ) from error
    return Example(dialogue, expected)


def local_example(location: str) -> Path:
    """The example dialogue of a bundle in a remote store as a file of this machine; the bundle is fetched and verified.

    Args:
        location: ``<store>/artifacts/ModelBundle/<digest>/example/dialogue.json``.

    Raises:
        UsageError: it is not the location of an example.
        ArtifactError: the bundle is missing, damaged, or has no example.
    """
    root, separator, below = location.partition("/artifacts/ModelBundle/")
    digest, _, name = below.partition("/")
    if not separator or name != DIALOGUE:
        raise UsageError(
            f"{location} is not the example of a bundle: name STORE/artifacts/ModelBundle/DIGEST/{DIALOGUE}."
        )
    file = open_artifact(open_store(root), ModelBundle, digest).path / DIALOGUE
    if not file.is_file():
        raise ArtifactError(f"the bundle {digest[:12]} has no example dialogue", "name a file of your own")
    return file


def _vectors(document: dict[str, Any]) -> VectorDialogue:
    return read_vectors(document["utterances"], str(document.get(protocol.ENCODER_DIGEST, "")))


def _utterances(rows: list[dict[str, Any]], folder: Path) -> list[Utterance]:
    return [
        Utterance(
            dialogue_id="example",
            turn=turn,
            label=None if row.get("predict") is False else "",
            text=_text(row.get("text")),
            audio=_audio(folder / FOLDER, row["audio"]) if "audio" in row else None,
            others={name: _other(folder / FOLDER, value) for name, value in row.items() if isinstance(value, list)},
        )
        for turn, row in enumerate(rows)
    ]


def _audio(folder: Path, name: str) -> bytes:
    return path_below(folder, name, str(folder / Path(DIALOGUE).name), ArtifactError).read_bytes()


def _other(folder: Path, value: list[Any]) -> Any:
    """A vector, or the files of a list."""
    if all(isinstance(part, int | float) for part in value):
        return np.array(value, np.float32)
    return tuple(_audio(folder, part) for part in value)


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a string")
    return value
