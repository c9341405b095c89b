"""Convert Open Inference Protocol tensors to a dialogue, and a prediction to tensors, and check the endpoint's contract.

A request is one dialogue, in order; every tensor has one element (or row) per utterance.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse

from mistere.data.scripts import unknown_scripts
from mistere.data.text_repair import is_blank
from mistere.predictor.errors import invalid, printable
from mistere.predictor.protocol.cells import cells_of_tensor, further_modalities
from mistere.predictor.protocol.parameters import read_consent, read_detail, read_parameters
from mistere.predictor.protocol.tensors import bytes_elements, check_length, is_shape, tensor_data
from mistere.predictor.protocol.vectors import decode_embeddings, embedding_modalities, takes_vectors
from mistere.predictor.settings import Limits
from mistere.predictor.stream.origin import StreamOrigin
from mistere.serving import protocol

if TYPE_CHECKING:
    from mistere.data.transcripts import TextSource
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION_LENGTH = 12
_DATATYPES = {"O": "BYTES", "i": "INT32"}
"""The type of an array (numpy's character) → the datatype of an output; all others are sent as FP32."""
_FLAGS = {b"true": True, b"True": True, b"false": False, b"False": False}
"""The elements of a BYTES tensor ``predict``; clients in Python write the second spelling."""


@dataclass(frozen=True, slots=True)
class RequestTurn:
    """An utterance of a request, with its audio in at most one of three forms.

    Attributes:
        text: the transcript.
        audio: an encoded file.
        audio_uri: an S3 location of one.
        audio_digest: SHA-256 (hexadecimal) of one sent before.
        others: the cells of further modalities, by name.
        clip_digest: SHA-256 (hexadecimal) of ``audio``, or ``audio_digest``; empty without both.
    """

    text: str | None = None
    audio: bytes | None = None
    audio_uri: str | None = None
    audio_digest: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)
    clip_digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        digest = self.audio_digest or (hashlib.sha256(self.audio).hexdigest() if self.audio else "")
        object.__setattr__(self, "clip_digest", digest)

    @property
    def has_audio(self) -> bool:
        """Whether the utterance has audio in any form."""
        return self.audio is not None or self.audio_uri is not None or self.audio_digest is not None


@dataclass(frozen=True)
class DialogueRequest:
    """A dialogue of a request: either raw turns or embeddings (modality → float32 ``[n, d]``).

    Attributes:
        turns: the utterances; empty with embeddings.
        embeddings: the embeddings; empty with turns.
        detail: whether the response holds the per-expert probabilities.
        explain: whether it holds an explanation.
        context: indices of the utterances that are not predicted.
        transcribe: whether the server may transcribe utterances that have audio and no text.
        dialogue_id: the client's name of the dialogue; empty for none.
        consent: whether the dialogue may be kept for labelling.
        origin: the stream that it is a part of; None for a request that came as a whole.
    """

    turns: list[RequestTurn] = field(default_factory=list)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    detail: bool = False
    explain: bool = False
    context: frozenset[int] = frozenset()
    transcribe: bool = True
    dialogue_id: str = ""
    consent: bool = False
    origin: StreamOrigin | None = None

    @property
    def is_interim(self) -> bool:
        """Whether its last turn is still open, so that the answer is counted nowhere."""
        return self.origin is not None and self.origin.interim

    def __len__(self) -> int:
        """The number of utterances."""
        return len(next(iter(self.embeddings.values()))) if self.embeddings else len(self.turns)


def model_version(model: EmotionModel) -> str:
    """The model version in responses: the first digits of the bundle's digest."""
    return str(model.bundle.digest)[:_VERSION_LENGTH]


def response_parameters(model: EmotionModel) -> dict[str, str]:
    """The parameters that every response has."""
    return {
        protocol.MODEL_VERSION: model_version(model),
        protocol.BUNDLE_DIGEST: model.bundle.digest,
        protocol.LABELS: protocol.join_names(model.labels),
        protocol.EXPERTS: protocol.join_names(expert_names(model.experts)),
    }


def output_names(model: EmotionModel) -> tuple[str, ...]:
    """The outputs that a request may ask for."""
    source = () if model.transcriber is None else (protocol.TEXT_SOURCE,)
    return (*protocol.OUTPUTS, *source, *protocol.EXPLANATION_OUTPUTS)


