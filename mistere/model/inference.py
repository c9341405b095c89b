"""A released model from its bundle: raw dialogues or embeddings in, predictions out. Serving and evaluation share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.artifacts.signing import verify_bundle
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.modalities import IMPLICIT_KINDS, SPEECH, TEXT, HasModalities
from mistere.config.encoder import Device, EncoderConfig, Precision
from mistere.data.audio import AudioError, decode
from mistere.data.kinds.kind import Kind, UnreadableError
from mistere.data.text_repair import is_blank
from mistere.model.embedders import open_embedder
from mistere.model.encoders.embedding import SERVING, Embedder
from mistere.model.encoders.families.family import Features
from mistere.model.encoders.preparation import prepared
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import DialoguePrediction, load_mixture, predict
from mistere.model.transcription.transcriber import Transcriber, open_transcriber
from mistere.model.weight_files import OTHER_MODEL

__all__ = [
    "AudioDecodeError",
    "AudioTooLongError",
    "DialoguePrediction",
    "EmotionModel",
    "UtteranceInput",
    "load_bundle",
]

_Turn = TypeVar("_Turn", bound=HasModalities)


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


class AudioDecodeError(CellDecodeError):
    """An utterance's audio does not decode."""


class AudioTooLongError(MistereError):
    """An utterance's audio is longer than allowed; ``utterance`` is its index in the dialogue."""

    def __init__(self, message: str, utterance: int) -> None:
        super().__init__(message)
        self.utterance = utterance


class DialogueModel:
    """Encoders and mixture together: predicts raw dialogues or embeddings.

    Args:
        mixture: the mixture in evaluation mode.
        temperature: its calibration.
        embedders: by modality.
    """

    def __init__(self, mixture: MixtureOfExperts, temperature: float, embedders: Mapping[str, Embedder]) -> None:
        self._mixture, self._temperature, self._embedders = mixture, temperature, dict(embedders)
        self.dimensions = dict(mixture.dimensions)

    @property
    def mixture_weights(self) -> int:
        """The number of the mixture's weights, by which predicting an utterance is priced."""
        return sum(weights.numel() for weights in self._mixture.parameters())

    @property
    def embedders(self) -> Mapping[str, Embedder]:
        """The encoders by modality; none for a model that takes vectors only."""
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
        """
        return self.predict_embeddings(self.embed(dialogues, max_seconds))

    def embed(
        self, dialogues: Sequence[Sequence[HasModalities]], max_seconds: float | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Embeddings of raw dialogues, all utterances of all of them in batches by length."""
        ends = np.cumsum([len(dialogue) for dialogue in dialogues])[:-1]
        vectors: dict[str, list[np.ndarray]] = {}
        for name in self._embedders:
            turns = [(dialogue, index) for dialogue in dialogues for index in range(len(dialogue))]
            prepare = partial(self._features_of, name, max_seconds)
            vectors[name] = np.split(self.vectors(name, list(prepared(prepare, turns))), ends)
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
        embedder, utterance = self._embedders[modality], dialogue[index]
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
            failure = CellDecodeError(f"utterance {index}, {modality}: {error}", index, modality)
            failure.reason = str(error)
            raise failure from error

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

    def vectors(self, modality: str, features: Sequence[Features | None]) -> np.ndarray:
        """Vectors float32 ``[N, d]`` of prepared utterances, in batches by length; a NaN row for None."""
        return self._embedders[modality].embed(features)

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
        return self._embedders[modality].encoder.family.input_width

    def predict_embeddings(self, dialogues: Sequence[Mapping[str, np.ndarray]]) -> list[DialoguePrediction]:
        """Predict dialogues given as embeddings: per modality float32 ``[n, d]``, NaN row = missing."""
        return predict(self._mixture, dialogues, self._temperature)


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
        mixture: MixtureOfExperts,
        embedders: Mapping[str, Embedder],
        transcriber: Transcriber | None = None,
    ) -> None:
        super().__init__(mixture, bundle.temperature, embedders)
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
        return self._mixture.config.context_mode

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


def load_bundle(
    location: str, *, int8: bool = False, device: Device = "auto", dtype: Precision = "float32"
) -> EmotionModel:
    """Open and verify a bundle (its signature too, if the environment names a key) with its base weights.

    Args:
        location: ``<store>/artifacts/ModelBundle/<digest>``, a folder or ``s3://``.
        int8: compute the encoders in 8-bit integers if there is no GPU.
        device: of the encoders; ``auto`` uses a GPU if there is one.
        dtype: precision of the encoders' weights; ``auto`` is half precision on a GPU.

    Raises:
        ArtifactError: it is missing, incomplete or damaged; the message names the file.
        UsageError: it is no bundle's location.
    """
    root, digest = split_bundle_location(location)
    store = open_store(root)
    opened = open_artifact(store, ModelBundle, digest)
    verify_bundle(store, opened)
    bundle = opened.manifest
    extraction = SERVING.model_copy(update={"precision": dtype})
    embedders = {
        name: open_embedder(
            store,
            name,
            encoder,
            opened.file(f"encoders/{name}.safetensors"),
            len(bundle.labels),
            extraction,
            device,
            int8=int8,
        )
        for name, encoder in bundle.encoders.items()
    }
    for embedder in embedders.values():
        _ = embedder.encoder  # damage is found now, not at the first request
    mixture = load_mixture(opened.path)
    if reason := _disagreement(bundle, mixture, embedders):
        raise ArtifactError(f"the bundle {opened.path} holds no usable model: {reason}", OTHER_MODEL)
    transcriber = None
    if bundle.transcription is not None:
        transcriber = open_transcriber(store, bundle.transcription, device)
    return EmotionModel(bundle, mixture, embedders, transcriber)


def _disagreement(bundle: ModelBundle, mixture: MixtureOfExperts, embedders: Mapping[str, Embedder]) -> str:
    """What in a bundle's manifest its mixture and encoders contradict, as a clause; empty if nothing does."""
    if not (math.isfinite(bundle.temperature) and bundle.temperature > 0):
        return f"its temperature is {bundle.temperature}"
    if len(bundle.labels) != mixture.classes or len(set(bundle.labels)) != len(bundle.labels):
        return (
            f"it names {counted(len(bundle.labels), 'label')}, {len(set(bundle.labels))} of them different; its mixture has "
            f"{counted(mixture.classes, 'class', 'classes')}"
        )
    if bundle.experts != mixture.experts:
        return "it names other experts than its mixture has"
    if bundle.vectors and not embedders:
        return "" if bundle.vectors.keys() == mixture.dimensions.keys() else "its vectors are not those of its mixture"
    widths = {name: embedder.dimension for name, embedder in embedders.items()}
    if widths != mixture.dimensions or any(
        (implicit := IMPLICIT_KINDS.get(name)) and embedder.kind.name != implicit
        for name, embedder in embedders.items()
    ):
        return "its encoders are not those of its mixture"
    return ""
