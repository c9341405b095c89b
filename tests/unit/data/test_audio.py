"""Audio is decoded, resampled and measured."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import soundfile

from mistere.common.errors import MistereError
from mistere.corpora.tables import audio as tables
from mistere.data.audio import AudioError, EmptyAudioError, clipped_share, decode, encode_exactly, resample, rms_dbfs
from mistere.data.kinds import audio as kinds


def encoded(wave: np.ndarray, rate: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def tone(seconds: float, rate: int, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("MP3", None, None),
    ],
)
def test_decode_keeps_the_sampling_rate_of_each_codec(form: str, subtype: str | None, tolerance: float | None) -> None:
    wave = tone(1.0, 22050)
    decoded, rate = decode(encoded(wave, 22050, form, subtype))
    assert rate == 22050 and decoded.dtype == np.float32 and decoded.ndim == 1
    if tolerance is not None:
        assert decoded.shape == wave.shape
        assert np.abs(decoded - wave).max() <= tolerance


def test_decode_averages_channels() -> None:
    left, right = tone(0.2, 16000), np.zeros(3200, np.float32)
    decoded, _ = decode(encoded(np.stack([left, right], axis=1), 16000, subtype="FLOAT"))
    np.testing.assert_allclose(decoded, left / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"this is no audio", "does not decode"),
        (encoded(tone(1, 16000), 16000, "OGG", "VORBIS")[:300], "does not decode"),
        (encoded(np.zeros(0, np.float32), 16000), "zero length"),
        (encoded(np.array([0.1, np.nan], np.float32), 16000, subtype="FLOAT"), "no numbers"),
        (encoded(np.array([0.1, -1e10], np.float32), 16000, subtype="FLOAT"), "samples of up to 1e\\+10"),
        (encoded(np.array([0.1, 3e38], np.float32), 16000, subtype="FLOAT"), "samples of up to 3e\\+38"),
        (encoded(np.full((2, 2), 3e38, np.float32), 16000, subtype="FLOAT"), "no numbers"),
    ],
    ids=["empty", "not audio", "truncated", "no samples", "NaN", "beyond integers", "beyond squares", "infinite mean"],
)
def test_damaged_audio_is_rejected_with_one_sentence(data: bytes, expected: str) -> None:
    with pytest.raises(AudioError, match=expected) as caught:
        decode(data)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    assert isinstance(caught.value, MistereError)
    assert isinstance(caught.value, EmptyAudioError) == (expected in ("empty", "zero length"))


def test_samples_that_were_integers_are_accepted() -> None:
    for peak in (32768.0, 2.0**31):
        decoded, _ = decode(encoded(np.array([0.1, -peak], np.float32), 16000, subtype="FLOAT"))
        assert decoded.min() == -peak


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (8000, 16000), (22050, 16000), (16000, 16000)])
def test_resampling_preserves_a_tone(rate: int, target: int) -> None:
    resampled = resample(tone(1.0, rate), rate, target)
    assert resampled.dtype == np.float32 and resampled.shape == (target,)
    inner = slice(target // 10, -target // 10)
    np.testing.assert_allclose(resampled[inner], tone(1.0, target)[inner], atol=5e-3)


def test_resampling_removes_frequencies_above_nyquist() -> None:
    resampled = resample(tone(1.0, 44100, hertz=15000), 44100, 16000)
    assert rms_dbfs(resampled[1000:-1000]) < -50


def test_levels_match_known_signals() -> None:
    assert rms_dbfs(tone(1.0, 16000, level=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert rms_dbfs(np.zeros(100, np.float32)) == -120.0
    assert clipped_share(np.array([0.0, 1.0, -1.0, 0.5], np.float32)) == 0.5
    assert clipped_share(tone(1.0, 16000)) == 0.0


def test_the_same_samples_are_the_same_bytes_at_any_time() -> None:
    """libsndfile writes the second of writing into WAV files of floats; DVC digests and cached vectors are by bytes."""
    wave = tone(0.1, 8000) * np.float32(1 / 3)

    def files() -> list[bytes]:
        table = tables._encoded(wave.tolist(), {"sampling_rate": 8000}, "audio", "row 1")
        return [encode_exactly(wave, 8000), kinds.encoded(wave, 8000, "FLOAT"), table]

    before, plain = files(), encoded(wave, 8000, subtype="FLOAT")
    time.sleep(1.1)
    assert files() == before and all(each.startswith(b"RIFF") for each in before)
    assert encoded(wave, 8000, subtype="FLOAT") != plain, "nothing is left to do"
    np.testing.assert_array_equal(decode(before[0])[0], wave)
