"""Audio is read from media files: accepted encodings unchanged, others through ffmpeg; unreadable files are rejected."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mistere.common.errors import DataError, MissingPackageError, UsageError
from mistere.corpora.media import AudioReader, UnreadableMediaError, audio_bytes
from mistere.corpora.tables.audio import content, holds_base64
from mistere.data.audio import decode
from tests.recordings import unstated
from tests.unit.data.corpus_files import wav

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(4000) / 9)[:, None].repeat(2, 1) / 2, 22_050, format=kind)
    return buffer.getvalue()


def make_media(path: Path, *arguments: str) -> Path:
    audio_input = ["-f", "lavfi", "-i", "sine=frequency=440:duration=1:sample_rate=44100"]
    video_input = ["-f", "lavfi", "-i", "color=size=32x32:duration=1:rate=5"]
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", *video_input, *audio_input, *arguments, f"file:{path}"],
        check=True,
        timeout=60,
    )
    return path


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_accepted_encoding_is_returned_unchanged_under_any_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    content = encoded(kind)
    for name in ("clip.mp4", "clip.raw", "-i.bin"):
        (tmp_path / name).write_bytes(content)
        assert audio_bytes(tmp_path / name) == content


def test_missing_ffmpeg_is_reported_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    with pytest.raises(MissingPackageError, match=r"clip\.mp4 is no WAV.*apt-get install ffmpeg.*text only") as caught:
        audio_bytes(tmp_path / "clip.mp4")
    assert not isinstance(caught.value, DataError)


def test_empty_or_missing_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(UnreadableMediaError, match=r"empty\.wav is empty"):
        audio_bytes(tmp_path / "empty.wav")
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(UsageError, match="is missing or no file"):
            audio_bytes(path)


def test_reader_notes_missing_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav())
    (tmp_path / "b.wav").write_bytes(b"")
    reader = AudioReader()
    assert reader.read(tmp_path / "a.wav", "a") == wav()
    assert reader.read(tmp_path / "b.wav", "b") is None
    assert [reader.read(None, f"c{number}") for number in range(5)] == [None] * 5
    assert reader.notes() == [
        "5 utterances have no audio file and go without audio (c0, c1, c2 and 2 more).",
        "1 utterance has an audio file that can't be read and goes without audio (b).",
    ]


def test_reader_transcodes_files_and_embedded_audio_of_unstated_length(tmp_path: Path) -> None:
    streamed = unstated()["flac of unknown length"][0]
    (tmp_path / "a.flac").write_bytes(streamed)
    reader = AudioReader()
    stored = reader.take(streamed, "row 1", "t.csv, row 1")
    assert soundfile.info(io.BytesIO(stored)).frames == len(decode(streamed)[0])
    assert reader.read(tmp_path / "a.flac", "a") == reader.load(tmp_path / "a.flac", "b") == stored
    assert reader.take(wav(), "other", "t.csv, other") == wav()
    assert reader.notes() == [
        "Transcoded to mono FLAC or WAV with the same samples, because the header states no length or a wrong one: "
        "3 recordings (row 1, a, b)."
    ]


@needs_ffmpeg
@pytest.mark.parametrize("name", ["-clip.mp4", "http:clip.mkv", "a%d, 'b'.mp4"])
def test_audio_of_a_video_is_extracted_deterministically(tmp_path: Path, name: str) -> None:
    path = make_media(tmp_path / name, "-shortest")
    audio = audio_bytes(path)
    assert audio.startswith(b"fLaC") and audio == audio_bytes(path)
    wave, rate = decode(audio)
    assert rate == 16_000 and abs(len(wave) - 16_000) < 2000
    spectrum = np.abs(np.fft.rfft(wave[:8000]))
    assert int(spectrum.argmax()) * 2 == pytest.approx(440, abs=4)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec", "head"), [("a.m4a", "aac", "AAAA"), ("a.webm", "libopus", "GkXf"), ("a.aac", "aac", "//FQ")]
)
def test_other_codecs_in_a_table_are_converted_as_files(tmp_path: Path, name: str, codec: str, head: str) -> None:
    path = make_media(tmp_path / name, "-map", "1:a", "-c:a", codec, "-shortest")
    text = base64.b64encode(path.read_bytes()).decode()
    assert text.startswith(head) and holds_base64(text) and not holds_base64("recordings/" + 80 * "x")
    reader = AudioReader()
    files = [reader.load(path, "a file")]
    for cell in (text, {"bytes": path.read_bytes()}, {"data": text}):
        data = content(cell, "row 1")
        assert data is not None
        files.append(reader.take(data, "row 1", "t.csv, row 1"))
    assert {*files} == {files[0]} and files[0].startswith(b"fLaC")
    assert reader.notes() == [
        "Converted by ffmpeg to mono FLAC at 16 kHz: 4 recordings of other formats (a file, row 1, row 1 and 1 more)."
    ]


@needs_ffmpeg
def test_embedded_bytes_without_sound_are_refused_by_their_row() -> None:
    for damaged in (b"no audio", wav()[:30]):
        with pytest.raises(
            UnreadableMediaError, match=r"^t\.csv, row 3: the recording has no audio that ffmpeg can read \("
        ) as caught:
            AudioReader().take(damaged, "row 3", "t.csv, row 3")
        assert "/tmp" not in str(caught.value)


@needs_ffmpeg
def test_video_without_readable_audio_is_rejected(tmp_path: Path) -> None:
    silent = make_media(tmp_path / "silent.mp4", "-map", "0:v")
    (tmp_path / "truncated.mp4").write_bytes(make_media(tmp_path / "whole.mp4").read_bytes()[:500])
    (tmp_path / "text.mp4").write_text("not a video")
    for path in (silent, tmp_path / "truncated.mp4", tmp_path / "text.mp4"):
        with pytest.raises(UnreadableMediaError, match=rf"{path.name} has no audio that ffmpeg can read \(") as caught:
            audio_bytes(path)
        assert "\n" not in str(caught.value)


@needs_ffmpeg
@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile other.wav\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.wav\n#EXT-X-ENDLIST\n",
    ],
)
def test_playlist_does_not_read_other_files(tmp_path: Path, script: str) -> None:
    (tmp_path / "other.wav").write_bytes(wav(16_000))
    (tmp_path / "clip.mp4").write_text(script)
    with pytest.raises(UnreadableMediaError, match="has no audio that ffmpeg can read"):
        audio_bytes(tmp_path / "clip.mp4")
