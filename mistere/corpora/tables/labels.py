"""The labels of a table: their names, in one spelling each."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.common.counting import counted
from mistere.common.errors import DataError
from mistere.corpora.tables.rows import NO_CLASS, Table


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a table.

    Attributes:
        names: the name of each label as it stands in the table.
        declared: all labels in order.
        notes: labels that were imported under another name.
    """

    names: Mapping[str, str]
    declared: list[str]
    notes: list[str]


def name_labels(table: Table, known: Sequence[str]) -> Labels:
    """Find the name of every label of a table.

    A label that is not known is taken as the index of a known one if it is a whole number, or as a known one that differs only in
    upper and lower case or Unicode form.

    Args:
        table: the table.
        known: all labels in order, as the user or the base names them; empty for those of the table.

    Raises:
        DataError: a label is unknown, or two labels of the table differ only in case or Unicode form.
    """
    classes = list(table.class_names)
    first: dict[str, str] = {}
    for row in table.rows:
        if row.label is not None:
            first.setdefault(row.label, row.where)
    if not known and not classes:
        _refuse_variants(first)
        return Labels({label: label for label in first}, _sorted(set(first)), [])
    declared = list(known) or classes
    names: dict[str, str] = {}
    for label, where in first.items():
        names[label] = _known_name(_class_name(label, classes, where), declared, where)
    counts = Counter(row.label for row in table.rows)
    notes = [
        f"{counted(counts[label], 'utterance')} with the label {label!r} {'is' if counts[label] == 1 else 'are'} imported as {name!r}."
        for label, name in sorted(names.items())
        if label != name and not _is_index(label)
    ]
    return Labels(names, declared, notes)


def _class_name(label: str, classes: Sequence[str], where: str) -> str:
    """The name of a class that is stored as a number."""
    if classes and label == str(NO_CLASS):
        raise DataError(
            f"{where}: there is no label (the class is -1); every utterance needs one, unless --unlabelled context makes those without it "
            "context."
        )
    return classes[int(label)] if _is_index(label) and int(label) < len(classes) else label


def _known_name(label: str, declared: Sequence[str], where: str) -> str:
    if label in declared:
        return label
    same = [name for name in declared if _folded(name) == _folded(label)]
    if len(same) == 1:
        return same[0]
    if _is_index(label) and int(label) < len(declared):
        return declared[int(label)]
    raise DataError(f"{where}: unknown label {label[:40]!r}; the labels are {', '.join(declared)}.")


def _refuse_variants(first: Mapping[str, str]) -> None:
    spellings: dict[str, str] = {}
    for label, where in first.items():
        other = spellings.setdefault(_folded(label), label)
        if other != label:
            raise DataError(
                f"{where}: the labels {label[:40]!r} and {other[:40]!r} differ only in case or spacing: name all labels with --labels, "
                "with one of the two to join them, or with both to keep them apart."
            )


def _folded(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def _is_index(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 10


def _sorted(labels: set[str]) -> list[str]:
    """Sort by name, or by value if all labels are whole numbers."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)
