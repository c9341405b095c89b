"""Utterance vectors from a fine-tuned encoder, batched by length: the one path of extraction and serving.

What costs: the backbone's matrix products, in proportion to batch size times its longest utterance; so utterances of similar
length share a batch, and a batch holds as much audio or text as a budget says, however many utterances that is. On a CPU
batches are computed side by side, a core each, which spares the waiting of cores for one another; preparing the next window
(decoding, features) fills the gaps. On a GPU it goes on while the GPU computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mistere.common.errors import MistereError
from mistere.common.threads import one_core_each, usable_cores
from mistere.config.encoder import Device, EncoderConfig, ExtractionSettings
from mistere.data.utterances import batches_within
from mistere.model.encoders.device import choose_device, inference_precision
from mistere.model.encoders.families import families
from mistere.model.encoders.families.family import Features
from mistere.model.encoders.inputs import HasModalities, encoder_input, heard
from mistere.model.encoders.quantisation import quantised
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, load_tuned

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
        int8: compute the backbone's linear layers in 8-bit integers; on a CPU only.
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
        int8: bool = False,
    ) -> None:
        self.settings = EncoderConfig.model_validate(settings)
        kind = families()[family]
        self.device = choose_device(device, f"{kind.modality}.device")
        self.precision = inference_precision(extraction.precision, self.device)
        self._load = partial(load_tuned, kind(base, self.settings, self.precision), self.settings, classes, tuned)
        self._int8 = int8 and self.device.type == "cpu"
        self.modality = kind.modality
        self.dimension = self.settings.projection
        speech = self.modality == "speech"
        self._budget = extraction.batch_seconds * kind.rate if speech else float(extraction.batch_tokens)
        self._note = note or (lambda _: None)

    @cached_property
    def encoder(self) -> UtteranceEncoder:
        """The encoder itself, loaded when it is first needed: vectors that are there already need none."""
        encoder = self._load().to(self.device)
        if self._int8:
            return quantised(encoder)
        if self.device.type == "cpu" and self.precision == torch.float32:
            encoder.family.fuse(encoder.backbone)
        return encoder

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

    def prepare_samples(self, wave: np.ndarray, rate: int) -> Features:
        """Features of audio that is decoded already: mono samples ``[N]`` and their rate in Hz."""
        return self.encoder.family.prepare(heard(wave, rate, self.settings))

    def embed(self, features: Sequence[Features | None]) -> np.ndarray:
        """Vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row where there is none."""
        return self._begin(features, None)()

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
            compute: Executor | None = pool if on_cpu else None
            ready: list[Future[Features | None]] | None = None
            for window in windows:
                if window:
                    _ = self.encoder  # loaded here rather than by several threads at once
                finish = self._begin([future.result() for future in ready], compute) if ready is not None else None
                # Behind the batches in the queue: a core that runs out of them prepares what is next.
                ready = [pool.submit(prepare, item) for item in window]
                if finish:
                    yield finish()
            if ready is not None:
                yield self._begin([future.result() for future in ready], compute)()

    def _begin(self, features: Sequence[Features | None], pool: Executor | None) -> Callable[[], np.ndarray]:
        """Start computing, in ``pool`` where there is one; what is returned waits and gives the vectors."""
        there = [(index, feature) for index, feature in enumerate(features) if feature is not None]
        batches = batches_within([feature["length"] for _, feature in there], self._budget)
        chosen = [[there[position] for position in batch] for batch in batches]
        work = [[feature for _, feature in batch] for batch in chosen]
        results = pool.map(self._vectors, work) if pool else map(self._vectors, work)

        def finish() -> np.ndarray:
            vectors = np.full((len(features), self.dimension), np.nan, dtype=np.float32)
            for batch, result in zip(chosen, results, strict=True):
                vectors[[index for index, _ in batch]] = result
            return vectors

        return finish

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
