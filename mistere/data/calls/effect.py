"""The interface of an effect of a call: levels of rising strength, each of which changes a dialogue.

The random draws of an utterance depend on the seed, the effect and the utterance alone, so no result depends on the order. The levels
of an effect share their draws: a packet that is lost at 5 % is lost at 10 %, and the noise of 20 dB is that of 10 dB, only quieter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from mistere.data.audio import AudioError, decode, resample
from mistere.data.dataset import Utterance
from mistere.data.kinds.audio import RATE, encoded

if TYPE_CHECKING:
    from numpy.random import Generator

Affected = Literal["speech", "text", "turns"]
Voices = Sequence[np.ndarray]
WaveChange = Callable[[np.ndarray, "Generator", Voices], tuple[np.ndarray, int]]
"""Changes mono samples float32 ``[N]`` at 16 kHz, given recordings of other dialogues; returns samples and their rate in Hz."""
TextChange = Callable[[str, "Generator", Sequence[str]], str]
"""Changes a transcript, given the words of the dataset."""

_VOICES: Final = 64
_VOICES_OF_A_DIALOGUE: Final = 2
_VOICE_SECONDS: Final = (1.0, 8.0)
_WORDS: Final = 20_000


@dataclass
class Surroundings:
    """What a call is mixed with.

    Attributes:
        voices: the dialogue and the samples ``[N]`` at 16 kHz of some recordings, at most :data:`_VOICES`.
        words: distinct words of the transcripts in lower case, sorted.
        silent_texts: whether an utterance has audio and no text, which a model may transcribe.
    """

    voices: list[tuple[str, np.ndarray]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    silent_texts: bool = False

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> Surroundings:
        """Collect them from a dataset: recordings of at least a second, two of a dialogue, the first 8 s of each."""
        found = cls()
        words: set[str] = set()
        taken: dict[str, int] = {}
        for one in utterances:
            if one.text and len(words) < _WORDS:
                words.update(re.findall(r"[^\W\d_]+", one.text.lower()))
            found.silent_texts |= bool(one.audio) and not one.text
            count = taken.get(one.dialogue_id, 0)
            if not one.audio or len(found.voices) == _VOICES or count == _VOICES_OF_A_DIALOGUE:
                continue
            try:
                wave = _at_encoder_rate(one.audio, _VOICE_SECONDS[1])
            except AudioError:
                continue
            if len(wave) >= _VOICE_SECONDS[0] * RATE and wave.any():
                found.voices.append((one.dialogue_id, wave))
                taken[one.dialogue_id] = count + 1
        found.words = sorted(words)[:_WORDS]
        return found

    def others(self, dialogue: str) -> list[np.ndarray]:
        """The recordings of other dialogues."""
        return [wave for owner, wave in self.voices if owner != dialogue]

    @property
    def has_others(self) -> bool:
        """Whether every dialogue has recordings of others."""
        return len({owner for owner, _ in self.voices}) > 1


@dataclass(frozen=True)
class Level:
    """An effect at one strength.

    Attributes:
        effect: the effect's name, from which the draws follow.
        name: in figures and settings: ``babble_10db``.
        label: on the axis of a plot: ``10 dB``.
        words: describes it in reports.
        wave: changes recordings.
        text: changes transcripts.
        lost: share of the turns that are lost.
    """

    effect: str
    name: str
    label: str
    words: str
    wave: WaveChange | None = None
    text: TextChange | None = None
    lost: float = 0.0

    def kept(self, dialogue: Sequence[Utterance], seed: int) -> np.ndarray:
        """Which turns are left ``[n]``; at least one of those with a label, or of all if none has one."""
        if not self.lost:
            return np.ones(len(dialogue), bool)
        draws = np.array([self.generator(one, seed).random() for one in dialogue])
        kept = draws >= self.lost
        labelled = np.array([one.label is not None for one in dialogue])
        wanted = labelled if labelled.any() else np.ones(len(dialogue), bool)
        if not (kept & wanted).any():
            kept[int(np.argmax(np.where(wanted, draws, -1.0)))] = True
        return kept

    def apply(self, dialogue: Sequence[Utterance], around: Surroundings, seed: int) -> list[Utterance]:
        """The dialogue as the call leaves it; lost turns are left out."""
        if self.lost:
            return [one for one, kept in zip(dialogue, self.kept(dialogue, seed), strict=True) if kept]
        return [self.utterance(one, around, seed) for one in dialogue]

    def utterance(self, one: Utterance, around: Surroundings, seed: int) -> Utterance:
        """An utterance as the call leaves it; a recording that does not decode stays as it is."""
        if self.wave is not None and one.audio:
            return one.with_cell("speech", self.recording(one, around, seed))
        if self.text is not None and one.text:
            return one.with_cell("text", self.text(one.text, self.generator(one, seed), around.words))
        return one

    def recording(self, one: Utterance, around: Surroundings, seed: int) -> bytes:
        """The changed recording of an utterance, as WAV of 32-bit floats."""
        assert self.wave is not None and one.audio is not None
        try:
            wave = _at_encoder_rate(one.audio)
        except AudioError:
            return one.audio
        changed, rate = self.wave(wave, self.generator(one, seed), around.others(one.dialogue_id))
        return encoded(changed, rate, "FLOAT")

    def generator(self, one: Utterance, seed: int) -> Generator:
        """The random numbers of an utterance."""
        effect, dialogue = self.effect.encode(), one.dialogue_id.encode()
        return np.random.default_rng([seed, one.turn, len(effect), *effect, *dialogue])


@dataclass(frozen=True)
class Effect:
    """An effect of a call.

    Attributes:
        name: in settings and figures.
        title: heads its plot.
        affected: what it changes: recordings, transcripts, or the turns themselves.
        levels: from weak to strong.
        needs_others: whether it mixes in recordings of other dialogues; a dataset without any has no such effect.
    """

    name: str
    title: str
    affected: Affected
    levels: tuple[Level, ...]
    needs_others: bool = False


def _at_encoder_rate(audio: bytes, max_seconds: float | None = None) -> np.ndarray:
    wave, rate = decode(audio, max_seconds)
    return resample(wave, rate, RATE)
