"""The names in the endpoint's contract, shared by server and clients: tensors, parameters, headers, paths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Inputs of the Open Inference Protocol (V2). All but the embeddings and `predict` are BYTES [n], one element per utterance.
TEXT: Final = "text"
AUDIO: Final = "audio"
AUDIO_URI: Final = "audio_uri"
AUDIO_DIGEST: Final = "audio_digest"
SPEECH_EMBEDDING: Final = "speech_embedding"
TEXT_EMBEDDING: Final = "text_embedding"

PREDICT: Final = "predict"
"""Whether each utterance is predicted (BOOL [n], or BYTES [n] of true and false); the others are context for their neighbours only."""

RAW_INPUTS: Final = (TEXT, AUDIO, AUDIO_URI, AUDIO_DIGEST)
EMBEDDING_SUFFIX: Final = "_embedding"
"""An embedding tensor (FP32 [n, d]) is named by its modality and this: ``face_embedding``."""
EMBEDDING_MODALITY: Final = {SPEECH_EMBEDDING: "speech", TEXT_EMBEDDING: "text"}
"""The embedding tensors that every server knows → modality. A model may have further modalities."""

# Outputs.
LABEL: Final = "label"
PROBABILITIES: Final = "probabilities"
EXPERT_WEIGHTS: Final = "expert_weights"
EXPERT_PROBABILITIES: Final = "expert_probabilities"
MODALITIES_USED: Final = "modalities_used"

OUTPUTS: Final = (LABEL, PROBABILITIES, EXPERT_WEIGHTS, EXPERT_PROBABILITIES, MODALITIES_USED)

TEXT_SOURCE: Final = "text_source"
"""Where the text of each utterance comes from: ``human``, ``asr`` or ``none``. Only a model that transcribes has this output."""

MODALITY_CONTRIBUTIONS: Final = "modality_contributions"
BASELINE_PROBABILITIES: Final = "baseline_probabilities"
INFLUENTIAL_TURNS: Final = "influential_turns"
TURN_INFLUENCES: Final = "turn_influences"
EXPLANATION_OUTPUTS: Final = (
    MODALITY_CONTRIBUTIONS, BASELINE_PROBABILITIES, INFLUENTIAL_TURNS, TURN_INFLUENCES
)  # fmt: skip
"""Why each utterance got its label, only with ``detail: explain`` or if asked for by name; see :mod:`mistere.serving.explanation`."""

EXPERT_NAMES: Final = ("speech", "text", "cross_modal")
"""The columns of ``expert_weights`` for every model; an expert that the model lacks has weight 0 exactly."""

# Request parameters.
DETAIL: Final = "detail"
"""Whether the answer has the probabilities of each expert, too (true or false), or those and an explanation (:data:`EXPLAIN`)."""
EXPLAIN: Final = "explain"
TRANSCRIBE: Final = "transcribe"
DIALOGUE_ID: Final = "dialogue_id"
"""The client's name of the dialogue, the same in each request of a live conversation; by it a kept dialogue is deleted."""
CONSENT: Final = "consent"
"""Whether the dialogue may be kept for labelling; without it, or with false, nothing of the request is kept."""
ENCODER_DIGEST: Final = "encoder_digest"
NAN_IS_MISSING: Final = "nan_is_missing"
"""A row of NaN (in JSON: of null) in an embedding tensor means that the utterance lacks the modality."""
BINARY_OUTPUT: Final = "binary_data_output"

# Tensor parameters.
CONTENT_TYPE: Final = "content_type"
BASE64: Final = "base64"
BINARY_SIZE: Final = "binary_data_size"
BINARY_DATA: Final = "binary_data"

# Response parameters.
MODEL_VERSION: Final = "model_version"
BUNDLE_DIGEST: Final = "bundle_digest"
LABELS: Final = "labels"
EXPERTS: Final = "experts"
MODALITIES: Final = "modalities"
"""The columns of ``modality_contributions``; only with an explanation."""
WEIGHTS_MEANING: Final = "expert_weights_meaning"
"""What ``expert_weights`` say, in words; only with an explanation."""
WEIGHTS_MEAN: Final = "the share of each expert in the mixture's logits; not the probability that the expert is right, and 0 where it is absent"
UNKNOWN_SCRIPT: Final = "unknown_script"
"""Utterances whose text is in a script that the model was not trained on, such as ``Cyrillic: 0, 3``; only if there are any."""

BINARY_HEADER: Final = "Inference-Header-Content-Length"
"""Length of the JSON part of a body in which raw tensors follow it."""

SIZE_HEADER: Final = "content-length"
REQUEST_ID_HEADER: Final = "X-Request-Id"

READY_PATH: Final = "/v2/health/ready"
LIVE_PATH: Final = "/v2/health/live"

# Limits of a request, unless the server's operator chooses others; see docs/guides/serving.md.
MAX_BYTES: Final = 8 << 20
MAX_UTTERANCES: Final = 128
MAX_UTTERANCE_SECONDS: Final = 30.0
MAX_SECONDS: Final = 600.0
MAX_TOKENS: Final = 32768

HTTP_PORT: Final = 8080
GRPC_PORT: Final = 8081


def embedding_name(modality: str) -> str:
    """The embedding tensor of a modality."""
    return f"{modality}{EMBEDDING_SUFFIX}"


def modality_of(tensor: str) -> str:
    """The modality of an embedding tensor; empty for any other tensor."""
    return tensor.removesuffix(EMBEDDING_SUFFIX) if tensor.endswith(EMBEDDING_SUFFIX) else ""


def in_order(modalities: Iterable[str]) -> list[str]:
    """Modalities in the order in which ``encoder_digest`` names their encoders: speech, text, then the others as given."""
    names, first = list(modalities), list(EMBEDDING_MODALITY.values())
    return [name for name in first if name in names] + [name for name in names if name not in first]


def join_names(names: Iterable[str]) -> str:
    """Join names with commas, in order, as response parameters carry them."""
    return ",".join(names)


def token_count(text: str) -> int:
    """Tokens of a text for the limit: four bytes of UTF-8 count as one, before any tokenizer has read them."""
    return -(-len(text.encode()) // 4)


def split_names(joined: str) -> list[str]:
    """The inverse of :func:`join_names`."""
    return joined.split(",") if joined else []
