"""The encoders of an exported model: they prepare utterances as the bundle's do, and compute vectors with graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mistere.artifacts.onnx_manifest import EncoderGraph
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError
from mistere.common.modalities import HasModalities
from mistere.common.processes.threads import usable_cores
from mistere.config.encoder import EncoderConfig
from mistere.data.kinds import kind_of
from mistere.data.kinds.audio import RATE, crop_and_pad
from mistere.data.kinds.kind import UnreadableError
from mistere.data.utterances import batches_of_one_shape, batches_within
from mistere.model.encoders.inputs.token_window import token_window
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.window_stream import Finish, begin_batches, stream_windows
from mistere.model.onnx.session import GraphSession

T = TypeVar("T")
OUTPUT = "vectors"
_BATCH_TOKENS = 512
"""Tokens of a batch at most, including padding."""


class GraphEmbedder:
    """An encoder of one modality, computed by a graph (:class:`mistere.model.dialogue_model.UtteranceEmbedder`).

    Args:
        folder: of the exported model.
        modality: that it embeds.
        graph: describes the graph.
        settings: the encoder's section, as used for fine-tuning.
        threads: of an operation.
        digest: identifies the exported model.
        int8: whether it computes in 8-bit integers.

    Raises:
        ArtifactError: a file is damaged or refused.
    """

    batch_invariant = True

    def __init__(
        self,
        folder: Path,
        modality: str,
        graph: EncoderGraph,
        settings: EncoderConfig,
        threads: int,
        digest: str = "",
        *,
        int8: bool = False,
    ) -> None:
        self.modality, self.settings, self.kind = modality, settings, kind_of(graph.kind)
        self.dimension = graph.dimension
        self.rate = float(RATE) if graph.kind == "audio" else 1.0
        self._graph, self._folder = graph, folder
        self.arithmetic = ("onnx", digest)
        # In 8-bit integers, the activations of a batch have one scale, so an utterance has a batch of its own.
        self._positions = 1 if int8 else self.kind.batch_positions
        self._budget = 0.0 if int8 or graph.kind == "audio" else float(_BATCH_TOKENS)
        self._session = GraphSession(folder / graph.graph, threads, graph.inputs, [OUTPUT])
        if graph.kind == "text":
            _ = self._tokenizer  # damage is found now, not at the first request

    @property
    def input_width(self) -> int | None:
        """The number of values that it reads of an utterance; None if any number will do."""
        return self._graph.width

    def prepare(self, utterance: HasModalities, context: Sequence[str] = ()) -> Features | None:
        """Features of one utterance; None if it lacks the modality.

        Args:
            utterance: the utterance to embed.
            context: transcripts of the turns before it, oldest first.

        Raises:
            UnreadableError: the modality's value does not decode.
        """
        value = self.kind.input_of(utterance, self.modality, self.settings, context)
        if value is None:
            return None
        if self._graph.kind == "text":
            return self._tokens(value)
        if self._graph.kind == "vector":
            if len(value) != self._graph.width:
                raise UnreadableError(
                    f"The vector has {counted(len(value), 'value')}; this encoder reads vectors of {self._graph.width}."
                )
            return {"values": value.astype(np.float32), "length": 1}
        return {"samples": value.astype(np.float32), "length": len(value)}

    def prepare_samples(self, wave: np.ndarray, rate: int) -> Features:
        """Features of decoded audio: mono samples ``[N]`` and their rate in Hz."""
        samples = crop_and_pad(wave, rate, self.settings).astype(np.float32)
        return {"samples": samples, "length": len(samples)}

    def begin(self, features: Sequence[Features | None]) -> Finish:
        """Vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row for None.

        Recordings are computed one at a time: they are long enough, and their graph takes no padding.
        """

        def batches(lengths: list[int]) -> list[tuple[list[int], int]]:
            return [(batch, len(batch)) for batch in batches_within(lengths, self._budget)]

        return begin_batches(features, self.dimension, batches, self._vectors, None)

    def embed_windows(
        self, windows: Iterable[Sequence[T]], prepare: Callable[[T], Features | None]
    ) -> Iterator[np.ndarray]:
        """Vectors of a long stream, window by window, one batch on each core: open the model with one thread an operation.

        The shape of a batch depends on each of its utterances alone, and so does a vector.

        Args:
            windows: items to embed, a few hundred each.
            prepare: makes the features of an item; called in threads.
        """
        batches = partial(batches_of_one_shape, positions=self._positions)
        with ThreadPoolExecutor(usable_cores()) as pool:

            def begin(features: list[Features | None]) -> Finish:
                return begin_batches(features, self.dimension, batches, self._vectors, pool)

            yield from stream_windows(windows, prepare, begin, pool)

    def _vectors(self, features: list[Features]) -> np.ndarray:
        (rows,) = self._session.run(self._inputs(features))
        if rows.shape != (len(features), self.dimension):
            raise ArtifactError(f"the graph of {self.modality} made vectors {rows.shape}", "export the model again")
        return rows

    def _inputs(self, features: Sequence[Features]) -> dict[str, np.ndarray]:
        if self._graph.text is None:
            name = self._graph.inputs[0]
            return {name: np.stack([feature[name] for feature in features])}
        longest = max(feature["length"] for feature in features)
        tokens = np.full((len(features), longest), self._graph.text.pad_id, np.int64)
        mask, pooled = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
        for row, feature in enumerate(features):
            tokens[row, : feature["length"]] = feature["input_ids"]
            mask[row, : feature["length"]] = True
            pooled[row, : feature["length"]] = feature["pooled"]
        return {"input_ids": tokens, "mask": mask, "pooled": pooled}

    def _tokens(self, utterance: Any) -> Features:
        text, tokenizer = self._graph.text, self._tokenizer
        assert text is not None
        return token_window(
            utterance,
            text.max_tokens,
            lambda words: tokenizer.encode(words).ids,
            lambda words: tokenizer.encode(words, add_special_tokens=False).ids,
            text.separator,
            text.separator_id,
        )

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        assert self._graph.text is not None
        file = self._folder / self._graph.text.tokenizer
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain exceptions
            raise ArtifactError(f"{file} is no tokenizer", "export the model again") from error
