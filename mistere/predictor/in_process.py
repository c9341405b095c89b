"""Predicting with a bundle in this process, as :func:`mistere.load` offers it: the endpoint's answers without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mistere.common.errors import UsageError
from mistere.model.inference import EmotionModel, load_bundle
from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.codec import (
    DialogueRequest,
    RequestTurn,
    check_turns,
    predicted_labels,
    response_parameters,
    script_warning,
    with_all_experts,
    without_context,
)
from mistere.serving.client import EndpointPrediction
from mistere.serving.dialogue import AnyUtterance, dialogue_turns


class LoadedModel:
    """A released model in this process.

    Args:
        model: the opened bundle.
    """

    def __init__(self, model: EmotionModel) -> None:
        self._model = model

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the probabilities."""
        return list(self._model.labels)

    def predict(self, dialogue: Sequence[AnyUtterance], *, detail: bool = False) -> EndpointPrediction:
        """Predict one dialogue, with the same numbers as the endpoint's answer.

        Args:
            dialogue: its utterances in order; see :data:`mistere.serving.dialogue.AnyUtterance`.
            detail: return the probabilities of each expert, too.

        Raises:
            UsageError: the dialogue is malformed or has nothing that the model reads, or an audio file does not exist.
            AudioDecodeError: the audio of an utterance does not decode.
        """
        given = dialogue_turns(dialogue)
        turns = [RequestTurn(text=turn.text, audio=turn.audio) for turn in given]
        try:
            check_turns(turns, self._model)
        except RequestError as error:
            raise UsageError(error.message) from error
        (prediction,) = self._model.predict([turns])
        context = [index for index, turn in enumerate(given) if not turn.predict]
        prediction = without_context(with_all_experts(prediction, self._model.experts), context)
        warnings, _ = script_warning([DialogueRequest(turns=turns)], self._model)
        return EndpointPrediction(
            predicted=predicted_labels(prediction, self._model.labels),
            probabilities=prediction.probabilities,
            expert_weights=prediction.expert_weights,
            expert_probabilities=prediction.expert_probabilities if detail else None,
            modalities=list(prediction.modalities),
            parameters={**response_parameters(self._model), **warnings},
        )


def load(bundle: str | Path) -> LoadedModel:
    """Open a bundle and verify its files.

    Args:
        bundle: ``<store>/artifacts/ModelBundle/<digest>``, a directory or an ``s3://`` URI.

    Raises:
        ArtifactError: it is missing, incomplete or damaged; the message names the file.
    """
    return LoadedModel(load_bundle(str(bundle)))
