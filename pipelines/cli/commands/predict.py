"""``mistere predict``: a dialogue from a file to a predictor, and its answer as a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mistere.common.errors import UsageError
from mistere.serving.client import DialogueClient, EndpointPrediction


@dataclass(frozen=True)
class DialogueTurn:
    """One utterance of a dialogue file."""

    text: str | None = None
    audio: bytes | None = None


def predict(dialogue: Path, url: str, model: str) -> None:
    """Ask and print.

    Args:
        dialogue: JSON, a list of ``{"text": …, "audio": path}``; paths are relative to the file.
        url: the predictor's address.
        model: its model's name.
    """
    turns = read_dialogue(dialogue)
    _print(turns, DialogueClient(url, model_name=model).predict_rest(turns))


def read_dialogue(path: Path) -> list[DialogueTurn]:
    """Read a dialogue file.

    Raises:
        UsageError: it is missing, no such JSON, or names audio that is not there.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(
            f'{path} is not JSON: write a list like [{{"text": "Hello?", "audio": "turn1.wav"}}].'
        ) from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f'{path}: write a list of utterances like [{{"text": "Hello?", "audio": "turn1.wav"}}].')
    turns = []
    for number, entry in enumerate(entries):
        audio = None
        if not isinstance(entry.get("text") or "", str) or not isinstance(entry.get("audio") or "", str):
            raise UsageError(f"{path}: utterance {number}: text and audio (a path) are strings.")
        if entry.get("audio"):
            file = path.parent / str(entry["audio"])
            if not file.is_file():
                raise UsageError(f"{path}: utterance {number}: there is no audio file {file}.")
            audio = file.read_bytes()
        turns.append(DialogueTurn(text=entry.get("text"), audio=audio))
    return turns


def _print(turns: list[DialogueTurn], answer: EndpointPrediction) -> None:
    table = Table("turn", "emotion", "probability", *answer.experts, "heard", "text", box=None)
    for index, turn in enumerate(turns):
        table.add_row(
            str(index),
            answer.predicted[index],
            f"{answer.probabilities[index].max():.2f}",
            *(f"{weight:.2f}" for weight in answer.expert_weights[index]),
            answer.modalities[index],
            (turn.text or "")[:60],
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"model version {answer.parameters.get('model_version', '?')}; columns {', '.join(answer.experts)}: trust in each expert",
        markup=False,
    )
