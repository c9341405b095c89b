"""A model of dialogues: raw utterances or embeddings in, predictions out, whatever computes encoders and mixture.

PyTorch is not imported here: the encoders and the mixture may be graphs that another runtime computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import MistereError
from mistere.common.modalities import SPEECH, TEXT, HasModalities
from mistere.config.encoder import EncoderConfig
from mistere.data.audio import AudioError, decode
from mistere.data.kinds.kind import Kind, UnreadableError
from mistere.data.text_repair import is_blank
from mistere.model.dialogue_prediction import DialoguePrediction, Embeddings
from mistere.model.encoders.preparation import OVERFLOW, Features, overflowing, prepared
from mistere.model.encoders.window_stream import Finish

if TYPE_CHECKING:
    from mistere.model.transcription.transcriber import Transcriber

_Turn = TypeVar("_Turn", bound=HasModalities)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class UtteranceInput:
    """One utterance: a transcript, an encoded audio file, cells of further modalities by name, or nothing."""

    text: str | None = None
    audio: bytes | None = None
    others: Mapping[str, Any] = field(default_factory=dict)


class CellDecodeError(MistereError):
    """An utterance's value of a modality does not decode; ``utterance`` is its index in the dialogue."""

    def __init__(self, message: str, utterance: int, modality: str = SPEECH) -> None:
        super().__init__(message)
        self.utterance, self.modality = utterance, modality
        self.reason = message


def _unreadable(index: int, modality: str, reason: str) -> CellDecodeError:
    failure = CellDecodeError(f"utterance {index}, {modality}: {reason}", index, modality)
    failure.reason = reason
    return failure


class AudioDecodeError(CellDecodeError):
    """An utterance's audio does not decode."""


class AudioTooLongError(MistereError):
    """An utterance's audio is longer than allowed; ``utterance`` is its index in the dialogue."""

    def __init__(self, message: str, utterance: int) -> None:
        super().__init__(message)
        self.utterance = utterance


class DialogueMixture(Protocol):
    """A mixture with its calibration.

    Attributes:
        dimensions: embedding width per modality, in order.
        size: number of weights.
        context_mode: with ``causal``, later turns do not change earlier predictions.
    """

    dimensions: dict[str, int]
    size: int
    context_mode: Literal["full", "causal"]

    def predict(self, dialogues: Sequence[Embeddings]) -> list[DialoguePrediction]:
        """Predict dialogues; the result for one does not depend on the others."""
        ...


class UtteranceEmbedder(Protocol):
    """An encoder of one modality.

    Attributes:
        settings: the encoder's section, as used for fine-tuning.
        kind: of the modality.
        dimension: width of a vector.
        rate: units of a prepared utterance's ``length`` in a second of audio.
    """

    settings: EncoderConfig
    kind: Kind
    dimension: int
    rate: float

    @property
    def input_width(self) -> int | None:
        """The number of values that it reads of an utterance; None if any number will do."""
        ...

    def prepare(self, utterance: HasModalities, context: Sequence[str] = ()) -> Features | None:
        """Features of one utterance; None if it lacks the modality."""
        ...

    def prepare_samples(self, wave: np.ndarray, rate: int) -> Features:
        """Features of decoded audio: mono samples ``[N]`` and their rate in Hz."""
        ...

    def begin(self, features: Sequence[Features | None]) -> Finish:
        """Start computing vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row for None.

        Returns:
            A function that waits for the vectors.
        """
        ...


class StreamEmbedder(UtteranceEmbedder, Protocol):
    """An encoder of one modality that also embeds long streams.

    Attributes:
        modality: that it embeds.
        batch_invariant: whether a vector of a stream does not depend on the other items of its window.
        arithmetic: what computes the vectors, and rounds differently from others.
    """

    modality: str

    @property
    def batch_invariant(self) -> bool: ...

    @property
    def arithmetic(self) -> tuple[str, ...]: ...

    def embed_windows(
        self, windows: Iterable[Sequence[_T]], prepare: Callable[[_T], Features | None]
    ) -> Iterator[np.ndarray]:
        """Vectors of a long stream, window by window; a NaN row for an item without features."""
        ...


