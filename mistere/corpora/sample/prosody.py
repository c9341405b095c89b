"""The prosody of emotions in the sample, and the channel that utterances are recorded through.

Each utterance gets a random delivery: *clear* (the prosody of its emotion), *shared* (halfway between the two emotions of a pair:
angry and happy, sad and neutral, fearful and surprised) or *flat* (almost neutral). The pairs differ from those of the wording, so
that one modality separates the emotions that the other confuses, and neither suffices alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistere.corpora.sample.turn_kinds import TurnKind
from mistere.corpora.sample.voices import Voice
from mistere.corpora.sample.wording import Emotion

SAMPLE_RATE = 16_000

_WORDS_PER_MINUTE = 165.0
_SPEECH_LEVEL = 0.06
_TREMOR_HZ = 6.5
_PITCH_UNITS_PER_FACTOR = 110.0
"""espeak's pitch scale is close to linear around its middle: this many units double the pitch."""


class Prosody(NamedTuple):
    """The prosody of an emotion, relative to the speaker's neutral voice."""

    pitch: float  # factor on the mean pitch
    range: float  # factor on the pitch range
    rate: float  # factor on the speaking rate
    level: float  # dB
    tilt: float  # spectral balance: first-order pre-emphasis above 0, low-pass below
    tremor: float  # depth of the amplitude tremor, 0 to 1


_PROSODY: dict[Emotion, Prosody] = {
    "neutral": Prosody(1.00, 1.00, 1.00, 0.0, 0.00, 0.00),
    "happy": Prosody(1.17, 1.45, 1.08, 2.5, 0.12, 0.00),
    "sad": Prosody(0.90, 0.60, 0.84, -4.0, -0.35, 0.05),
    "angry": Prosody(1.04, 1.25, 1.16, 6.0, 0.42, 0.00),
    "fearful": Prosody(1.18, 0.75, 1.17, -2.0, -0.05, 0.32),
    "surprised": Prosody(1.25, 1.65, 0.97, 1.5, 0.05, 0.00),
}
_VOICE_PAIRS: dict[Emotion, Emotion] = {
    "angry": "happy",
    "happy": "angry",
    "sad": "neutral",
    "neutral": "sad",
    "fearful": "surprised",
    "surprised": "fearful",
}
_SPREAD = np.array([0.075, 0.18, 0.06, 1.6, 0.11, 0.05])
"""Spread of each prosody value over utterances (half the width of a triangular distribution)."""


def draw_prosody(emotion: Emotion, kind: TurnKind, draw: np.random.Generator) -> Prosody:
    """Draw the prosody of one utterance with ``emotion``."""
    rest = np.array(_PROSODY["neutral"])
    own = np.array(_PROSODY[emotion])
    delivery = draw.random()
    if delivery < kind.clear_delivery:
        centre = own
    elif delivery < kind.clear_delivery + kind.shared_delivery:
        centre = (own + np.array(_PROSODY[_VOICE_PAIRS[emotion]])) / 2
    else:
        centre = rest + 0.15 * (own - rest)
    # The sum of two uniform draws is triangular. It needs no transcendental function, so every machine gives the same values.
    values = centre + _SPREAD * (draw.uniform(-1, 1, 6) + draw.uniform(-1, 1, 6))
    values[:3] = np.maximum(values[:3], 0.4)
    values[5] = max(values[5], 0.0)
    return Prosody(*values.tolist())


def synthesis_settings(voice: Voice, prosody: Prosody) -> dict[str, int]:
    """The parameters of espeak-ng: ``rate`` in words a minute, ``pitch`` and ``range`` on its scales of 0 to 99."""
    pitch = 50 + voice.pitch + _PITCH_UNITS_PER_FACTOR * (prosody.pitch - 1)
    return {
        # Resampling shifts the formants and changes the pace too; this compensates the pace.
        "rate": _clamp(_WORDS_PER_MINUTE * prosody.rate * voice.pace / voice.tract, 90, 300),
        "pitch": _clamp(pitch, 0, 99),
        "range": _clamp(50 * prosody.range, 0, 99),
    }


def _clamp(value: float, low: int, high: int) -> int:
    return min(max(round(value), low), high)


def record(
    speech: NDArray[np.int16],
    rate: int,
    voice: Voice,
    prosody: Prosody,
    kind: TurnKind,
    gain_db: float,
    draw: np.random.Generator,
) -> NDArray[np.float32]:
    """Apply the speaker's vocal tract, the emotion's voice quality and a noisy microphone to synthesized speech.

    Args:
        speech: output of the synthesizer, ``[N]`` at ``rate`` Hz.
        rate: sample rate of ``speech`` in Hz.
        voice: the speaker.
        prosody: the utterance's prosody; its tilt, tremor and level are applied here.
        kind: the kind of turn, with the range of its signal-to-noise ratio.
        gain_db: the microphone's gain, constant for a speaker within a dialogue.
        draw: random generator of the noise.

    Returns:
        The recording, ``[M]`` at 16 kHz, within -1 to 1.
    """
    from scipy.signal import lfilter, resample_poly

    # Played at `tract` times its rate, speech has its formants and pitch scaled by `tract`.
    signal = resample_poly(_trim(speech).astype(np.float64) / 32768, SAMPLE_RATE // 50, round(rate * voice.tract / 50))
    tilt = min(max(prosody.tilt, -0.6), 0.6)
    signal = lfilter([1.0, -tilt], [1.0], signal) if tilt > 0 else lfilter([1.0 + tilt], [1.0, tilt], signal)
    signal = signal * (_SPEECH_LEVEL / (np.sqrt(np.mean(signal**2)) + 1e-9))
    phase = (np.arange(signal.size) / SAMPLE_RATE * _TREMOR_HZ) % 1.0
    signal = signal * (1 + prosody.tremor * (4 * np.abs(phase - 0.5) - 1))
    microphone = 10 ** (gain_db / 20)
    noise_level = _SPEECH_LEVEL * 10 ** (-draw.uniform(*kind.noise_below_speech_db) / 20)
    noise = 2 * noise_level * (draw.random((3, signal.size)).sum(axis=0) - 1.5)
    recording = microphone * (10 ** (prosody.level / 20) * signal + noise)
    return np.asarray(np.clip(recording, -1, 1), dtype=np.float32)


def _trim(speech: NDArray[np.int16], margin: int = 1000) -> NDArray[np.int16]:
    """Cut the silence that the synthesizer puts around an utterance, leaving a short margin of ``margin`` samples."""
    loud = np.flatnonzero(np.abs(speech.astype(np.int32)) > 60)
    if loud.size == 0:
        return speech
    return speech[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]
