"""V1 JSON, convenient for curl: ``{"instances": [{"utterances": [{"text": ..., "audio": "<base64>"}]}]}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistere.predictor.errors import invalid, own_words, printable
from mistere.predictor.protocol.cells import cell_of_json, further_modalities
from mistere.predictor.protocol.codec import (
    DialogueRequest,
    RequestTurn,
    check_turns,
    predicted_labels,
    response_parameters,
)
from mistere.predictor.protocol.parameters import read_consent, read_detail, read_parameters
from mistere.predictor.protocol.tensors import check_length, decode_base64
from mistere.predictor.settings import Limits
from mistere.predictor.stream.origin import ORIGIN
from mistere.serving import protocol

if TYPE_CHECKING:
    import numpy as np

    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction


def decode_v1(body: dict[str, Any], model: EmotionModel, limits: Limits) -> list[DialogueRequest]:
    """Convert a V1 body to dialogues, one per instance; the limit on utterances holds for all instances together.

    Raises:
        RequestError: the body is invalid.
    """
    parameters = read_parameters(body.get("parameters"), "a request")
    detail, explain = read_detail(parameters)
    transcribe = bool(parameters.get(protocol.TRANSCRIBE, True))
    instances = body.get("instances")
    if not isinstance(instances, list) or not instances:
        raise own_words('The body must be {"instances": [{"utterances": [...]}]} with at least one instance.')
    keeping = read_consent(parameters, len(instances))
    dialogues: list[DialogueRequest] = []
    total = 0
    for number, instance in enumerate(instances):
        utterances = instance.get("utterances") if isinstance(instance, dict) else None
        if not isinstance(utterances, list):
            raise invalid(f"Instance {number} must be a JSON object with a list of utterances.")
        check_length(len(utterances), limits)
        total += len(utterances)
        check_length(total, limits)
        turns = [_turn(utterance, index, model) for index, utterance in enumerate(utterances)]
        check_turns(turns, model, transcribe)
        context = frozenset(
            index for index, utterance in enumerate(utterances) if utterance.get(protocol.PREDICT) is False
        )
        dialogues.append(
            DialogueRequest(
                turns=turns,
                detail=detail,
                explain=explain,
                context=context,
                transcribe=transcribe,
                origin=ORIGIN.get(),
                **keeping,
            )
        )
    return dialogues


def _turn(utterance: Any, index: int, model: EmotionModel) -> RequestTurn:
    if not isinstance(utterance, dict):
        raise invalid(f"Utterance {index} must be a JSON object.")
    others: dict[str, Any] = {}
    further = further_modalities(model)
    for name, value in utterance.items():
        if name in further:
            if (cell := cell_of_json(name, value, index, model)) is not None:
                others[name] = cell
            continue
        if name == protocol.PREDICT:
            if not isinstance(value, bool | None):
                raise invalid(f"The field {name} of utterance {index} must be true or false.")
            continue
        if name not in protocol.RAW_INPUTS:
            known = ", ".join((*protocol.RAW_INPUTS, *further, protocol.PREDICT))
            raise invalid(f"Unknown field {printable(name)!r}; known: {known}.")
        if not isinstance(value, str | None):
            raise invalid(f"The field {name} of utterance {index} must be a string.")
    encoded = utterance.get(protocol.AUDIO)
    return RequestTurn(
        text=utterance.get(protocol.TEXT) or None,
        audio=decode_base64(encoded, f"The audio of utterance {index}") if encoded else None,
        audio_uri=utterance.get(protocol.AUDIO_URI) or None,
        audio_digest=utterance.get(protocol.AUDIO_DIGEST) or None,
        others=others,
    )


def encode_v1(
    predictions: Sequence[DialoguePrediction],
    request_id: str,
    model: EmotionModel,
    detail: bool,
    warnings: Mapping[str, str],
    further: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Convert predictions to a V1 response: an object per instance, with the names of the V2 outputs.

    ``further`` has the fields of each instance that only some answers have, see :func:`mistere.predictor.protocol.further_outputs.further_outputs`.
    """
    objects: list[dict[str, Any]] = []
    for prediction, others in zip(predictions, further, strict=True):
        fields: dict[str, Any] = {
            protocol.LABEL: predicted_labels(prediction, model.labels),
            protocol.PROBABILITIES: prediction.probabilities.tolist(),
            protocol.EXPERT_WEIGHTS: prediction.expert_weights.tolist(),
        }
        if detail:
            fields[protocol.EXPERT_PROBABILITIES] = prediction.expert_probabilities.tolist()
        fields[protocol.MODALITIES_USED] = list(prediction.modalities)
        fields.update({name: array.tolist() for name, array in others.items()})
        objects.append(fields)
    return {"id": request_id, "predictions": objects, "parameters": {**response_parameters(model), **warnings}}
