"""Answers of annotators as a new version of a dataset: a copy of the base with the labelled dialogues added."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import Split
from mistere.corpora.import_report import ImportReport, write_counted
from mistere.corpora.tables.base import Base, read_base
from mistere.data.croissant import CardFacts, write_data_card
from mistere.data.dataset import Utterance
from mistere.labelling.answers import Answers, Place, Problem, read_answers
from mistere.labelling.consensus import Consensus, consensus
from mistere.labelling.exported import Export, open_export
from mistere.metrics.agreement import Agreement

SUMMARY: Final = "summary.json"
SET_ASIDE: Final = "set_aside.jsonl"


@dataclass(frozen=True)
class LabelledReport:
    """The result of an import.

    Attributes:
        imported: counts of the new dataset.
        dialogues: labelled dialogues that were added.
        replaced: how many of them the base had already.
        labels: added turns by label.
        answers: of the annotators.
        consensus: their labels and agreement.
        kept: labels of the base at turns of the replaced dialogues that got no new one.
        dropped: such labels that are not kept, because the turn has another text or recording now, or is gone.
    """

    imported: ImportReport
    dialogues: int
    replaced: int
    labels: dict[str, int]
    answers: Answers
    consensus: Consensus
    kept: int
    dropped: int

    def summary(self) -> dict[str, Any]:
        """The result as plain data, without the annotators' names."""
        return {
            "utterances": self.imported.counts,
            "added_dialogues": self.dialogues,
            "replaced_dialogues": self.replaced,
            "added_labels": self.labels,
            "kept_labels": self.kept,
            "dropped_labels": self.dropped,
            "annotators": len(self.answers.annotators),
            "skipped_annotations": self.answers.skipped,
            "turns_where_annotators_could_not_tell": len(self.answers.abstained),
            "turns_with_too_few_answers": self.consensus.too_few,
            "conflicts": len(self.consensus.conflicts),
            "problems": len(self.answers.problems),
            "agreement": _plain(self.consensus.agreement),
            "agreement_by_label": {name: _plain(one) for name, one in self.consensus.by_label.items()},
        }

    def set_aside(self) -> list[dict[str, Any]]:
        """A row for each turn without a label of its own, and for each part of the answers that did not fit."""
        return [_row(problem) for problem in (*self.consensus.conflicts, *self.answers.problems)]


def import_labels(
    export: Path, answers: Path, directory: Path, base: Path, *, least: int = 1, split: Split = "train"
) -> LabelledReport:
    """Make a new version of a dataset. The same files give the same bytes.

    Args:
        export: folder of the export that was labelled.
        answers: Label Studio's JSON export.
        directory: the new dataset; must not exist or be empty.
        base: the dataset to copy; its dialogues of the same names are replaced, but for their labels at turns that get no new one.
        least: annotators that a turn needs.
        split: the split of the new dialogues; those that the base has keep theirs.

    Raises:
        UsageError: a folder is not what it should be, or the labels of the export are not the base's.
        DataError: a file is damaged, or no turn got a label.
    """
    opened = open_export(export)
    manifest = opened.manifest
    old = read_base(base, frozenset(), audio=True)
    if unknown := [label for label in manifest.labels if label not in old.info.labels]:
        raise UsageError(
            f"{base} has no label {unknown[0]!r}, which annotators could choose; it has {', '.join(old.info.labels)}: name the base that the "
            "export was made with."
        )
    given = read_answers(answers, manifest.dialogues, manifest.labels)
    agreed = consensus(given, manifest.labels, least)
    chosen = frozenset(dialogue for dialogue, _ in agreed.labels)
    if not chosen:
        raise DataError(f"{answers}: no turn got a label: collect more answers, or lower --annotators.")
    old = read_base(base, chosen, audio=True)
    earlier = _EarlierLabels(old, agreed.labels)
    rows = _rows(old, opened, chosen, agreed.labels, split, earlier)
    imported = write_counted(directory, _described(old), rows)
    write_data_card(CardFacts.of_folder(directory), directory)
    counts = Counter(agreed.labels.values())
    labels = {label: counts[label] for label in old.info.labels}
    return LabelledReport(
        replace(imported, notes=_notes(old)),
        len(chosen),
        len(chosen & old.splits.keys()),
        labels,
        given,
        agreed,
        earlier.kept,
        len(earlier.left),
    )


def write_report(report: LabelledReport, folder: Path) -> None:
    """Write the summary, and what was set aside, over those of an earlier import."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in report.set_aside()]
    contents = {
        SET_ASIDE: "".join(f"{line}\n" for line in lines),
        SUMMARY: json.dumps(report.summary(), indent=1, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.replace(folder / name)


def _described(old: Base) -> Any:
    """``dataset.yaml`` of the new version: nobody knows whether the new dialogues' speakers are in other splits."""
    return old.info.model_copy(update={"speaker_disjoint": False})


def _notes(old: Base) -> list[str]:
    if not old.info.speaker_disjoint:
        return []
    return ["The speakers of live traffic are unknown, so the new version does not promise disjoint speakers."]


class _EarlierLabels:
    """The labels that the base has at turns of replaced dialogues without a new one.

    Args:
        old: the base.
        labels: the new labels.

    Attributes:
        left: turn → what the base has of it, without its content, and a digest of the content; those that are kept are taken out.
        kept: how many labels are kept.
    """

    def __init__(self, old: Base, labels: Mapping[Place, str]) -> None:
        self.kept = 0
        self.left: dict[Place, tuple[str, str | None, bytes]] = {}
        for turn in old.replaced_rows():
            place = turn.dialogue_id, turn.turn
            if turn.label is not None and place not in labels:
                self.left[place] = turn.label, turn.role, _content(turn)

    def restored(self, utterance: Utterance) -> Utterance:
        """The utterance with the label and role that the base has for it, if it is the same turn: a dialogue can have lost its first ones."""
        place = utterance.dialogue_id, utterance.turn
        label, role, content = self.left.get(place, ("", None, b""))
        if content != _content(utterance):
            return utterance
        del self.left[place]
        self.kept += 1
        return replace(utterance, label=label, role=role)


def _content(utterance: Utterance) -> bytes:
    text = "" if utterance.text is None else f"+{utterance.text}"
    return hashlib.sha256(f"{len(text)}{text}".encode() + (utterance.audio or b"")).digest()


def _rows(
    old: Base,
    export: Export,
    chosen: frozenset[str],
    labels: Mapping[Place, str],
    split: Split,
    earlier: _EarlierLabels,
) -> Iterator[tuple[Split, Utterance]]:
    """The base's rows, then the labelled dialogues in the order of the export; one dialogue is in memory."""
    yield from old.rows()
    role = old.info.predict_roles[0] if old.info.predict_roles else None
    for dialogue in export.dialogues():
        name = dialogue[0].dialogue_id
        if name not in chosen:
            continue
        for utterance in dialogue:
            label = labels.get((name, utterance.turn))
            # A dataset that predicts some roles reads the label of no other turn.
            changed = replace(utterance, label=label, role=role) if label is not None else earlier.restored(utterance)
            yield old.splits.get(name, split), changed


def _plain(agreement: Agreement) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(agreement).items()}


def _row(problem: Problem) -> dict[str, Any]:
    return {
        "dialogue_id": problem.dialogue,
        "turn": problem.turn,
        "reason": problem.reason,
        "answers": list(problem.answers),
    }
