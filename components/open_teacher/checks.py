"""Whether a dataset suits the teacher that a student is to be made of."""

from __future__ import annotations

from mistere.artifacts.manifests import ModelBundle, UtteranceSet
from mistere.common.errors import DataError


def check_data(data: UtteranceSet, teacher: ModelBundle) -> None:
    """Check that the data has the teacher's labels and modalities.

    Raises:
        DataError: it has other labels, or lacks a modality.
    """
    if data.labels != teacher.labels:
        raise DataError(
            f"{data.name} has the labels {', '.join(data.labels)}, the teacher {', '.join(teacher.labels)}: name the data that "
            "it was trained on, or data with the same labels, with --data."
        )
    if missing := [name for name in teacher.encoders if name not in data.modalities]:
        raise DataError(f"{data.name} has no {missing[0]}, which the teacher reads: name other data with --data.")


def check_test_split(data: UtteranceSet, teacher: ModelBundle, limits: UtteranceSet | None) -> None:
    """Check that the data has the teacher's test split.

    Another split may hold utterances that the teacher was trained on: both models would look better than they are.

    Args:
        data: the data.
        teacher: the bundle.
        limits: the teacher's data, as far as the same limits apply to other data; None for none.

    Raises:
        DataError: it has another one.
    """
    known = {made.identity.test_digest for made in teacher.encoders.values()} - {""}
    if not known - {data.test_digest}:
        return
    why = ""
    if limits is not None and limits.max_dialogues is not None:
        why = f" (of the teacher's, {limits.max_dialogues} dialogues were drawn by their names, and other data give other ones)"
    elif limits is not None and limits.quarantined.get("test"):
        why = " (dialogues of the teacher's were set aside: `--set validation.…` names the thresholds of its run)"
    raise DataError(
        f"{data.name} has another test split than the data that the teacher was trained on{why}, so what the teacher was trained on "
        "may be in it: name the teacher's data with --data, or leave --data out."
    )
