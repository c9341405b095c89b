"""The example dialogue of the bundle: of the test split, made up, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mistere.serving.example_dialogue import Example
from mistere.serving.made_up_dialogue import made_up_dialogue

if TYPE_CHECKING:
    import numpy as np

    from mistere.artifacts.manifests import UtteranceSet
    from mistere.data.dataset import Utterance
    from mistere.model.dialogue_model import DialogueModel


def chosen_example(
    choice: str,
    data: UtteranceSet,
    test: Sequence[Utterance],
    probabilities: Mapping[str, np.ndarray],
    whole: Callable[[], DialogueModel],
) -> Example | None:
    """The example that ``evaluation.example`` asks for; a made-up one where no test dialogue is within the endpoint's limits.

    Args:
        choice: the setting.
        data: the dataset.
        test: a test dialogue that can be sent; empty if there is none.
        probabilities: ``[n, C]`` of each test dialogue, by its name.
        whole: loads encoders and mixture; called for a made-up dialogue alone.
    """
    if choice == "none":
        return None
    if test and (choice == "test" or (choice == "auto" and data.synthetic)):
        return Example(list(test), probabilities[test[0].dialogue_id])
    model = whole()
    widths = {name: model.input_width(name) for name in model.dimensions}
    dialogue = made_up_dialogue({name: model.kind(name).name for name in model.dimensions}, widths)
    return Example(dialogue, model.predict([dialogue])[0].probabilities) if dialogue else None
