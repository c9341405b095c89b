"""``mistere predict``: sends a dialogue file to a predictor and prints the answer as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.serving.client import Detail, DialogueClient, EndpointPrediction
from mistere.serving.dialogue import DialogueTurn, dialogue_content
from mistere.serving.example_dialogue import DIALOGUE, local_example
from mistere.serving.explanation import Explanation
from mistere.serving.protocol import BUNDLE_DIGEST, ENCODER_DIGEST, MODEL_VERSION, WEIGHTS_MEANING
from mistere.serving.vectors import VectorDialogue
from pipelines.cli.output.console import harmless_json
from pipelines.cli.output.tables import Column, output_console, print_table


def predict(
    dialogue: str,
    url: str,
    model: str,
    as_json: bool = False,
    transcribe: bool = True,
    explain: bool = False,
    *,
    dialogue_id: str = "",
    consent: bool = False,
) -> None:
    """Predict a dialogue file and print the answer.

    Args:
        dialogue: JSON, a list of ``{"text": …, "audio": path}``, with ``"predict": false`` for an utterance that is context only;
            paths are relative to the file. The example of a bundle may be at an ``s3://`` location. For a model that takes vectors,
            ``{"text_embedding": [numbers], …}``.
        url: URL of the predictor.
        model: name of the model.
        as_json: print JSON instead of a table.
        transcribe: let a model that transcribes add the text of utterances that have audio and no text.
        explain: print what decided each label, too.
        dialogue_id: name of the dialogue, the same whenever it is sent again; empty for none.
        consent: let the server keep the dialogue for labelling, if it does so.

    Raises:
        UsageError: the file is missing or malformed, or there is consent without the name by which the dialogue can be deleted.
    """
    if consent and not dialogue_id:
        raise UsageError("--consent needs --dialogue-id, by which the dialogue can be deleted.")
    content = read_dialogue(local_example(dialogue) if dialogue.startswith("s3://") else Path(dialogue))
    detail: Detail = "explain" if explain else False
    answer = DialogueClient(url, model_name=model).predict_rest(content, detail, transcribe, dialogue_id, consent)
    turns = [DialogueTurn()] * len(content) if isinstance(content, VectorDialogue) else content
    if as_json:
        print(harmless_json(json.dumps(answer_document(turns, answer), indent=2, ensure_ascii=False)))
    else:
        _print(turns, answer)
        if answer.explanation is not None:
            _print_explanation(answer, answer.explanation)


def read_dialogue(path: Path) -> list[DialogueTurn] | VectorDialogue:
    """Read a dialogue file: utterances, or vectors as :class:`mistere.serving.vectors.VectorDialogue` writes them.

    Raises:
        UsageError: the file is missing or malformed, or names an audio file that does not exist.
    """
    try:
        entries = read_json(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no dialogue file {path}: name a JSON file of utterances with --dialogue, such as "
            f"BUNDLE/{DIALOGUE}, the example of a bundle."
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder: name a JSON file of utterances in it, such as {DIALOGUE}.") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()}): check the path and its permissions."
        ) from error
    except ValueError as error:
        raise UsageError(
            f'{path} is not JSON: write a list like [{{"text": "Hello?", "audio": "turn1.wav"}}].'
        ) from error
    digest = ""
    if isinstance(entries, dict) and "utterances" in entries:
        digest, entries = str(entries.get(ENCODER_DIGEST) or ""), entries["utterances"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f'{path}: write a list of utterances like [{{"text": "Hello?", "audio": "turn1.wav"}}].')
    if not all(isinstance(entry.get(name) or "", str) for entry in entries for name in ("text", "audio")):
        raise UsageError(f"{path}: text and audio (a path) of an utterance are strings: correct those that are not.")
    try:
        return dialogue_content(entries, path.parent, digest)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def answer_document(turns: Sequence[DialogueTurn], answer: EndpointPrediction) -> dict[str, Any]:
    """The answer as ``mistere predict --json`` prints it; numbers keep the precision of the endpoint."""
    utterances = [
        {
            "turn": index,
            "text": turn.text,
            "label": answer.predicted[index],
            "probabilities": _by_name(answer.labels, answer.probabilities[index]),
            "expert_weights": _by_name(answer.experts, answer.expert_weights[index]),
            "modalities_used": [name for name in answer.modalities[index].split("+") if name != "none"],
            **({"text_source": answer.text_sources[index]} if answer.text_sources else {}),
            **({"explanation": _explained(answer.explanation, index)} if answer.explanation else {}),
        }
        for index, turn in enumerate(turns)
    ]
    return {
        "model_version": answer.parameters.get(MODEL_VERSION),
        "bundle_digest": answer.parameters.get(BUNDLE_DIGEST),
        "utterances": utterances,
    }


def _explained(explanation: Explanation, index: int) -> dict[str, Any]:
    """The explanation of an utterance as ``mistere predict --json`` prints it."""
    return {
        "modality_contributions": _by_name(explanation.modalities, explanation.contributions[index]),
        "baseline_probability": float(str(explanation.baselines[index])),
        "influential_turns": [
            {"turn": int(turn), "influence": float(str(influence))}
            for turn, influence in zip(explanation.turns[index], explanation.influences[index], strict=True)
            if turn >= 0
        ],
    }


def _print_explanation(answer: EndpointPrediction, explanation: Explanation) -> None:
    columns = [
        Column("turn"),
        Column("emotion"),
        Column("probability", right=True),
        Column("from the others alone", right=True),
        *(Column(f"from its {name}", right=True) for name in explanation.modalities),
        Column("turns that mattered most", folds=True),
    ]
    rows = [
        (
            str(index),
            label,
            f"{answer.probabilities[index].max():.2f}",
            f"{explanation.baselines[index]:.2f}",
            *(f"{share:+z.2f}" for share in explanation.contributions[index]),
            ", ".join(
                f"{turn} ({influence:+z.2f})"
                for turn, influence in zip(explanation.turns[index], explanation.influences[index], strict=True)
                if turn >= 0
            ),
        )
        for index, label in enumerate(answer.predicted)
        if label
    ]
    console = output_console()
    console.print("\nwhat decided the emotion:", markup=False)
    print_table(console, columns, rows)
    console.print(f"the weight of an expert is {answer.parameters.get(WEIGHTS_MEANING, '?')}", markup=False)


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Float32 values with their shortest decimal form, as the endpoint's JSON has them."""
    return {name: float(str(value)) for name, value in zip(names, values, strict=True)}


def _print(turns: Sequence[DialogueTurn], answer: EndpointPrediction) -> None:
    weights = [f"weight of {name}" for name in answer.experts]  # the experts' names alone are those of other columns
    columns = [
        Column("turn"),
        Column("emotion"),
        Column("probability", right=True),
        *(Column(weight, right=True, drop=2) for weight in weights),
        Column("modalities", drop=1),
        *([Column("text source", drop=1)] if answer.text_sources else []),
        Column("transcript", folds=True),
    ]
    rows = [
        (
            str(index),
            answer.predicted[index] or "(context)",
            f"{answer.probabilities[index].max():.2f}" if answer.predicted[index] else "",
            *(f"{weight:.2f}" if answer.predicted[index] else "" for weight in answer.expert_weights[index]),
            answer.modalities[index],
            *([answer.text_sources[index]] if answer.text_sources else []),
            (turn.text or "")[:60],
        )
        for index, turn in enumerate(turns)
    ]
    console = output_console()
    print_table(console, columns, rows)
    console.print(f"model version {answer.parameters.get(MODEL_VERSION, '?')}", markup=False)
