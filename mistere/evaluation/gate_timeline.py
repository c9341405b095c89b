"""Timelines of some dialogues: transcript, prediction and the gate's weights for each turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.parsing.documents import read_json
from mistere.model.embeddings import UNLABELLED

if TYPE_CHECKING:
    from mistere.model.dialogue_prediction import DialoguePrediction

TIMELINES_FILE = "timelines.json"
_READABLE = range(4, 17)
_LONGEST_TEXT = 240


@dataclass(frozen=True)
class GateTimeline:
    """The gate's weights in one dialogue of T turns.

    Attributes:
        name: the dialogue's name.
        turns: numbers of the turns.
        true: true label of each turn; empty for a turn without one, which is context.
        predicted: predicted label of each turn; empty for a context turn.
        weights: the gate's weights ``[T, E]``.
        modalities: modalities of each turn, joined by ``+``.
        texts: transcripts, cut to 240 characters; an empty string if there is none.
    """

    name: str
    turns: list[int]
    true: list[str]
    predicted: list[str]
    weights: np.ndarray
    modalities: list[str]
    texts: list[str] = field(default_factory=list)

    def with_texts(self, texts: Mapping[int, str | None]) -> GateTimeline:
        """A copy with transcripts, given by turn."""
        return replace(self, texts=[_cut(texts.get(turn) or "") for turn in self.turns])


def liveliest(
    names: Sequence[str],
    answers: Sequence[DialoguePrediction],
    classes: Sequence[np.ndarray],
    labels: Sequence[str],
    count: int = 2,
) -> list[GateTimeline]:
    """The dialogues of a readable length in which the gate's weights vary most; of a longer one the first 16 turns.

    Args:
        names: names of the dialogues.
        answers: a prediction for each dialogue.
        classes: true classes ``[n]`` of each dialogue; :data:`~mistere.model.embeddings.UNLABELLED` for a context turn.
        labels: names of the classes.
        count: maximum number of timelines.
    """
    rows = list(zip(names, answers, classes, strict=True))
    readable = [row for row in rows if len(row[2]) in _READABLE] or rows
    readable.sort(key=lambda row: -float(row[1].expert_weights.std(axis=0).sum()))
    timelines = []
    for name, answer, true in readable[:count]:
        shown = min(len(true), _READABLE.stop - 1)
        timelines.append(
            GateTimeline(
                name=name,
                turns=list(range(shown)),
                true=[_name(label, labels) for label in true[:shown]],
                predicted=[
                    _name(label, labels)
                    for label in np.where(true == UNLABELLED, UNLABELLED, answer.probabilities.argmax(1))[:shown]
                ],
                weights=answer.expert_weights[:shown].astype(np.float64),
                modalities=answer.modalities[:shown],
            )
        )
    return timelines


def _name(label: int, labels: Sequence[str]) -> str:
    return "" if label == UNLABELLED else labels[label]


def write_timelines(path: Path, timelines: Sequence[GateTimeline]) -> None:
    """Write timelines as JSON."""
    plain = [{**asdict(timeline), "weights": timeline.weights.round(6).tolist()} for timeline in timelines]
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")


def read_timelines(path: Path) -> list[GateTimeline]:
    """Read timelines that :func:`write_timelines` wrote.

    Raises:
        ValueError: the file does not hold timelines.
    """
    try:
        rows = read_json(path)
        return [GateTimeline(**{**row, "weights": np.array(row["weights"], dtype=np.float64)}) for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path.name} does not hold timelines") from error


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
