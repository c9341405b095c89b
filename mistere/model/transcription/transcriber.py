"""Transcribe utterances with a Whisper: greedy decoding, the same text for the same audio in training and at the endpoint.

Whisper reads windows of 30 s; shorter audio is padded with silence as in its training, longer audio is read window by window. On
a CPU each window is decoded alone, several utterances in parallel on one core each: in a batch, rounding depends on the other
windows. Weights are computed in float32 on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mistere.artifacts.identities import TranscriptionModel
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError
from mistere.config.encoder import Device
from mistere.data.audio import AudioError, decode, resample
from mistere.data.kinds.audio import RATE
from mistere.data.text_repair import is_blank
from mistere.model.encoders.device import choose_device
from mistere.model.encoders.folder_check import check_folder
from mistere.model.encoders.preparation import prepared
from mistere.model.transcription.model_folder import FAMILY, open_folder
from mistere.model.weight_files import OTHER_MODEL, read_weights

_MOST_CHARACTERS: Final = 4000
"""The longest transcript of a window, whatever the tokenizer of a stranger makes of its tokens."""


class Transcriber:
    """A loaded transcription model.

    Args:
        folder: configuration, weights, feature extractor and tokenizer.
        language: code of the spoken language, or ``detect``.
        max_tokens: tokens of the transcript of a window at most.
        device: where to compute.
        batch_size: windows at once on a GPU.
    """

    def __init__(
        self, folder: Path, language: str, max_tokens: int, device: Device = "auto", batch_size: int = 1
    ) -> None:
        from tokenizers import Tokenizer
        from transformers import WhisperFeatureExtractor

        self._decoding, self._tokens = open_folder(folder)
        self._language = language
        self._device = choose_device(device, "data.transcription.device")
        self._batch_size = batch_size if self._device.type == "cuda" else 1
        self._model = _load(folder).to(self._device)
        self._extractor = WhisperFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises plain exceptions
            raise ArtifactError(f"{folder} holds no tokenizer that loads", OTHER_MODEL) from error
        positions = self._model.config.max_target_positions
        self._max_tokens = min(max_tokens, positions - len(self._prompt("en")) - 1)
        vocabulary = self._model.config.vocab_size
        special = range(self._tokens.end + 1, vocabulary)
        self._suppressed = torch.tensor([*self._decoding.suppressed, *special], dtype=torch.long, device=self._device)
        self._suppressed_first = torch.tensor(self._decoding.suppressed_first, dtype=torch.long, device=self._device)

    @property
    def window_seconds(self) -> float:
        """Seconds of audio that are computed at once; a shorter utterance costs as much."""
        return float(self._extractor.n_samples) / RATE

    def texts(self, recordings: Iterable[bytes], max_seconds: float | None = None) -> Iterator[str | None]:
        """Transcripts of encoded files, in order; empty where nothing is said, None where the audio does not decode.

        Args:
            recordings: the files, read as they are transcribed; a window of them is in memory.
            max_seconds: decode no more than this of each.
        """
        windows = partial(self._windows, max_seconds=max_seconds)
        if self._batch_size == 1:
            yield from prepared(lambda audio: self._joined(windows(audio), self._decode_each), recordings)
            return
        stream = prepared(windows, recordings)
        while batch := list(islice(stream, self._batch_size)):
            frames = [frame for found in batch for frame in found or ()]
            decoded: list[str] = []
            for start in range(0, len(frames), self._batch_size):
                decoded += self._decode(frames[start : start + self._batch_size])
            parts = iter(decoded)
            for found in batch:
                yield self._joined(found, lambda own: list(islice(parts, len(own))))  # noqa: B023  (called at once)

    def _windows(self, audio: bytes, max_seconds: float | None) -> list[np.ndarray] | None:
        """Log-mel frames ``[mel, frames]`` of each window of an encoded file; None if it does not decode."""
        try:
            wave, rate = decode(audio, max_seconds)
        except AudioError:
            return None
        samples = resample(wave, rate, RATE)
        size = int(self._extractor.n_samples)
        frames = []
        for start in range(0, len(samples), size):
            mel = self._extractor(samples[start : start + size], sampling_rate=RATE, return_tensors="np")
            frames.append(np.asarray(mel["input_features"][0], dtype=np.float32))
        return frames

    def _decode_each(self, frames: Sequence[np.ndarray]) -> list[str]:
        return [text for frame in frames for text in self._decode([frame])]

    @staticmethod
    def _joined(
        frames: Sequence[np.ndarray] | None, transcripts: Callable[[Sequence[np.ndarray]], Sequence[str]]
    ) -> str | None:
        if frames is None:
            return None
        text = " ".join(part for part in transcripts(frames) if part)
        return "" if is_blank(text) else text

    @torch.inference_mode()
    def _decode(self, windows: Sequence[np.ndarray]) -> list[str]:
        """Decode windows greedily, all of them step by step until each has ended."""
        mel = torch.from_numpy(np.stack(windows)).to(self._device)
        states = self._model.encoder(mel).last_hidden_state
        prompts = [self._prompt(code) for code in self._languages(states)]
        inputs = torch.tensor(prompts, device=self._device)
        cache: Any = None
        chosen: list[Tensor] = []
        ended = torch.zeros(len(windows), dtype=torch.bool, device=self._device)
        for step in range(self._max_tokens):
            output = self._model.decoder(
                input_ids=inputs, encoder_hidden_states=states, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            scores = self._scores(output.last_hidden_state[:, -1])
            scores[:, self._suppressed] = -torch.inf
            if step == 0:
                scores[:, self._suppressed_first] = -torch.inf
            token = scores.argmax(-1)
            token = torch.where(ended, self._tokens.end, token)
            ended |= token == self._tokens.end
            if bool(ended.all()):
                break
            chosen.append(token)
            inputs = token[:, None]
        rows = torch.stack(chosen, 1).tolist() if chosen else [[] for _ in windows]
        return [self._text(row) for row in rows]

    def _languages(self, states: Tensor) -> list[str]:
        """The language of each window: the set one, or the most probable."""
        if self._language != "detect" or not self._decoding.multilingual:
            return [self._language] * len(states)
        start = torch.full((len(states), 1), self._tokens.start, device=self._device)
        output = self._model.decoder(input_ids=start, encoder_hidden_states=states)
        codes = list(self._tokens.languages)
        known = self._scores(output.last_hidden_state[:, -1])[:, [self._tokens.languages[code] for code in codes]]
        return [codes[index] for index in known.argmax(-1).tolist()]

    def _prompt(self, language: str) -> list[int]:
        tokens = self._tokens
        chosen = [tokens.languages[language], tokens.transcribe] if self._decoding.multilingual else []
        return [tokens.start, *(token for token in chosen if token is not None), tokens.no_timestamps]

    def _scores(self, states: Tensor) -> Tensor:
        """Scores of the next token ``[B, V]``: the output projection is the embedding."""
        return torch.nn.functional.linear(states, self._model.decoder.embed_tokens.weight)

    def _text(self, tokens: Sequence[int]) -> str:
        spoken = [token for token in tokens if token < self._tokens.end]
        text = self._tokenizer.decode(spoken, skip_special_tokens=True)[:_MOST_CHARACTERS]
        printable = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(printable.split())


def open_transcriber(
    store: ObjectStore, model: TranscriptionModel, device: Device = "auto", batch_size: int = 1
) -> Transcriber:
    """Open a stored transcription model.

    Args:
        store: holds its weights.
        model: which one, and its language.
        device: where to compute.
        batch_size: windows at once on a GPU.

    Raises:
        ArtifactError: the model is missing, damaged, or of another kind.
        UsageError: the device does not exist.
    """
    base = open_artifact(store, BaseEncoder, model.base_digest)
    if base.manifest.family != FAMILY:
        raise ArtifactError(f"{base.path} holds no transcription model", OTHER_MODEL)
    check_folder(base.path, base.manifest.source)
    return Transcriber(base.path, model.language, model.max_tokens, device, batch_size)


def _load(folder: Path) -> Any:
    from transformers import WhisperConfig, WhisperModel

    weights, _ = read_weights(folder / "model.safetensors")
    try:
        config = WhisperConfig.from_pretrained(str(folder), local_files_only=True)
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            model = WhisperModel(config)
        model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True, assign=True)
    except (RuntimeError, ValueError, TypeError, OSError, KeyError) as error:
        raise ArtifactError(f"{folder} holds no Whisper whose weights fit its configuration", OTHER_MODEL) from error
    return model.float().eval()
