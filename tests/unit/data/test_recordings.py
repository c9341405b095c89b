"""Recordings are decoded until nothing comes, whatever their headers state, with the same samples wherever they are read."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from components.validate_data.facts.audio_measurements import measure_audio
from mistere.config.encoder import EncoderConfig
from mistere.corpora.importers.table import import_table
from mistere.data import audio
from mistere.data.audio import AudioError, decode, decode_recording, encode_exactly, extent, with_stated_length
from mistere.data.dataset import read_utterances, shards_of
from mistere.data.kinds.audio import speech_samples
from mistere.data.recordings import formats
from tests.recordings import RATE, SECONDS, every_file, plain, replaced, sweep, unstated, wav_with_sizes

ROOT = Path(__file__).parents[3]
LONG = EncoderConfig(source="", max_seconds=60, min_seconds=0.1)


@pytest.mark.parametrize("name", plain())
def test_a_right_header_is_believed_and_the_file_stays_as_it_is(name: str) -> None:
    data = plain()[name]
    assert with_stated_length(data) is data
    recording = decode_recording(data)
    # An encoder's delay and the last frame of MP3, and the last block of ADPCM and GSM, add up to 0.15 s.
    assert SECONDS - 1e-9 <= len(recording.wave) / recording.rate < SECONDS + 0.16
    assert not recording.cut_short and recording.seconds == len(recording.wave) / recording.rate
    assert round(extent(data).seconds * recording.rate) == len(recording.wave)


@pytest.mark.parametrize("name", unstated())
def test_a_file_with_a_wrong_length_is_decoded_to_its_end_and_transcoded_without_a_change(name: str) -> None:
    data, seconds = unstated()[name]
    wave, rate = decode(data)
    assert seconds - 1e-9 <= len(wave) / rate < seconds + 0.16
    stored = with_stated_length(data)
    assert stored is not data and with_stated_length(stored) is stored
    # What any other program reads of the stored file.
    samples, stored_rate = soundfile.read(io.BytesIO(stored), dtype="float32", always_2d=True)
    assert stored_rate == rate and samples.shape == (len(wave), 1)
    np.testing.assert_array_equal(samples[:, 0], wave)
    assert round(extent(data).seconds * rate) == len(wave)


def test_the_samples_are_the_right_ones() -> None:
    whole = np.rint(sweep() * 32768) / 32768
    for name in (
        "wav of sizes 0",
        "aiff of sizes 0",
        "au of unknown size",
        "wave64 of sizes 0",
        "flac of unknown length",
    ):
        np.testing.assert_allclose(decode(unstated()[name][0])[0], whole, atol=4e-5, err_msg=name)
    twice, _ = decode(unstated()["two joined files, flac"][0])
    np.testing.assert_allclose(twice, np.tile(whole, 2), atol=4e-5)
    for name in ("mp3 of 2 channels", "ogg opus", "ogg vorbis"):
        once = decode(plain()[name])[0]
        np.testing.assert_array_equal(decode(unstated()[f"two joined files, {name}"][0])[0], np.tile(once, 2))
    six = decode(plain()["wav of 6 channels"])[0]
    np.testing.assert_allclose(six, sweep() * np.mean([1 - 0.1 * channel for channel in range(6)]), atol=1e-4)


def test_the_samples_are_the_same_at_import_check_and_extraction(tmp_path: Path) -> None:
    files = every_file()
    (tmp_path / "sound").mkdir()
    rows = []
    for number, (name, data) in enumerate(files.items()):
        (tmp_path / "sound" / f"{number}.bin").write_bytes(data)
        split = ("train", "dev", "test")[number % 3]
        rows.append({"dialogue_id": name, "label": "ab"[number % 2], "audio": f"{number}.bin", "split": split})
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = import_table(table, tmp_path / "data", audio=tmp_path / "sound")
    (note,) = [note for note in report.notes if "ranscoded" in note]
    assert f": {len(unstated())} recordings (" in note and "length" in note
    shards = [path for split in ("train", "dev", "test") for path in shards_of((tmp_path / "data").iterdir(), split)]  # type: ignore[arg-type]
    imported = {row.dialogue_id: row.audio for row in read_utterances(shards)}
    assert list(imported) != [] and set(imported) == set(files)
    for name, data in files.items():
        stored = imported[name]
        assert stored is not None
        wave, rate = decode(data)
        np.testing.assert_array_equal(decode(stored)[0], wave, err_msg=name)
        before, after = measure_audio(data, None, -60.0), measure_audio(stored, None, -60.0)
        assert after.decodes and before.sound == after.sound and before.seconds == after.seconds == len(wave) / rate, (
            name
        )
        np.testing.assert_array_equal(speech_samples(stored, LONG), speech_samples(data, LONG), err_msg=name)


def test_damaged_files_keep_their_damage_for_the_check_to_name() -> None:
    wav, flac = plain()["wav 16 bit"], plain()["flac"]
    for data in (wav[: len(wav) // 2], flac[: len(flac) // 2], plain()["mp3"][:4000]):
        assert with_stated_length(data) is data
        assert measure_audio(data, None, -60.0).decodes is False
    assert measure_audio(wav_with_sizes(wav, 36, 0)[:44], None, -60.0).non_empty is False
    for other in (
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"OggS" + bytes(60),
        b"\xff\xf1" + bytes(60),
        b"\xff" * 4096,
        b"ID3" * 99,
    ):
        with pytest.raises(AudioError, match="does not decode"):
            decode(other)


def test_stated_numbers_reserve_no_memory_and_limits_hold_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    flac = plain()["flac"]
    endless = replaced(flac, 21, bytes([flac[21] | 15]) + b"\xff" * 4)
    tracemalloc.start()
    try:
        assert decode_recording(endless).cut_short
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert highest < 20 << 20
    assert len(decode(unstated()["flac of unknown length"][0], 0.5)[0]) == RATE // 2 + 1
    assert len(decode(unstated()["two joined files, mp3 of 2 channels"][0], 2.0)[0]) == 2 * RATE + 1
    beginning = decode_recording(unstated()["two joined files, wav 16 bit"][0], 0.5)
    assert beginning.seconds == 2 * SECONDS and len(beginning.wave) == RATE // 2 + 1
    monkeypatch.setattr(audio, "MAX_SECONDS", 1.0)
    with pytest.raises(AudioError, match=r"longer than 1 s: cut it at the boundaries of the utterances\."):
        decode(flac)
    with pytest.raises(AudioError, match="more than 100 joined files"):
        decode(encode_exactly(np.array([0.1], np.float32), RATE) * 120)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xf3\x14\xc0" * (1 << 19),
        b"\xff\xfb\x10\xc0" + b"\xff" * (1 << 21),
        plain()["flac"][:42] + b"\xff\xf8\x19\x08\x00\x00" * 500_000,
        b"RIFF\x00\x00\x40\x00WAVE" + b"abcd\x00\x00\x00\x00" * (1 << 19),
        plain()["wav 16 bit"] + b"abcd\x00\x00\x00\x00" * (1 << 19),
        b"OggS\x00\x02" * (1 << 19),
    ],
    ids=["headers of mp3", "set bits", "headers of flac", "chunks", "chunks behind the samples", "pages of ogg"],
)
def test_hostile_bytes_are_inspected_fast(data: bytes) -> None:
    start = time.process_time()
    with contextlib.suppress(AudioError):
        extent(data)
    assert time.process_time() - start < 3


@pytest.mark.long
def test_a_file_cut_within_its_header_is_refused_or_read() -> None:
    for data in every_file().values():
        for end in range(1, min(len(data), 120)):
            with contextlib.suppress(AudioError):
                decode(data[:end], None)


def test_samples_without_an_equal_in_24_bits_stay_floats() -> None:
    for wave, start in (
        (np.array([0.5, -1.0, 2**-23], np.float32), b"fLaC"),
        (np.array([1.0, 0.5], np.float32), b"RIFF"),
        (np.array([0.1, 0.3], np.float32), b"RIFF"),
    ):
        stored = encode_exactly(wave, RATE)
        assert stored[:4] == start
        np.testing.assert_array_equal(decode(stored)[0], wave)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_what_ffmpeg_writes_to_a_pipe_is_decoded_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(plain()["wav 16 bit"])
    outputs = {
        "wav": ["-f", "wav"], "rf64": ["-rf64", "always", "-f", "wav"], "w64": ["-f", "w64"], "aiff": ["-f", "aiff"],
        "au": ["-f", "au"], "flac": ["-f", "flac"], "mp3": ["-q:a", "4", "-write_xing", "0", "-f", "mp3"],
    }  # fmt: skip
    for name, options in outputs.items():
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(tmp_path / "a.wav"), *options, "-"]
        data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        wave, rate = decode(data)
        assert rate == RATE and SECONDS <= len(wave) / rate < SECONDS + 0.16, name
        assert with_stated_length(data) is not data, name


def test_the_documented_table_is_that_of_the_code() -> None:
    page = (ROOT / "docs/guides/data.md").read_text(encoding="utf-8")
    section = page.partition("## Accepted audio\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| `\.(\w+)` \| ([^|]+) \|$", section, re.MULTILINE)
    assert rows == [(each.name, each.extension, ", ".join(each.codecs)) for each in formats.FORMATS]
    assert f"{formats.MAX_CHANNELS} channels" in section