def text_sources(sent: DialogueRequest, read: DialogueRequest, model: EmotionModel) -> list[TextSource] | None:
    """Where the text of each utterance of a dialogue comes from; None for a model that does not transcribe.

    Args:
        sent: the dialogue as the client sent it.
        read: the same with the transcripts that the model added.
        model: the model.
    """
    if model.transcriber is None:
        return None
    texts = [(is_blank(a.text or ""), is_blank(b.text or "")) for a, b in zip(sent.turns, read.turns, strict=True)]
    sources: list[TextSource] = ["none" if silent else "asr" if added else "human" for added, silent in texts]
    return sources or ["none"] * len(read)  # embeddings have no texts


def script_warning(dialogues: Sequence[DialogueRequest], model: EmotionModel) -> dict[str, str]:
    """The parameter that names utterances in an unknown script, if there are any.

    Utterances are counted over all dialogues of a request.
    """
    texts = [turn.text for dialogue in dialogues for turn in dialogue.turns]
    unknown = unknown_scripts(texts, model.bundle.scripts)
    if not unknown:
        return {}
    listed = [f"{script}: {', '.join(map(str, unknown[script]))}" for script in sorted(unknown)]
    return {protocol.UNKNOWN_SCRIPT: "; ".join(listed)}


def check_turns(turns: Sequence[RequestTurn], model: EmotionModel, transcribe: bool = True) -> None:
    """Reject a dialogue without any input for the model, and an utterance with more than one form of audio.

    Args:
        turns: the utterances.
        model: the model.
        transcribe: whether audio may be transcribed, so that a model of text reads it.
    """
    if not model.encoder_digests:
        raise takes_vectors(model)
    for index, turn in enumerate(turns):
        forms = [form is not None for form in (turn.audio, turn.audio_uri, turn.audio_digest)]
        if sum(forms) > 1:
            raise invalid(f"Utterance {index} has its audio in more than one of audio, audio_uri and audio_digest.")
        if turn.audio_digest is not None and not _DIGEST.fullmatch(turn.audio_digest):
            raise invalid(
                f"The audio_digest of utterance {index} is not a SHA-256 in 64 lower-case hexadecimal digits."
            )
    text = "text" in model.encoder_digests and any(turn.text is not None and not is_blank(turn.text) for turn in turns)
    hears = "speech" in model.encoder_digests or (transcribe and model.transcriber is not None)
    speech = hears and any(turn.has_audio for turn in turns)
    further = further_modalities(model)
    other = any(turn.others.get(name) is not None for name in further for turn in turns)
    if not text and not speech and not other:
        known = " or ".join(sorted(model.encoder_digests)) or "nothing"
        raise invalid(f"No utterance of the dialogue has anything this model reads ({known}).")


def decode_request(request: InferRequest, model: EmotionModel, limits: Limits) -> DialogueRequest:
    """Convert a V2 request to a dialogue.

    Raises:
        RequestError: the request violates the contract.
    """
    parameters = read_parameters(request.parameters, "a request")
    detail, explain = read_detail(parameters)
    transcribe = bool(parameters.get(protocol.TRANSCRIBE, True))
    keeping = read_consent(parameters)
    wanted = {output.name for output in request.request_outputs or []}
    if unknown := wanted.difference(answers := output_names(model)):
        raise invalid(f"Unknown output {printable(sorted(unknown)[0])!r}; known: {', '.join(answers)}.")
    tensors: dict[str, InferInput] = {}
    modalities = embedding_modalities(model)
    known = (*protocol.RAW_INPUTS, *further_modalities(model), *modalities, protocol.PREDICT)
    for tensor in request.inputs:
        if tensor.name not in known:
            raise invalid(f"Unknown tensor {printable(tensor.name)!r}; known: {', '.join(known)}.")
        if tensor.name in tensors:
            raise invalid(f"The request has the tensor {tensor.name} twice.")
        tensors[tensor.name] = tensor
    flags = tensors.pop(protocol.PREDICT, None)
    if not tensors:
        raise invalid(
            "The request has no input tensor." if flags is None else "The request has no text, audio or embedding."
        )
    detail = detail or protocol.EXPERT_PROBABILITIES in wanted
    explain = explain or not wanted.isdisjoint(protocol.EXPLANATION_OUTPUTS)
    embedded = [name for name in modalities if name in tensors]
    if embedded:
        if len(embedded) < len(tensors):
            raise invalid("A request has either embeddings or text and audio: send one or the other.")
        embeddings = decode_embeddings(tensors, parameters, model, limits)
        length = len(next(iter(embeddings.values())))
        context = _context(flags, length, limits)
        return DialogueRequest(embeddings=embeddings, detail=detail, explain=explain, context=context, **keeping)
    columns = {name: _bytes_column(tensor, limits) for name, tensor in tensors.items() if name in protocol.RAW_INPUTS}
    others = {
        name: _cell_column(tensor, model, limits) for name, tensor in tensors.items() if name not in protocol.RAW_INPUTS
    }
    lengths = {len(column) for column in columns.values()} | {len(column) for column in others.values()}
    if len(lengths) > 1:
        raise invalid("All tensors must have one element for each utterance; their lengths differ.")
    turns = _turns(columns, lengths.pop(), others)
    check_turns(turns, model, transcribe)
    context = _context(flags, len(turns), limits)
    return DialogueRequest(
        turns=turns, detail=detail, explain=explain, context=context, transcribe=transcribe, **keeping
    )


