"""Dialogues without the values that do not decode, for measurements that go on without them."""

from __future__ import annotations

from collections.abc import Sequence

from mistere.common.names import shown
from mistere.data.dataset import Utterance
from mistere.model.dialogue_model import CellDecodeError, DialogueModel
from mistere.model.encoders.preparation import prepared


def readable(model: DialogueModel, dialogue: Sequence[Utterance]) -> tuple[list[Utterance], list[str]]:
    """A dialogue without the values that the model cannot read.

    Args:
        model: with encoders.
        dialogue: the turns, in order.

    Returns:
        The turns, and a sentence without its full stop for each value that is left out.
    """

    def problem(cell: tuple[str, int]) -> CellDecodeError | None:
        modality, index = cell
        try:
            model.features(modality, dialogue, index)
        except CellDecodeError as error:
            return error
        return None

    cells = [(modality, index) for index in range(len(dialogue)) for modality in model.embedders]
    turns, left_out = list(dialogue), list[str]()
    for error in prepared(problem, cells):
        if error is not None:
            turn = turns[error.utterance]
            turns[error.utterance] = turn.with_cell(error.modality, None)
            reason = error.reason.rstrip(".")
            left_out.append(f"dialogue {shown(turn.dialogue_id)}, turn {turn.turn}: {reason[:1].lower()}{reason[1:]}")
    return turns, left_out
