"""What only some answers have: where texts come from, and an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mistere.serving import protocol

if TYPE_CHECKING:
    from mistere.data.transcripts import TextSource
    from mistere.model.dialogue_model import EmotionModel
    from mistere.serving.explanation import Explanation


def further_outputs(
    sources: Sequence[Sequence[TextSource] | None], explanations: Sequence[Explanation]
) -> list[dict[str, np.ndarray]]:
    """The outputs of each dialogue that only some answers have, in their order.

    Args:
        sources: where the texts come from, as :func:`text_sources`; None leaves the output out.
        explanations: of the dialogues; none leaves their outputs out.
    """
    outputs: list[dict[str, np.ndarray]] = [
        {} if source is None else {protocol.TEXT_SOURCE: np.array(source, dtype=object)} for source in sources
    ]
    for output, explanation in zip(outputs, explanations, strict=False):
        output.update(explanation.outputs())
    return outputs


def explanation_parameters(model: EmotionModel) -> dict[str, str]:
    """The parameters of a response with an explanation."""
    modalities = protocol.join_names(protocol.in_order(model.dimensions))
    return {protocol.MODALITIES: modalities, protocol.WEIGHTS_MEANING: protocol.WEIGHTS_MEAN}
