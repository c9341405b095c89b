"""Extract audio from media files and from the cells of tables: accepted formats as they are, everything else through ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, MissingPackageError, MistereError, UsageError
from mistere.corpora.import_report import some
from mistere.data.audio import AudioError, with_stated_length
from mistere.data.recordings.formats import format_of, names, tag_size

_HEAD_BYTES = 64
_RATE = 16_000
_TIMEOUT_SECONDS = 300
# Containers that hold their audio. Playlists and scripts (hls, concat, …) are excluded: they could name any other file.
_CONTAINERS = "mov,mp4,m4a,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,wav,w64,aiff,au,caf,amr,aac,ac3,eac3,mp3,flac"
# Matroska and WebM, AMR, Windows Media, Flash video
_OTHER_STARTS = (b"\x1a\x45\xdf\xa3", b"#!AMR", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\x01")
_ADTS_RATES = 13


class UnreadableMediaError(DataError):
    """A media file without readable audio."""


def audio_bytes(path: Path) -> bytes:
    """The audio of a file in a format of the dataset form.

    A file of an accepted format, recognised by its content, is returned unchanged, or with the same samples and the right length
    (:func:`mistere.data.audio.with_stated_length`). ffmpeg converts any other file (a video, another codec) to mono FLAC at
    16 kHz; the same file and version of ffmpeg give the same bytes.

    Raises:
        UnreadableMediaError: the file is empty, not a media file, or has no audio.
        UsageError: the file is missing.
        MissingPackageError: it needs ffmpeg, which is not installed.
        MistereError: it cannot be read.
    """
    return _load(path).audio


class _Stored(NamedTuple):
    """The audio as the dataset holds it.

    Attributes:
        audio: a file of an accepted format.
        lengthened: whether it was transcoded to state its length.
        converted: whether ffmpeg converted it.
    """

    audio: bytes
    lengthened: bool = False
    converted: bool = False


def _load(path: Path) -> _Stored:
    try:
        if not path.is_file():
            raise UsageError(f"{path} is missing or no file: an audio or video file is expected there.")
        if path.stat().st_size == 0:
            raise UnreadableMediaError(f"{path} is empty (0 bytes): copy it again.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            data = head + file.read() if _accepted(head) else b""
    except OSError as error:
        raise MistereError(f"{path} can't be read ({error.strerror}): check its permissions.") from error
    try:
        stored = with_stated_length(data)
    except AudioError:
        return _Stored(_through_ffmpeg(path, str(path)), converted=True)
    return _Stored(stored, lengthened=stored is not data)


def _take(data: bytes, what: str) -> _Stored:
    """As :func:`_load`, for a file in memory; ``what`` names it in errors."""
    try:
        stored = with_stated_length(data)
    except AudioError:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "recording"
            path.write_bytes(data)
            return _Stored(_through_ffmpeg(path, what), converted=True)
    return _Stored(stored, lengthened=stored is not data)


def is_media(head: bytes) -> bool:
    """Whether a file is audio or video by its first bytes: of an accepted format, or in a container that recorders write."""
    return _accepted(head) or head[4:8] == b"ftyp" or head.startswith(_OTHER_STARTS) or _is_adts(head)


def _accepted(head: bytes) -> bool:
    return tag_size(head) > 0 or format_of(head) is not None


def _is_adts(head: bytes) -> bool:
    """Whether a file is AAC without a container: a frame begins with twelve set bits, layer 0, and has one of 13 rates."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < _ADTS_RATES


