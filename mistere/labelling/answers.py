"""Read the answers of annotators from Label Studio's JSON export (https://labelstud.io/guide/export, format JSON).

The file comes from outside: texts and recordings are never taken from it, only which choice was made at which turn. What does not fit the
export is set aside with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import DataError, UsageError
from mistere.common.names import shown
from mistere.common.parsing.documents import ParseError, read_json
from mistere.labelling.tasks import CANNOT_TELL, QUESTION

Place = tuple[str, int]
"""A turn: name of the dialogue, index."""
_NAME: Final = re.compile(rf"{QUESTION}([0-9]{{1,6}})")
_MOST_PROBLEMS: Final = 10_000


@dataclass(frozen=True)
class Problem:
    """Something that was set aside.

    Attributes:
        reason: a clause.
        dialogue: name of the dialogue; empty if it is unknown.
        turn: index of the turn; None for the whole dialogue.
        answers: the choices, without the annotators' names.
    """

    reason: str
    dialogue: str = ""
    turn: int | None = None
    answers: tuple[str, ...] = ()


@dataclass
class Answers:
    """The answers.

    Attributes:
        given: turn → annotator → label; an annotator who could not tell has no entry.
        abstained: turns at which annotators could not tell, with how many did.
        annotators: all annotators with an answer or without.
        skipped: annotations that an annotator skipped.
        problems: what does not fit the export.
    """

    given: dict[Place, dict[str, str]] = field(default_factory=dict)
    abstained: dict[Place, int] = field(default_factory=dict)
    annotators: set[str] = field(default_factory=set)
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)

    def note(self, problem: Problem) -> None:
        """Set something aside; a hostile file cannot make the list grow without end."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True)
class _Annotation:
    """The answers of one annotator to one dialogue."""

    dialogue: str
    annotator: str
    stamp: tuple[str, str]
    content: Mapping[str, Any]


def read_answers(path: Path, asked: Mapping[str, Sequence[int]], labels: Sequence[str]) -> Answers:
    """Read a file of answers.

    Of several annotations of a dialogue by the same annotator the one that was updated last counts.

    Args:
        path: Label Studio's export.
        asked: name of each dialogue → the turns that were asked.
        labels: the choices.

    Raises:
        UsageError: there is no such file.
        DataError: it is not JSON, or no list of tasks.
    """
    if not path.is_file():
        raise UsageError(f"{path} is missing or no file: name the JSON that Label Studio exported.")
    try:
        tasks = read_json(path)
    except ParseError as error:
        raise DataError(f"{path} is not JSON ({error}): export the project in the format JSON.") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path} is no list of tasks: export the project in the format JSON.")
    answers = Answers()
    latest: dict[tuple[str, str], _Annotation] = {}
    for task in tasks:
        for annotation in _annotations(task, asked, answers):
            key = (annotation.dialogue, annotation.annotator)
            before = latest.get(key)
            if before is None or annotation.stamp > before.stamp:
                latest[key] = annotation
    turns = {name: frozenset(indices) for name, indices in asked.items()}
    for _, annotation in sorted(latest.items()):
        _read(annotation, turns[annotation.dialogue], frozenset(labels), answers)
    return answers


def _annotations(
    task: Mapping[str, Any], asked: Mapping[str, Sequence[int]], answers: Answers
) -> Iterator[_Annotation]:
    data, annotations = task.get("data"), task.get("annotations")
    name = data.get("dialogue_id") if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in asked:
        answers.note(Problem(f"a task names the dialogue {shown(name)}, which is not in the export"))
        return
    if not isinstance(annotations, list):
        answers.note(Problem("a task has no list of annotations: export the format JSON, not JSON-MIN", name))
        return
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            answers.note(Problem("an annotation has no list of results", name))
            continue
        annotator = _annotator(annotation.get("completed_by"))
        if annotator is None:
            answers.note(Problem("an annotation does not say who made it", name))
            continue
        answers.annotators.add(annotator)
        if annotation.get("was_cancelled") is True:
            answers.skipped += 1
            continue
        stamp = str(annotation.get("updated_at") or ""), str(annotation.get("id") or "").rjust(20, "0")
        yield _Annotation(name, annotator, stamp, annotation)


def _annotator(value: Any) -> str | None:
    """A key for an annotator: Label Studio writes a number, or an object with one."""
    if isinstance(value, dict):
        value = value.get("id", value.get("email"))
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        return None
    return str(value)[:200]


def _read(annotation: _Annotation, asked: frozenset[int], labels: frozenset[str], answers: Answers) -> None:
    chosen: dict[int, str] = {}
    contradicted: set[int] = set()
    for result in annotation.content["result"]:
        name = result.get("from_name") if isinstance(result, dict) else None
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            answers.note(Problem(f"a result of {shown(name)}, which is no question of the export", annotation.dialogue))
            continue
        turn = int(match[1])
        value = result.get("value")
        choices = value.get("choices") if isinstance(value, dict) else None
        problem = ""
        if turn not in asked:
            problem = "the turn was not asked"
        elif not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str):
            problem = "an answer is not one choice"
        elif choices[0] not in labels and choices[0] != CANNOT_TELL:
            problem = f"the label {shown(choices[0])} is unknown"
        elif chosen.setdefault(turn, choices[0]) != choices[0]:
            problem = "an annotator has two answers"
            contradicted.add(turn)
        if problem:
            answers.note(Problem(problem, annotation.dialogue, turn))
    for turn, label in chosen.items():
        if turn in contradicted:
            continue
        place = annotation.dialogue, turn
        if label == CANNOT_TELL and label not in labels:
            answers.abstained[place] = answers.abstained.get(place, 0) + 1
        else:
            answers.given.setdefault(place, {})[annotation.annotator] = label
