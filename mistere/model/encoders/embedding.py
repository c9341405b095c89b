"""Utterance vectors from a fine-tuned encoder, batched by length, for extraction and serving alike.

The cost is that of the backbone's matrix products, proportional to batch size times the longest utterance. So utterances of
similar length share a batch, and a batch is limited by a budget of seconds or tokens rather than a number of utterances. On a
CPU, batches run in parallel on one core each, which avoids synchronising cores within an operation, and the next window is
prepared (decoding, features) on cores that run out of batches. On a GPU, it is prepared while the GPU computes.
``mistere bench extraction_speed`` measures it.

Matrix products of another shape round differently (by up to 3e-6 here), so a vector would depend on the batch that it was
computed in, and a dataset's vectors on what a cache held already. In a stream on a CPU, the shape of a batch therefore depends on
each of its utterances alone: all have the same length, and a length always has the same number of rows. Speech is long enough
to be computed one utterance at a time. A GPU would idle with such batches; there, equal windows have equal vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from mistere.common.errors import MistereError
from mistere.common.modalities import HasModalities
from mistere.common.processes.threads import usable_cores
from mistere.config.encoder import Device, EncoderConfig, ExtractionSettings
from mistere.data.kinds import kind_of
from mistere.data.kinds.audio import crop_and_pad
from mistere.data.utterances import batches_of_one_shape, batches_within
from mistere.model.encoders.device import choose_device, inference_precision
from mistere.model.encoders.families import families
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.quantisation import quantised
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, load_tuned
from mistere.model.encoders.window_stream import Finish, begin_batches, stream_windows
from mistere.model.torch_threads import ENCODING_WORK, one_core_each, threads, workers

T = TypeVar("T")
SERVING = ExtractionSettings(precision="float32")
"""Settings for a live dialogue: float32 on every device."""
_POSITIONS_PER_SECOND = 50
"""Positions of an encoder for a second of audio, with which its work is estimated."""


def matrix_weights(backbone: torch.nn.Module) -> int:
    """The number of weights that every position is multiplied with: those of matrices and kernels, without tables of embeddings."""
    tables = {id(module.weight) for module in backbone.modules() if isinstance(module, torch.nn.Embedding)}
    return sum(weight.numel() for weight in backbone.parameters() if weight.ndim > 1 and id(weight) not in tables)


class Embedder:
    """A fine-tuned encoder that embeds utterances.

    Args:
        modality: the modality that it embeds.
        family: name of the encoder family.
        base: directory of the base weights.
        tuned: ``tuned.safetensors``.
        settings: the encoder's section, as used for fine-tuning.
        classes: number of labels (width of the head).
        extraction: batches and precision.
        device: ``auto`` uses a GPU if there is one.
        note: called with a sentence when a batch does not fit into memory and is split.
        int8: compute the backbone's linear layers in 8-bit integers; ignored on a GPU.
    """

    def __init__(
        self,
        modality: str,
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
        cls = families()[family]
        self.device = choose_device(device, f"{modality}.device")
        self.precision = inference_precision(extraction.precision, self.device)
        self._load = partial(load_tuned, cls(base, self.settings, self.precision), self.settings, classes, tuned)
        self.int8 = int8 and self.device.type == "cpu"
        self.modality, self.kind = modality, kind_of(cls.kind)
        self._weights = 0
        self.dimension = self.settings.projection
        self.rate = cls.rate
        self._budget = self.kind.batch_budget(extraction, cls.rate)
        self._note = note or (lambda _: None)

    @cached_property
    def encoder(self) -> UtteranceEncoder:
        """The encoder, loaded on first use: it is not needed if all vectors are cached."""
        encoder = self._load().to(self.device)
        self._weights = matrix_weights(encoder.backbone)
        if self.int8:
            return quantised(encoder)
        if self.device.type == "cpu" and self.precision == torch.float32:
            encoder.family.fuse(encoder.backbone)
        return encoder

    @property
    def input_width(self) -> int | None:
        """The number of values that the encoder reads of an utterance; None if any number will do."""
        return self.encoder.family.input_width

    def prepare(self, utterance: HasModalities, context: Sequence[str] = ()) -> Features | None:
        """Features of one utterance; None if it lacks the modality.

        Args:
            utterance: the utterance to embed.
            context: transcripts of the turns before it, oldest first.

        Raises:
            UnreadableError: the modality's value does not decode.
        """
        value = self.kind.input_of(utterance, self.modality, self.settings, context)
        return None if value is None else self.encoder.family.prepare(value)

    def prepare_samples(self, wave: np.ndarray, rate: int) -> Features:
        """Features of decoded audio: mono samples ``[N]`` and their rate in Hz."""
        return self.encoder.family.prepare(crop_and_pad(wave, rate, self.settings))

    def embed(self, features: Sequence[Features | None]) -> np.ndarray:
        """Vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row for None."""
        return self.begin(features)()

    def begin(self, features: Sequence[Features | None]) -> Finish:
        """Start computing the vectors of :meth:`embed`; on a CPU in the threads of :func:`workers`, beside other encoders.

        A batch of little work has one core to itself, and needs no other one at any moment. Two cores in one operation would save
        a quarter of a turn's time where nothing else runs, and multiply it where something does (``mistere bench thread_contention``).

        Returns:
            A function that waits for the vectors.
        """
        if self.device.type != "cpu":
            return self._begin(features, None)
        _ = self.encoder  # loaded now, not by several threads at once
        lengths = [feature["length"] for feature in features if feature is not None]
        share = max(sum(lengths) / usable_cores(), self.kind.batch_positions)
        budget = min(self._budget, share) if self.kind.batch_positions > 1 else 0.0
        chosen = [(batch, len(batch)) for batch in batches_within(lengths, budget)]
        most = max(1, torch.get_num_threads() // max(1, len(chosen)))

        def compute(batch: list[Features]) -> np.ndarray:
            seconds = self.kind.seconds(sum(feature["length"] for feature in batch) / self.rate)
            work = 2 * self._weights * seconds * _POSITIONS_PER_SECOND
            with threads(1 if work < ENCODING_WORK else most):
                return self._vectors(batch)

        return begin_batches(features, self.dimension, lambda _: chosen, compute, workers())

    def embed_windows(
        self, windows: Iterable[Sequence[T]], prepare: Callable[[T], Features | None]
    ) -> Iterator[np.ndarray]:
        """Vectors of a long stream, window by window (:func:`~mistere.model.encoders.window_stream.stream_windows`).

        The batches depend on the window alone, so the same window always gives the same bytes. With :attr:`batch_invariant`, an
        item has the same bytes in every window.

        Args:
            windows: items to embed, a few hundred each.
            prepare: makes the features of an item; called in threads.
        """
        on_cpu = self.device.type == "cpu"
        with one_core_each() if on_cpu else nullcontext(), ThreadPoolExecutor(usable_cores()) as pool:
            begin = partial(self._begin, pool=pool if on_cpu else None, invariant=self.batch_invariant)
            yield from stream_windows(windows, prepare, begin, pool, lambda: self.encoder)

    @property
    def arithmetic(self) -> tuple[str, ...]:
        """What computes the vectors: another precision or device rounds differently."""
        return "int8" if self.int8 else str(self.precision), self.device.type

    @property
    def batch_invariant(self) -> bool:
        """Whether a vector of :meth:`embed_windows` does not depend on the other items of its window."""
        return self.device.type == "cpu"

    def _begin(self, features: Sequence[Features | None], pool: Executor | None, *, invariant: bool = False) -> Finish:
        """Start computing, in ``pool`` if given; the returned function waits for the vectors."""

        def batches(lengths: list[int]) -> list[tuple[list[int], int]]:
            if invariant:
                return batches_of_one_shape(lengths, self.kind.batch_positions)
            return [(batch, len(batch)) for batch in batches_within(lengths, self._budget)]

        return begin_batches(features, self.dimension, batches, self._vectors, pool)

    @torch.inference_mode()
    def _vectors(self, features: list[Features]) -> np.ndarray:
        """Vectors of one batch; if it does not fit into the device's memory, of its halves."""
        try:
            batch = self.encoder.family.collate(features)
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            vectors: np.ndarray = self.encoder.embed(moved).float().cpu().numpy()
            return vectors
        except torch.OutOfMemoryError as error:
            if len(features) == 1:
                raise MistereError(
                    f"one utterance does not fit into the device's memory: lower {self.modality}.{self.kind.size_setting}."
                ) from error
            error.__traceback__ = None  # the traceback keeps the activations alive
        torch.cuda.empty_cache()
        half = len(features) // 2
        self._budget = max(self._budget / 2, 1.0)
        self._note(
            f"{len(features)} utterances at once do not fit into the device's memory: continuing with {half} at once."
        )
        return np.concatenate([self._vectors(features[:half]), self._vectors(features[half:])])