def _through_ffmpeg(path: Path, what: str) -> bytes:
    program = shutil.which("ffmpeg")
    if program is None:
        raise MissingPackageError(
            f"{what} is no {names()} file, or a damaged one, and ffmpeg, which would read it, is not installed: "
            "run `apt-get install ffmpeg`, or import text only."
        )
    with tempfile.TemporaryDirectory() as scratch:
        # To a file, not a pipe: ffmpeg has to seek back to write the length into the header.
        result = Path(scratch) / "audio.flac"
        command = [
            program, "-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe",
            "-format_whitelist", _CONTAINERS, "-i", f"file:{path.absolute()}", "-map", "0:a:0", "-vn", "-sn", "-dn",
            "-map_metadata", "-1", "-map_chapters", "-1", "-ac", "1", "-ar", str(_RATE), "-c:a", "flac",
            "-sample_fmt", "s16", "-threads", "1", "-fflags", "+bitexact", "-flags:a", "+bitexact",
            "-f", "flac", f"file:{result}",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise UnreadableMediaError(
                f"{what}: ffmpeg did not finish in {_TIMEOUT_SECONDS} seconds: check the file."
            ) from error
        except OSError as error:
            raise MistereError(
                f"{what}: ffmpeg at {program} does not start ({error.strerror}): install it again."
            ) from error
        if done.returncode != 0 or not _has_samples(result):
            lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
            reason = (
                " ".join(lines[-1].split()).rstrip(".").removeprefix(f"file:{path}: ") if lines else "no sound in it"
            )
            raise UnreadableMediaError(f"{what} has no audio that ffmpeg can read ({reason}).")
        return result.read_bytes()


def _has_samples(path: Path) -> bool:
    import soundfile

    try:
        return int(soundfile.info(str(path)).frames) > 0
    except soundfile.SoundFileError:
        return False


@dataclass(slots=True)
class AudioReader:
    """Reads the audio files of a corpus and records the missing, unreadable, transcoded and converted ones for the notes.

    Released corpora lack files and hold broken ones (MELD's ``train_splits/dia125_utt3.mp4``); those utterances get no audio.
    """

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    transcoded: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)

    def load(self, path: Path, name: str) -> bytes:
        """The audio of a file; ``name`` identifies the utterance in the notes. Raises as :func:`audio_bytes`."""
        return self._counted(_load(path), name)

    def take(self, audio: bytes, name: str, where: str) -> bytes:
        """As :meth:`load`, for a file that a table holds; ``where`` names the row in errors."""
        return self._counted(_take(audio, f"{where}: the recording"), name)

    def read(self, path: Path | None, name: str) -> bytes | None:
        """The audio of a file, None if it is missing or unreadable; ``name`` identifies the utterance in the notes."""
        if path is None or not path.is_file():
            self.missing.append(name)
            return None
        try:
            return self.load(path, name)
        except UnreadableMediaError:
            self.unreadable.append(name)
            return None

    def _counted(self, stored: _Stored, name: str) -> bytes:
        self.transcoded += [name] if stored.lengthened else []
        self.converted += [name] if stored.converted else []
        return stored.audio

    def notes(self) -> list[str]:
        """Sentences about missing, unreadable, transcoded and converted files."""
        notes = []
        if self.missing:
            notes.append(
                f"{counted(len(self.missing), 'utterance')} {plural(len(self.missing), 'has', 'have')} no audio file and "
                f"{plural(len(self.missing), 'goes', 'go')} without audio ({some(self.missing)})."
            )
        if self.unreadable:
            notes.append(
                f"{counted(len(self.unreadable), 'utterance')} {plural(len(self.unreadable), 'has', 'have')} an audio file that can't be read and "
                f"{plural(len(self.unreadable), 'goes', 'go')} without audio "
                f"({some(self.unreadable)})."
            )
        if self.transcoded:
            notes.append(
                f"Transcoded to mono FLAC or WAV with the same samples, because the header states no length or a wrong one: "
                f"{counted(len(self.transcoded), 'recording')} ({some(self.transcoded)})."
            )
        if self.converted:
            notes.append(
                f"Converted by ffmpeg to mono FLAC at 16 kHz: {counted(len(self.converted), 'recording')} of other formats "
                f"({some(self.converted)})."
            )
        return notes