def _column_values(tensor: InferInput) -> list[Any]:
    """The elements of a tensor ``[n]``, or ``[n, 1]``: MLServer's codecs for strings and base64 send a column so, and so do clients
    of a Triton model whose configuration has a batch dimension. The elements may be nested as the shape is.
    """
    shape = list(tensor.shape)
    column = is_shape(shape, 2) and shape[1] == 1
    if not column and not is_shape(shape, 1):
        raise invalid(f"The tensor {tensor.name} must have the shape [n] or [n, 1].")
    data = tensor_data(tensor)
    values = data.tolist() if isinstance(data, np.ndarray) else data
    if (
        column
        and isinstance(values, list)
        and values
        and all(isinstance(row, list) and len(row) == 1 for row in values)
    ):
        values = [row[0] for row in values]
    if not isinstance(values, list) or len(values) != shape[0]:
        raise invalid(f"The tensor {tensor.name} does not hold the {shape[0]} elements of its shape.")
    return values


def _context(tensor: InferInput | None, length: int, limits: Limits) -> frozenset[int]:
    """The utterances that the tensor ``predict`` marks as context only."""
    if tensor is None:
        return frozenset()
    if tensor.datatype not in ("BOOL", "BYTES"):
        raise invalid("The tensor predict must have the datatype BOOL, or BYTES of true and false.")
    values = _column_values(tensor)
    check_length(len(values), limits)
    if len(values) != length:
        raise invalid(f"The tensor predict must have an element for each utterance ({length}); it has {len(values)}.")
    flags = [_flag(value, tensor.datatype) for value in values]
    if None in flags:
        raise invalid(f"Element {flags.index(None)} of the tensor predict is neither true nor false.")
    return frozenset(index for index, flag in enumerate(flags) if not flag)


def _flag(value: Any, datatype: str) -> bool | None:
    """The truth value of an element; None if it is none."""
    if datatype == "BOOL":
        return value if isinstance(value, bool) else None
    return _FLAGS.get(value.encode() if isinstance(value, str) else value) if isinstance(value, str | bytes) else None


def _bytes_column(tensor: InferInput, limits: Limits) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise invalid(f"The tensor {tensor.name} must have the datatype BYTES.")
    values = _column_values(tensor)
    check_length(len(values), limits)
    content = (tensor.parameters or {}).get(protocol.CONTENT_TYPE)
    return bytes_elements(tensor.name, values, content, plain_text=tensor.name != protocol.AUDIO)


def _cell_column(tensor: InferInput, model: EmotionModel, limits: Limits) -> list[Any | None]:
    """The cells of a further modality; the number of utterances is checked before any of them."""
    if tensor.shape and type(tensor.shape[0]) is int:
        check_length(tensor.shape[0], limits)
    return cells_of_tensor(tensor.name, tensor, tensor_data(tensor), model)


def _text(value: bytes, name: str, index: int) -> str | None:
    try:
        return value.decode() or None
    except UnicodeDecodeError as error:
        raise invalid(f"Element {index} of the tensor {name} is not valid UTF-8.") from error


