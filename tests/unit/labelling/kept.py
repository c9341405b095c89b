"""Kept dialogues in a store, for tests of labelling."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from mistere.artifacts.object_store import ObjectStore
from mistere.serving.sample.dialogue import KeptDialogue, KeptTurn, pack_vectors
from mistere.serving.sample.places import folder_of, hashing_key, path, shown_name

NOW = 1_800_000_000.0
LABELS = ["calm", "glad", "cross"]
EXPERTS = ["speech", "text", "cross_modal"]


def kept_turn(
    probabilities: Sequence[float] = (0.5, 0.3, 0.2),
    text: str | None = "Hello.",
    audio: bytes | None = None,
    experts: Sequence[Sequence[float]] | None = None,
    predicted: bool = True,
    transcript: str | None = None,
) -> KeptTurn:
    return KeptTurn(
        text=text,
        transcript=transcript,
        audio=None if audio is None else hashlib.sha256(audio).hexdigest(),
        predicted=predicted,
        label=LABELS[int(np.argmax(probabilities))] if predicted else "",
        probabilities=list(probabilities),
        expert_weights=[0.25, 0.25, 0.5],
        expert_probabilities=[list(row) for row in experts or [probabilities] * 3],
        modalities="text",
    )


def keep(
    store: ObjectStore,
    dialogue_id: str,
    turns: Sequence[KeptTurn],
    recordings: Sequence[bytes] = (),
    vectors: np.ndarray | None = None,
    keep_until: str = "2030-01-01",
) -> str:
    """Write a dialogue as the predictor does; returns its name in exports."""
    key = hashing_key(store, create=True)
    assert key is not None
    folder = folder_of(key, dialogue_id)
    store.write(path(folder, f"until/{keep_until}"), b"\n")
    for recording in recordings:
        store.write(path(folder, f"audio/{hashlib.sha256(recording).hexdigest()}"), recording)
    if vectors is not None:
        store.write(path(folder, "embeddings.safetensors"), pack_vectors({"text": vectors}))
    dialogue = KeptDialogue(
        began_at=NOW - 60,
        updated_at=NOW,
        keep_until=keep_until,
        bundle_digest="b" * 64,
        labels=LABELS,
        experts=EXPERTS,
        turns=list(turns),
    )
    store.write(path(folder, "dialogue.json"), dialogue.model_dump_json().encode())
    return shown_name(folder)