class DialogueModel:
    """Encoders and mixture together: predicts raw dialogues or embeddings.

    Args:
        mixture: the mixture with its calibration.
        embedders: by modality.
    """

    def __init__(self, mixture: DialogueMixture, embedders: Mapping[str, Any]) -> None:
        self._mixture = mixture
        self._embedders: dict[str, Any] = dict(embedders)
        self.dimensions = dict(mixture.dimensions)

    @property
    def mixture_weights(self) -> int:
        """The number of the mixture's weights, by which predicting an utterance is priced."""
        return self._mixture.size

    @property
    def embedders(self) -> Mapping[str, Any]:
        """The encoders by modality (see :class:`UtteranceEmbedder`); none for a model that takes vectors only."""
        return self._embedders

    @property
    def transcribes(self) -> bool:
        """Whether utterances with audio and no text are transcribed."""
        return False

    def transcribed(self, dialogue: Sequence[_Turn], max_seconds: float | None = None) -> Sequence[_Turn]:
        """A dialogue with the transcripts that the model adds: none."""
        return dialogue

    def predict(
        self, dialogues: Sequence[Sequence[HasModalities]], max_seconds: float | None = None
    ) -> list[DialoguePrediction]:
        """Predict raw dialogues.

        Args:
            dialogues: each a sequence of utterances in order. Modalities that the model does not use are ignored.
            max_seconds: maximum duration of an utterance's audio; None for no limit.

        Raises:
            AudioDecodeError: an utterance's audio does not decode.
            AudioTooLongError: it is too long.
            CellDecodeError: an encoder makes NaN or infinity of an utterance.
        """
        return self.predict_embeddings(self.embed(dialogues, max_seconds))

    def embed(
        self, dialogues: Sequence[Sequence[HasModalities]], max_seconds: float | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Embeddings of raw dialogues, all utterances of all of them in batches by length."""
        ends = np.cumsum([len(dialogue) for dialogue in dialogues])[:-1]
        turns = [(dialogue, index) for dialogue in dialogues for index in range(len(dialogue))]
        features = {
            name: list(prepared(partial(self._features_of, name, max_seconds), turns)) for name in self._embedders
        }
        vectors: dict[str, list[np.ndarray]] = {}
        for name, computed in self.vectors(features).items():
            for row in overflowing(computed, [each is not None for each in features[name]]):
                raise _unreadable(turns[row][1], name, OVERFLOW)
            vectors[name] = np.split(computed, ends)
        return [{name: parts[index] for name, parts in vectors.items()} for index in range(len(dialogues))]

    def features(
        self,
        modality: str,
        dialogue: Sequence[HasModalities],
        index: int,
        max_seconds: float | None = None,
        on_samples: Callable[[np.ndarray, int], object] | None = None,
    ) -> Features | None:
        """Input features of one modality's encoder for one utterance; None if the utterance lacks the modality.

        Args:
            modality: the modality.
            dialogue: the dialogue of the utterance.
            index: its index in the dialogue.
            max_seconds: maximum duration of its audio; None for no limit.
            on_samples: with ``max_seconds``, called with the decoded samples ``[N]`` of its audio and their rate in Hz.

        Raises:
            CellDecodeError: its value of the modality does not decode; AudioDecodeError if that is audio.
            AudioTooLongError: its audio is longer than ``max_seconds``.
        """
        embedder: UtteranceEmbedder = self._embedders[modality]
        utterance = dialogue[index]
        try:
            if modality == SPEECH and utterance.audio and max_seconds is not None:
                wave, rate = decode(utterance.audio, max_seconds)
                if len(wave) > max_seconds * rate:
                    raise AudioTooLongError(f"utterance {index} is longer than {max_seconds:g} s.", index)
                if on_samples is not None:
                    on_samples(wave, rate)
                return embedder.prepare_samples(wave, rate)
            return embedder.prepare(utterance, self.context(modality, dialogue, index))
        except AudioError as error:
            raise AudioDecodeError(f"utterance {index}: {error}", index, modality) from error
        except UnreadableError as error:
            raise _unreadable(index, modality, str(error)) from error

    def _features_of(
        self, modality: str, max_seconds: float | None, turn: tuple[Sequence[HasModalities], int]
    ) -> Features | None:
        return self.features(modality, *turn, max_seconds)

    def context(self, modality: str, dialogue: Sequence[HasModalities], index: int) -> tuple[str, ...]:
        """Transcripts of the earlier turns that the encoder reads with an utterance, oldest first."""
        turns = self._embedders[modality].settings.context_turns
        return tuple(earlier.text or "" for earlier in dialogue[max(0, index - turns) : index])

    @property
    def max_tokens(self) -> int:
        """The number of tokens that the text encoder reads of an utterance with its context."""
        return self._embedders[TEXT].settings.max_tokens

    def vectors(self, features: Mapping[str, Sequence[Features | None]]) -> dict[str, np.ndarray]:
        """Vectors float32 ``[N, d]`` of prepared utterances by modality, in batches by length; a NaN row for None.

        On a CPU the encoders of several modalities compute side by side.
        """
        begun: dict[str, Finish] = {name: self._embedders[name].begin(each) for name, each in features.items()}
        return {name: finish() for name, finish in begun.items()}

    def length(self, modality: str, features: Features) -> float:
        """Length of a prepared utterance as the encoder reads it: seconds of audio, or tokens of text or another input."""
        return float(features["length"]) / self._embedders[modality].rate

    def kind(self, modality: str) -> Kind:
        """The kind of a modality of the model."""
        return self._embedders[modality].kind

    def settings(self, modality: str) -> EncoderConfig:
        """The settings of a modality's encoder."""
        return self._embedders[modality].settings

    def input_width(self, modality: str) -> int | None:
        """The number of values that a modality's encoder reads of an utterance; None if any number will do."""
        return self._embedders[modality].input_width

    def predict_embeddings(self, dialogues: Sequence[Mapping[str, np.ndarray]]) -> list[DialoguePrediction]:
        """Predict dialogues given as embeddings: per modality float32 ``[n, d]``, NaN row = missing."""
        return self._mixture.predict(dialogues)


class EmotionModel(DialogueModel):
    """A released model.

    Attributes:
        bundle: the bundle's manifest.
        labels: label names, in the order of the probabilities.
        experts: expert names, in the order of the weights.
        encoder_digests: per modality that is read raw; empty for a model that takes vectors only.
        vector_digests: per modality, the encoder that made the vectors; an empty text where it is unknown.
        dimensions: embedding width per modality.
        transcriber: transcribes utterances that have audio and no text; None if the bundle names no model for that.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        mixture: DialogueMixture,
        embedders: Mapping[str, Any],
        transcriber: Transcriber | None = None,
    ) -> None:
        super().__init__(mixture, embedders)
        self.bundle, self.transcriber = bundle, transcriber
        self.labels, self.experts = list(bundle.labels), list(bundle.experts)
        self.encoder_digests = {name: encoder.identity.digest for name, encoder in bundle.encoders.items()}
        self.vector_digests = self.encoder_digests or {name: made.digest for name, made in bundle.vectors.items()}

    @property
    def transcribes(self) -> bool:
        return self.transcriber is not None

    @property
    def context_mode(self) -> Literal["full", "causal"]:
        """The mixture's context mode; with ``causal``, later turns do not change earlier predictions."""
        return self._mixture.context_mode

    def predict(
        self, dialogues: Sequence[Sequence[HasModalities]], max_seconds: float | None = None
    ) -> list[DialoguePrediction]:
        """Predict raw dialogues, with transcripts of utterances that have audio and no text if the bundle transcribes.

        The arguments and errors are those of :meth:`DialogueModel.predict`.
        """
        return super().predict([self.transcribed(dialogue, max_seconds) for dialogue in dialogues], max_seconds)

    def transcribed(self, dialogue: Sequence[_Turn], max_seconds: float | None = None) -> Sequence[_Turn]:
        """A dialogue with transcripts of the utterances that have audio and no text.

        Audio that does not decode or is too long is left to the speech encoder, which says so.
        """
        if self.transcriber is None:
            return dialogue
        turns: list[Any] = list(dialogue)
        for index, turn in enumerate(turns):
            if turn.audio and is_blank(turn.text or ""):
                text = transcript(self.transcriber, turn.audio, max_seconds)
                turns[index] = replace(turn, text=text or None)
        return turns


def transcript(transcriber: Transcriber, audio: bytes, max_seconds: float | None = None) -> str:
    """The transcript of an encoded file; empty if it does not decode, or nothing is said.

    Args:
        transcriber: the model.
        audio: the file.
        max_seconds: decode no more than this.
    """
    return next(transcriber.texts([audio], max_seconds)) or ""