def _turns(
    columns: Mapping[str, list[bytes]], length: int, others: Mapping[str, list[Any | None]]
) -> list[RequestTurn]:
    absent = [b""] * length
    texts, clips = columns.get(protocol.TEXT, absent), columns.get(protocol.AUDIO, absent)
    uris, digests = columns.get(protocol.AUDIO_URI, absent), columns.get(protocol.AUDIO_DIGEST, absent)
    return [
        RequestTurn(
            _text(texts[index], protocol.TEXT, index),
            clips[index] or None,
            _text(uris[index], protocol.AUDIO_URI, index),
            _text(digests[index], protocol.AUDIO_DIGEST, index),
            {name: cells[index] for name, cells in others.items() if cells[index] is not None},
        )
        for index in range(length)
    ]


def expert_names(experts: Sequence[str]) -> list[str]:
    """The experts of a response, in order: the contract's three, then any others of the model."""
    return [*protocol.EXPERT_NAMES, *(name for name in experts if name not in protocol.EXPERT_NAMES)]


def with_all_experts(prediction: DialoguePrediction, experts: Sequence[str]) -> DialoguePrediction:
    """Add a column for each expert of a response that the model lacks, with weight 0 and uniform probabilities."""
    names = expert_names(experts)
    if names == list(experts):
        return prediction
    utterances, classes = prediction.probabilities.shape
    weights = np.zeros((utterances, len(names)), dtype=np.float32)
    probabilities = np.full((utterances, len(names), classes), 1 / classes, dtype=np.float32)
    columns = [names.index(name) for name in experts]
    weights[:, columns] = prediction.expert_weights
    probabilities[:, columns] = prediction.expert_probabilities
    return replace(prediction, expert_weights=weights, expert_probabilities=probabilities)


def without_context(prediction: DialoguePrediction, context: Collection[int]) -> DialoguePrediction:
    """Set the rows of utterances that are context only to zeros; ``modalities`` still says what was read of them."""
    if not context:
        return prediction
    rows = sorted(context)
    values = [prediction.probabilities.copy(), prediction.expert_weights.copy(), prediction.expert_probabilities.copy()]
    for value in values:
        value[rows] = 0
    return replace(prediction, probabilities=values[0], expert_weights=values[1], expert_probabilities=values[2])


def predicted_labels(prediction: DialoguePrediction, labels: Sequence[str]) -> list[str]:
    """The most probable label of each utterance; empty for an utterance that is context only, whose row is zeros."""
    predicted = (prediction.probabilities.max(axis=-1) > 0).tolist()
    most = prediction.probabilities.argmax(axis=-1).tolist()
    return [labels[index] if one else "" for index, one in zip(most, predicted, strict=True)]


def encode_response(
    request: InferRequest,
    request_id: str,
    prediction: DialoguePrediction,
    model: EmotionModel,
    detail: bool,
    warnings: Mapping[str, str],
    further: Mapping[str, np.ndarray],
) -> InferResponse:
    """Convert a prediction to a V2 response: the requested outputs, or all (``expert_probabilities`` only with ``detail``).

    ``further`` has the outputs that only some answers have, see :func:`mistere.predictor.protocol.further_outputs.further_outputs`.
    """
    arrays: dict[str, np.ndarray] = {
        protocol.LABEL: np.array(predicted_labels(prediction, model.labels), dtype=object),
        protocol.PROBABILITIES: prediction.probabilities,
        protocol.EXPERT_WEIGHTS: prediction.expert_weights,
    }
    if detail:
        arrays[protocol.EXPERT_PROBABILITIES] = prediction.expert_probabilities
    arrays[protocol.MODALITIES_USED] = np.array(prediction.modalities, dtype=object)
    arrays.update(further)
    requested = request.request_outputs or None
    wanted = {output.name for output in requested} if requested else set(arrays)
    outputs = []
    for name, array in arrays.items():
        if name in wanted:
            datatype = _DATATYPES.get(array.dtype.char, "FP32")
            values = np.ascontiguousarray(array, dtype=np.float32) if datatype == "FP32" else array
            outputs.append(InferOutput(name, list(values.shape), datatype, data=values))
    return InferResponse(
        response_id=request_id,
        model_name=request.model_name,
        model_version=model_version(model),
        infer_outputs=outputs,
        parameters={**response_parameters(model), **warnings},
        use_binary_outputs=bool(request.use_binary_outputs),
        requested_outputs=requested,
    )
