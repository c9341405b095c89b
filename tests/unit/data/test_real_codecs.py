"""The simulated telephone line beside real codecs: G.711, GSM and Opus of ffmpeg, and the packet loss concealment of libopus.

Run with ``-s`` to see the figures that ``docs/guides/robustness.md`` states.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import io
import shutil
import subprocess
from itertools import islice, pairwise

import numpy as np
import pytest
import soundfile

from components.pull_data.run import describe
from mistere.data.audio import decode, resample
from mistere.data.calls.channels import (
    _lost,
    _opus_level,
    clipped,
    mulaw,
    through_gsm,
    through_mulaw,
    through_opus,
    with_lost_packets,
)
from mistere.data.kinds.audio import RATE, TELEPHONE_RATE, telephone_band
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin

FFMPEG = shutil.which("ffmpeg")
OPUS = ctypes.util.find_library("opus")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
FRAME = 320
_VOIP = 2048
_SET_BITRATE = 4002


def encoders() -> str:
    assert FFMPEG is not None
    return subprocess.run([FFMPEG, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True).stdout


def ffmpeg(data: bytes, *options: str) -> bytes:
    assert FFMPEG is not None
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", *options, "pipe:1"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def coded(samples: np.ndarray, rate: int, form: str, *codec: str) -> tuple[np.ndarray, int]:
    """16-bit samples ``[N]`` through a codec of ffmpeg; returns the decoded ones, and the size of the coded file."""
    raw = ("-f", "s16le", "-ar", str(rate), "-ac", "1")
    file = ffmpeg(samples.astype("<i2").tobytes(), *raw, "-i", "pipe:0", *codec, "-f", form)
    stated = () if form == "ogg" else ("-ar", str(rate))
    decoded = ffmpeg(file, "-f", form, *stated, "-i", "pipe:0", *raw)
    return np.frombuffer(decoded, "<i2"), len(file)


def integers(wave: np.ndarray, scale: float = 32767.0) -> np.ndarray:
    return np.clip(np.rint(wave * scale), -32768, 32767).astype(np.int16)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """About 25 s of the sample's speech at 16 kHz, at half of the full scale."""
    pinned = pin("data.dvc", "")
    reader = UtteranceReader(describe(pinned.remote, pinned.digest), ("dev",))
    spoken = (one.audio for one in reader.stream("dev", ("speech",)) if one.audio)
    wave = np.concatenate([resample(*decode(audio), RATE) for audio in islice(spoken, 16)])
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def bands(wave: np.ndarray, rate: int) -> np.ndarray:
    """Levels in dB of 24 bands from 300 to 3400 Hz, equally wide in mel, of frames of 32 ms ``[T, 24]``."""
    size = int(0.032 * rate)
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), size)[:: size // 2] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(size, 1 / rate) / 700)
    edges = np.linspace(*(2595 * np.log10(1 + np.array([300, 3400]) / 700)), 25)
    levels = np.stack([power[:, (mel >= low) & (mel <= high)].sum(1) for low, high in pairwise(edges)], 1)
    return 10 * np.log10(levels + 1e-9 * levels.max())


def spectral_distance(one: np.ndarray, other: np.ndarray, rate: int, frames: np.ndarray | None = None) -> float:
    """Root mean square difference of the bands in dB, over the frames in which ``one`` is not 40 dB below its loudest."""
    count = min(len(one), len(other))
    mine, theirs = bands(one[:count], rate), bands(other[:count], rate)
    loud = mine.max(1) > mine.max() - 40
    if frames is not None:
        loud &= frames[: len(loud)]
    return float(np.sqrt(((mine - theirs)[loud] ** 2).mean(1)).mean())


def aligned(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``other``, shifted by up to 60 ms to where it fits ``one`` best."""
    from scipy.signal import correlate

    count = min(len(one), len(other))
    scores = correlate(one[:count].astype(np.float64), other[:count].astype(np.float64), "full", "fft")
    around = scores[count - 1 - 1000 : count + 1000]
    return np.roll(other[:count], int(np.argmax(around)) - 1000)


def g711(sample: int) -> int:
    """The µ-law code of a 16-bit sample, as ITU-T G.191 defines it."""
    magnitude = min(((~sample if sample < 0 else sample) >> 2) + 33, 0x1FFF)
    segment = (magnitude >> 6).bit_length() + 1
    return (0x80 if sample >= 0 else 0) | (8 - segment) << 4 | 0xF - (magnitude >> segment & 0xF)


@needs_ffmpeg
def test_mulaw_is_bit_exact(speech: np.ndarray) -> None:
    every = np.arange(-32768, 32768, dtype=np.int16)
    raw = ("-f", "mulaw", "-ar", str(TELEPHONE_RATE), "-i", "pipe:0", "-f", "s16le")
    values = np.frombuffer(ffmpeg(bytes(range(256)), *raw), "<i2")
    codes = np.array([g711(int(sample)) for sample in every])
    ours = np.rint(32768 * mulaw(every)[0]).astype(int)
    assert np.array_equal(ours, values[codes]), "encoded as the reference does, decoded as ffmpeg does"
    # ffmpeg's own encoder puts the boundaries of its steps up to three units elsewhere.
    others = np.searchsorted(np.unique(values), coded(every, TELEPHONE_RATE, "mulaw")[0])
    steps = np.abs(np.searchsorted(np.unique(values), ours) - others)
    print(f"other code than ffmpeg's encoder: {100 * steps.mean():.1f} % of the values, by {steps.max()} step")
    assert steps.max() == 1 and steps.mean() < 0.02
    real, _ = coded(integers(telephone_band(speech, RATE), 32768), TELEPHONE_RATE, "mulaw")
    heard, rate = through_mulaw(speech)
    between = spectral_distance(real / 32768, heard, rate)
    print(f"µ-law: {between:.2f} dB from ffmpeg's encoder")
    assert between < 0.5


@needs_ffmpeg
@pytest.mark.skipif(FFMPEG is None or " libgsm " not in encoders(), reason="ffmpeg was built without libgsm")
def test_gsm_is_bit_exact(speech: np.ndarray) -> None:
    real, size = coded(integers(telephone_band(speech, RATE)), TELEPHONE_RATE, "gsm", "-c:a", "libgsm")
    ours, _ = through_gsm(speech)
    assert np.array_equal(np.rint(32768 * ours).astype(int), real[: len(ours)])
    assert size * 8 * RATE / len(speech) == pytest.approx(13_200, rel=0.01), "33 bytes for 20 ms"


@pytest.mark.long
@needs_ffmpeg
@pytest.mark.skipif(FFMPEG is None or " libopus " not in encoders(), reason="ffmpeg was built without libopus")
@pytest.mark.parametrize("kilobits", [pytest.param(16, marks=pytest.mark.long), 6])
def test_opus_has_the_bit_rate_and_the_distance_of_ffmpeg_s(speech: np.ndarray, kilobits: int) -> None:
    real, size = coded(integers(speech), RATE, "ogg", "-c:a", "libopus", "-b:a", f"{kilobits}k")
    ours, rate = through_opus(speech, kilobits)
    buffer = io.BytesIO()
    soundfile.write(buffer, speech, RATE, format="OGG", subtype="OPUS", compression_level=_opus_level(kilobits))
    rates = [8 * RATE * count / len(speech) / 1000 for count in (len(buffer.getvalue()), size)]
    distances = [spectral_distance(speech, aligned(speech, one), RATE) for one in (ours, real / 32768)]
    print(
        f"Opus {kilobits}: {rates[0]:.1f} and {rates[1]:.1f} kbit/s; {distances[0]:.2f} and {distances[1]:.2f} dB lost"
    )
    assert rate == RATE and rates[0] == pytest.approx(rates[1], rel=0.1)
    assert distances[0] == pytest.approx(distances[1], rel=0.1)


class Libopus:
    """Speech in packets of 20 ms through libopus, whose decoder conceals lost ones."""

    def __init__(self, name: str, bitrate: int) -> None:
        self._library = ctypes.CDLL(name)
        for create in (self._library.opus_encoder_create, self._library.opus_decoder_create):
            create.restype = ctypes.c_void_p
        self._error = ctypes.c_int()
        self._bitrate = bitrate

    def packets(self, samples: np.ndarray) -> list[bytes]:
        encoder = ctypes.c_void_p(self._library.opus_encoder_create(RATE, 1, _VOIP, ctypes.byref(self._error)))
        self._library.opus_encoder_ctl(encoder, _SET_BITRATE, ctypes.c_int(self._bitrate))
        packets = []
        for frame in samples.astype(np.int16).reshape(-1, FRAME):
            data = ctypes.create_string_buffer(1500)
            size = self._library.opus_encode(encoder, frame.ctypes.data_as(ctypes.c_void_p), FRAME, data, len(data))
            assert size > 0
            packets.append(data.raw[:size])
        self._library.opus_encoder_destroy(encoder)
        return packets

    def decoded(self, packets: list[bytes], lost: np.ndarray) -> np.ndarray:
        decoder = ctypes.c_void_p(self._library.opus_decoder_create(RATE, 1, ctypes.byref(self._error)))
        output = np.zeros((len(packets), FRAME), np.int16)
        for packet, gone, frame in zip(packets, lost, output, strict=True):
            data, size = (None, 0) if gone else (packet, len(packet))
            count = self._library.opus_decode(decoder, data, size, frame.ctypes.data_as(ctypes.c_void_p), FRAME, 0)
            assert count == FRAME
        self._library.opus_decoder_destroy(decoder)
        return output.ravel() / np.float32(32768)


@pytest.mark.long
@pytest.mark.skipif(OPUS is None, reason="libopus is not installed")
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_lost_packets_are_concealed_about_as_libopus_does(speech: np.ndarray, share: float) -> None:
    assert OPUS is not None
    wave = speech[: len(speech) // FRAME * FRAME]
    opus = Libopus(OPUS, 24_000)
    packets = opus.packets(integers(wave))
    lost = _lost(len(packets), share, np.random.default_rng(3))
    whole, real = opus.decoded(packets, np.zeros(len(packets), bool)), opus.decoded(packets, lost)
    ours, _ = with_lost_packets(whole, share, np.random.default_rng(3))
    gaps = np.repeat(lost, FRAME)
    silenced = np.where(gaps, 0, whole)
    frames = np.lib.stride_tricks.sliding_window_view(gaps, int(0.032 * RATE))[:: int(0.016 * RATE)].any(1)
    distances = [spectral_distance(whole, one, RATE, frames) for one in (ours, real, silenced)]
    levels = [10 * np.log10((one[gaps] ** 2).mean() / (whole[gaps] ** 2).mean()) for one in (ours, real)]
    print(
        f"{100 * lost.mean():.0f} % lost: {distances[0]:.1f} and {distances[1]:.1f} dB from the whole, silence {distances[2]:.1f}; the gaps "
        f"{levels[0]:+.1f} and {levels[1]:+.1f} dB"
    )
    assert distances[0] == pytest.approx(distances[1], rel=0.2) and distances[0] < 0.6 * distances[2]
    assert abs(levels[0] - levels[1]) < 3


@needs_ffmpeg
@pytest.mark.parametrize("percent", [1, 5, 20])
def test_clipping_is_that_of_an_overdriven_line(speech: np.ndarray, percent: int) -> None:
    gain = 1 / float(np.quantile(np.abs(speech), 1 - percent / 100))
    raw = ("-f", "s16le", "-ar", str(RATE), "-ac", "1")
    overdriven = ffmpeg(integers(speech).astype("<i2").tobytes(), *raw, "-i", "pipe:0", "-af", f"volume={gain}", *raw)
    real = np.frombuffer(overdriven, "<i2") / 32768
    ours, _ = clipped(speech, percent / 100)
    real *= np.sqrt((ours**2).mean() / (real**2).mean())
    difference = np.abs(real - ours).max()
    print(f"clipping {percent} %: largest difference {20 * np.log10(difference):.0f} dB below full scale")
    assert difference < 1e-4
