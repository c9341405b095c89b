"""A server with a model that loads slowly, and that holds a request or fails if its text says so."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

LABELS = ["anger", "joy"]
EXPERTS = ["text", "cross_modal"]
HOLD = "hold until exists: "
"""A request whose text is this and a path is computed once a file of that path exists."""


@dataclass(frozen=True)
class Prediction:
    probabilities: np.ndarray
    expert_weights: np.ndarray
    expert_probabilities: np.ndarray
    modalities: list[str]


class FaultyModel:
    """A stand-in for :class:`EmotionModel` that reads text only."""

    def __init__(self) -> None:
        self.bundle = SimpleNamespace(name="faulty", digest="d" * 64, scripts=[])
        self.labels, self.experts = LABELS, EXPERTS
        self.encoder_digests = self.vector_digests = {"text": "t" * 64}
        self.dimensions = {"text": 2}
        self.max_tokens = 1 << 20
        self.transcriber = None

    def context(self, modality: str, dialogue: Sequence[Any], index: int) -> tuple[str, ...]:
        return ()

    def features(self, modality: str, dialogue: Sequence[Any], index: int, max_seconds: float | None = None) -> Any:
        return dialogue[index].text

    def length(self, modality: str, features: Any) -> float:
        return len(features) / 4

    def vectors(self, features: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        for text in features.get("text", ()):
            if text.startswith(HOLD):  # the test decides how long, whatever the machine's speed
                wait_until_exists(Path(text.removeprefix(HOLD).rstrip()))
        if "crash" in features.get("text", ()):
            raise RuntimeError("secret at /srv/private/file.py")
        return {name: np.zeros((len(each), 2), dtype=np.float32) for name, each in features.items()}

    def predict(self, dialogues: Sequence[Any], max_seconds: float | None = None) -> list[Any]:
        return self.predict_embeddings([{"text": np.zeros((len(dialogue), 2), np.float32)} for dialogue in dialogues])

    def predict_embeddings(self, dialogues: Sequence[Mapping[str, np.ndarray]]) -> list[Any]:
        sizes = [len(dialogue["text"]) for dialogue in dialogues]
        return [
            Prediction(
                np.full((n, 2), 0.5, dtype=np.float32),
                np.full((n, 2), 0.5, dtype=np.float32),
                np.full((n, 2, 2), 0.5, dtype=np.float32),
                ["text"] * n,
            )
            for n in sizes
        ]


def wait_until_exists(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def load_when_file_exists(location: str) -> Any:
    """Load the model once a file of that name exists."""
    wait_until_exists(Path(location))
    return FaultyModel()


if __name__ == "__main__":
    from mistere.predictor.server import main

    sys.exit(main(load_bundle=load_when_file_exists))
