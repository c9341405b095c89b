"""Recordings in every accepted format, with headers that are right, state no length, or state a wrong one."""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
import soundfile

from mistere.data.recordings import mp3

SECONDS = 1.2
RATE = 16000


def sweep(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone that rises, so that samples are at no second place."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)


def encoded(form: str, subtype: str | None = None, channels: int = 1, rate: int = RATE, **options: object) -> bytes:
    buffer = io.BytesIO()
    wave = sweep(rate=rate)
    samples = np.stack([wave * (1 - 0.1 * channel) for channel in range(channels)], axis=1)
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype, **options)
    return buffer.getvalue()


def replaced(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def wav_with_sizes(wav: bytes, riff: int, data: int) -> bytes:
    at = wav.index(b"data")
    return replaced(replaced(wav, 4, struct.pack("<I", riff)), at + 4, struct.pack("<I", data))


def without_encoder_tag(data: bytes) -> bytes:
    """An MP3 file without its first frame, which holds the number of frames."""
    (first, *_) = mp3._frames(data)
    assert data[first.tag : first.tag + 4] in (b"Xing", b"Info")
    return data[first.start + first.size :]


def varying_mp3() -> bytes:
    """Variable bitrate: noise, then silence, so that the bitrate of the first frame promises too short a file."""
    buffer = io.BytesIO()
    wave = sweep()
    wave[: len(wave) // 3] += np.random.default_rng(0).normal(0, 0.2, len(wave) // 3).astype(np.float32)
    wave[len(wave) // 3 :] = 0
    soundfile.write(buffer, wave, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.1)
    return buffer.getvalue()


def without_flac_length(flac: bytes, samples: int = 0) -> bytes:
    return replaced(flac, 21, bytes([flac[21] & 0xF0]) + samples.to_bytes(4, "big"))


@cache
def plain() -> dict[str, bytes]:
    """Files whose header is right."""
    files = {
        "wav 16 bit": encoded("WAV", "PCM_16"),
        "wav 8 bit": encoded("WAV", "PCM_U8"),
        "wav 24 bit": encoded("WAV", "PCM_24"),
        "wav 32 bit": encoded("WAV", "PCM_32"),
        "wav float": encoded("WAV", "FLOAT"),
        "wav double": encoded("WAV", "DOUBLE"),
        "wav mu-law": encoded("WAV", "ULAW", rate=8000),
        "wav a-law": encoded("WAV", "ALAW", rate=8000),
        "wav ima adpcm": encoded("WAV", "IMA_ADPCM"),
        "wav microsoft adpcm": encoded("WAV", "MS_ADPCM"),
        "wav gsm": encoded("WAV", "GSM610", rate=8000),
        "wav of 2 channels": encoded("WAV", "PCM_16", 2),
        "wav of 6 channels": encoded("WAV", "PCM_16", 6),
        "wav of 17 channels": encoded("WAV", "FLOAT", 17),
        "wav extensible": encoded("WAVEX", "PCM_24", 4),
        "rifx": encoded("WAV", "PCM_16", endian="BIG"),
        "rf64": encoded("RF64", "PCM_16"),
        "wave64": encoded("W64", "PCM_16"),
        "aiff": encoded("AIFF", "PCM_16"),
        "aiff-c float": encoded("AIFF", "FLOAT"),
        "au": encoded("AU", "PCM_16"),
        "au mu-law": encoded("AU", "ULAW", rate=8000),
        "caf": encoded("CAF", "PCM_16"),
        "caf alac": encoded("CAF", "ALAC_16"),
        "flac": encoded("FLAC", "PCM_16"),
        "flac 24 bit of 8 channels": encoded("FLAC", "PCM_24", 8),
        "ogg vorbis": encoded("OGG", "VORBIS"),
        "ogg opus": encoded("OGG", "OPUS"),
        "mp3": encoded("MP3", rate=44100),
        "mp3 of 2 channels": encoded("MP3", channels=2),
        "mp3 of variable bitrate": varying_mp3(),
    }
    files["wav with a chunk behind the samples"] = files["wav 16 bit"] + b"LIST" + struct.pack("<I", 8000) + b"x" * 8000
    files["flac with a tag at both ends"] = (
        b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + files["flac"] + b"TAG" + bytes(125)
    )
    files["mp3 of constant bitrate without a length"] = without_encoder_tag(
        encoded("MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    )
    return files


@cache
def unstated() -> dict[str, tuple[bytes, float]]:
    """Files whose header states no length, or a wrong one; and their duration in s."""
    files = plain()
    wav, flac, aiff, au = files["wav 16 bit"], files["flac"], files["aiff"], files["au"]
    size = int(SECONDS * RATE) * 2
    common, sound = aiff.index(b"COMM"), aiff.index(b"SSND")
    w64, caf = files["wave64"], files["caf"]
    w64_data = w64.index(b"data\xf3\xac")
    rf64 = files["rf64"]
    wrong = {
        "wav of sizes 0": wav_with_sizes(wav, 0, 0),
        "wav of unlimited sizes": wav_with_sizes(wav, 0xFFFFFFFF, 0xFFFFFFFF),
        "wav of the sizes of sox": wav_with_sizes(wav, 0x7FFFF024, 0x7FFFF000),
        "wav of an outdated size": wav_with_sizes(wav, 436, 400),
        "wav float of sizes 0": wav_with_sizes(files["wav float"], 0, 0),
        "wav of 2 channels and sizes 0": wav_with_sizes(files["wav of 2 channels"], 0, 0),
        "rf64 of sizes 0": replaced(rf64, rf64.index(b"ds64") + 8, bytes(24)),
        "wave64 of sizes 0": replaced(replaced(w64, 16, bytes(8)), w64_data + 16, bytes(8)),
        "aiff of sizes 0": replaced(replaced(replaced(aiff, 4, bytes(4)), sound + 4, bytes(4)), common + 10, bytes(4)),
        "au of unknown size": replaced(au, 8, b"\xff" * 4),
        "caf of unknown size": replaced(caf, caf.index(b"data") + 4, b"\xff" * 8),
        "flac of unknown length": without_flac_length(flac),
        "flac of too short a length": without_flac_length(flac, 1000),
        "mp3 of variable bitrate without a length": without_encoder_tag(files["mp3 of variable bitrate"]),
    }
    joined = ("wav 16 bit", "aiff", "au", "caf", "wave64", "flac", "ogg vorbis", "ogg opus", "mp3 of 2 channels")
    assert len(wav) == size + 44
    return {
        **{name: (data, SECONDS) for name, data in wrong.items()},
        **{f"two joined files, {name}": (files[name] * 2, 2 * SECONDS) for name in joined},
        "joined mp3 of two rates": (files["mp3 of 2 channels"] + files["mp3"], 2 * SECONDS),
        "joined flac of unknown lengths": (without_flac_length(flac) * 2, 2 * SECONDS),
        "joined wav of sizes 0": (wav_with_sizes(wav, 0, 0) * 2, 2 * SECONDS),
    }


def every_file() -> dict[str, bytes]:
    """All of them."""
    return {**plain(), **{name: data for name, (data, _) in unstated().items()}}
