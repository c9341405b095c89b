"""What ``/metrics`` tells, beside kserve's own histograms. Nothing here depends on what people said."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from prometheus_client import Counter, Gauge, Histogram, Summary

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "mistere_requests", "Inference requests by protocol and REST code or gRPC status.", ["protocol", "code"]
)
PHASES = Histogram(
    "mistere_phase_seconds",
    "Time of a request by phase: decode (request), queue, encode (utterances), mixture, respond.",
    ["phase"],
    buckets=_SECONDS,
)
UTTERANCES = Histogram("mistere_request_utterances", "Utterances per request.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
BATCH = Histogram("mistere_batch_dialogues", "Dialogues computed together.", buckets=(1, 2, 4, 8, 16, 32))
CACHED = Counter(
    "mistere_utterance_vectors", "Vectors of utterances found at hand (hit) or computed (miss).", ["found"]
)
EXPERT_WEIGHT = Summary("mistere_expert_weight", "Weight the gate gave an expert, per utterance.", ["expert"])
MISSING = Counter("mistere_missing_modality", "Utterances that came without a modality.", ["modality"])
LABELS = Counter("mistere_predicted_label", "Utterances by predicted label.", ["label"])
QUEUE_DEPTH = Gauge("mistere_queue_depth", "Requests accepted and not yet answered.")
MODEL = Gauge("mistere_model_info", "The model that is served.", ["name", "version"])


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Measure one phase of a request."""
    start = time.perf_counter()
    try:
        yield
    finally:
        PHASES.labels(name).observe(time.perf_counter() - start)


def observe_prediction(
    experts: list[str], weights: np.ndarray, modalities: list[str], known: list[str], predicted: list[str]
) -> None:
    """Count one dialogue.

    Args:
        experts: names, ``E``.
        weights: the gate's, ``[n, E]``.
        modalities: per utterance what was there, ``+``-joined or ``none``.
        known: the modalities the model reads.
        predicted: label per utterance.
    """
    UTTERANCES.observe(len(modalities))
    for expert, column in zip(experts, weights.T.tolist(), strict=True):
        observe = EXPERT_WEIGHT.labels(expert).observe
        for weight in column:
            observe(weight)
    for present, count in Counts(modalities).items():
        for modality in set(known).difference(present.split("+")):
            MISSING.labels(modality).inc(count)
    for label, count in Counts(predicted).items():
        LABELS.labels(label).inc(count)
