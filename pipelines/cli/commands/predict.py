"""``mistere predict``: sends a dialogue file to a predictor and prints the answer as a table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.serving.client import DialogueClient, EndpointPrediction
from mistere.serving.dialogue import DialogueTurn, dialogue_turns
from mistere.serving.example_dialogue import local_example


def predict(dialogue: str, url: str, model: str) -> None:
    """Predict a dialogue file and print a table.

    Args:
        dialogue: JSON, a list of ``{"text": …, "audio": path}``; paths are relative to the file. The example of a bundle may
            be at an ``s3://`` location.
        url: URL of the predictor.
        model: name of the model.
    """
    turns = read_dialogue(local_example(dialogue) if dialogue.startswith("s3://") else Path(dialogue))
    _print(turns, DialogueClient(url, model_name=model).predict_rest(turns))


def read_dialogue(path: Path) -> list[DialogueTurn]:
    """Read a dialogue file.

    Raises:
        UsageError: the file is missing or malformed, or names an audio file that does not exist.
    """
    try:
        entries = read_json(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(
            f'{path} is not JSON: write a list like [{{"text": "Hello?", "audio": "turn1.wav"}}].'
        ) from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f'{path}: write a list of utterances like [{{"text": "Hello?", "audio": "turn1.wav"}}].')
    if not all(isinstance(entry.get(name) or "", str) for entry in entries for name in ("text", "audio")):
        raise UsageError(f"{path}: text and audio (a path) of an utterance are strings.")
    try:
        return dialogue_turns(entries, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _print(turns: list[DialogueTurn], answer: EndpointPrediction) -> None:
    table = Table("turn", "emotion", "probability", *answer.experts, "modalities", "text", box=None)
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
        f"model version {answer.parameters.get('model_version', '?')}; columns {', '.join(answer.experts)}: weight of each expert",
        markup=False,
    )
