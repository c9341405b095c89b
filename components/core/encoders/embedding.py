"""Utterance vectors from a fine-tuned encoder, batched by length: the one path of extraction and serving.

What costs: the backbone's matrix products, in proportion to batch size times its longest utterance; so utterances of similar
length share a batch, and a batch holds as much audio or text as a budget says, however many utterances that is. On a CPU
batches are computed side by side, a core each, which spares the waiting of cores for one another; preparing the next window
(decoding, features) fills the gaps. On a GPU it goes on while the GPU computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from components.core.config.encoder import Device, EncoderConfig, ExtractionSettings
from components.core.encoders import families
from components.core.encoders.device import choose_device, inference_precision
from components.core.encoders.family import Features
from components.core.encoders.inputs import HasModalities, encoder_input
from components.core.encoders.preparation import one_core_each, usable_cores
from components.core.encoders.utterance_encoder import UtteranceEncoder, load_tuned
from components.core.errors import MistereError
from components.core.utterances import batches_within

T = TypeVar("T")
SERVING = ExtractionSettings(precision="float32")
"""How a live dialogue is embedded: exactly, whatever the CPU."""


class Embedder:
    """A fine-tuned encoder ready to embed.

    Args:
        family: the family's name.
        base: folder of the base weights.
        tuned: ``tuned.safetensors``.
        settings: the encoder's section, as it was fine-tuned.
        classes: number of labels (the head's width).
        extraction: batches and precision.
        device: ``auto`` takes a GPU where there is one.
        note: is told when batches had to become smaller.
    """

    def __init__(
        self,
        family: str,
        base: Path,
        tuned: Path,
        settings: dict[str, Any],
        classes: int,
        extraction: ExtractionSettings = SERVING,
        device: Device = "auto",
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = EncoderConfig.model_validate(settings)
        kind = families()[family]
        self.device = choose_device(device, f"{kind.modality}.device")
        self.precision = inference_precision(extraction.precision, self.device)
        self.encoder: UtteranceEncoder = load_tuned(
            kind(base, self.settings, self.precision), self.settings, classes, tuned
        ).to(self.device)
        self.modality = kind.modality
        self.dimension = self.settings.projection
        speech = self.modality == "speech"
        self._budget = extraction.batch_seconds * kind.rate if speech else float(extraction.batch_tokens)
        self._note = note or (lambda _: None)

    def prepare(self, utterance: HasModalities, context: Sequence[str] = ()) -> Features | None:
        """Features of one utterance, or None where it lacks the modality.

        Args:
            utterance: what is embedded.
            context: transcripts of the turns before it, oldest first.

        Raises:
            AudioError: its audio does not decode.
        """
        value = encoder_input(self.modality, utterance, self.settings, context)
        return None if value is None else self.encoder.family.prepare(value)

    def embed(self, features: Sequence[Features | None]) -> np.ndarray:
        """Vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row where there is none."""
        return self._embed(features, None)

    def embed_windows(
        self, windows: Iterable[Sequence[T]], prepare: Callable[[T], Features | None]
    ) -> Iterator[np.ndarray]:
        """Vectors of a long stream, window by window; memory is that of two windows.

        What is in a batch depends on the window alone, so the same window always gives the same bytes.

        Args:
            windows: what to embed, some hundred at a time.
            prepare: makes an item's features, in a thread.
        """
        on_cpu = self.device.type == "cpu"
        with one_core_each() if on_cpu else nullcontext(), ThreadPoolExecutor(usable_cores()) as pool:
            ahead: deque[list[Future[Features | None]]] = deque()
            for window in windows:
                ahead.append([pool.submit(prepare, item) for item in window])
                if len(ahead) > 1:
                    yield self._embed([future.result() for future in ahead.popleft()], pool if on_cpu else None)
            while ahead:
                yield self._embed([future.result() for future in ahead.popleft()], pool if on_cpu else None)

    def _embed(self, features: Sequence[Features | None], pool: ThreadPoolExecutor | None) -> np.ndarray:
        vectors = np.full((len(features), self.dimension), np.nan, dtype=np.float32)
        there = [(index, feature) for index, feature in enumerate(features) if feature is not None]
        batches = batches_within([feature["length"] for _, feature in there], self._budget)
        chosen = [[there[position] for position in batch] for batch in batches]
        work = [[feature for _, feature in batch] for batch in chosen]
        results = pool.map(self._vectors, work) if pool else map(self._vectors, work)
        for batch, result in zip(chosen, results, strict=True):
            vectors[[index for index, _ in batch]] = result
        return vectors

    @torch.inference_mode()
    def _vectors(self, features: list[Features]) -> np.ndarray:
        """Vectors of one batch; where it does not fit into the device's memory, of its halves."""
        try:
            batch = self.encoder.family.collate(features)
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            found: np.ndarray = self.encoder.embed(moved).float().cpu().numpy()
            return found
        except torch.OutOfMemoryError as error:
            if len(features) == 1:
                raise MistereError(
                    f"one utterance does not fit into the device's memory: lower {self.modality}."
                    f"{'max_seconds' if self.modality == 'speech' else 'max_tokens'}."
                ) from error
            error.__traceback__ = None  # it holds the activations
        torch.cuda.empty_cache()
        half = len(features) // 2
        self._budget = max(self._budget / 2, 1.0)
        self._note(
            f"{len(features)} utterances at once do not fit into the device's memory: going on with {half} at once."
        )
        return np.concatenate([self._vectors(features[:half]), self._vectors(features[half:])])
