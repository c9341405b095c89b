"""Some dialogues turn by turn: what was said, what was answered, and which expert was trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mistere.model.mixture.prediction import DialoguePrediction

TIMELINES_FILE = "timelines.json"
_READABLE = range(4, 17)
_LONGEST_TEXT = 240


@dataclass(frozen=True)
class GateTimeline:
    """The gate at work in one dialogue of T turns.

    Attributes:
        name: of the dialogue.
        turns: their numbers.
        true: label of each.
        predicted: the label that was given.
        weights: the gate's ``[T, E]``.
        modalities: what each turn has, joined by ``+``.
        texts: the transcripts, cut to 240 characters; empty strings where there are none.
    """

    name: str
    turns: list[int]
    true: list[str]
    predicted: list[str]
    weights: np.ndarray
    modalities: list[str]
    texts: list[str] = field(default_factory=list)

    def with_texts(self, texts: Mapping[int, str | None]) -> GateTimeline:
        """The same with transcripts, by turn."""
        return replace(self, texts=[_cut(texts.get(turn) or "") for turn in self.turns])


def liveliest(
    names: Sequence[str],
    answers: Sequence[DialoguePrediction],
    classes: Sequence[np.ndarray],
    labels: Sequence[str],
    count: int = 2,
) -> list[GateTimeline]:
    """The dialogues of a readable length in which the gate's weights move most; of a longer one the first 16 turns.

    Args:
        names: of the dialogues.
        answers: one a dialogue.
        classes: what was true, ``[n]`` a dialogue.
        labels: the classes' names.
        count: how many at most.
    """
    rows = list(zip(names, answers, classes, strict=True))
    readable = [row for row in rows if len(row[2]) in _READABLE] or rows
    readable.sort(key=lambda row: -float(row[1].expert_weights.std(axis=0).sum()))
    found = []
    for name, answer, true in readable[:count]:
        shown = min(len(true), _READABLE.stop - 1)
        found.append(
            GateTimeline(
                name=name,
                turns=list(range(shown)),
                true=[labels[label] for label in true[:shown]],
                predicted=[labels[label] for label in answer.probabilities[:shown].argmax(1)],
                weights=answer.expert_weights[:shown].astype(np.float64),
                modalities=answer.modalities[:shown],
            )
        )
    return found


def write_timelines(path: Path, timelines: Sequence[GateTimeline]) -> None:
    """Write them as JSON."""
    plain = [{**asdict(timeline), "weights": timeline.weights.round(6).tolist()} for timeline in timelines]
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")


def read_timelines(path: Path) -> list[GateTimeline]:
    """Read what :func:`write_timelines` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [GateTimeline(**{**row, "weights": np.array(row["weights"], dtype=np.float64)}) for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path.name} does not hold timelines") from error


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
