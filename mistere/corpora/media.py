"""Extract audio from media files: accepted formats as they are, everything else through ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, MistereError, UsageError
from mistere.corpora.import_report import some
from mistere.data.audio import AudioError, with_stated_length
from mistere.data.recordings.formats import format_of, names, tag_size

_HEAD_BYTES = 64
_RATE = 16_000
_TIMEOUT_SECONDS = 300
# Containers that hold their audio. Playlists and scripts (hls, concat, …) are excluded: they could name any other file.
_CONTAINERS = "mov,mp4,m4a,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,wav,w64,aiff,au,caf,amr,aac,ac3,eac3,mp3,flac"


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
        MistereError: it cannot be read, or it needs ffmpeg, which is not installed.
    """
    return _load(path)[0]


def _load(path: Path) -> tuple[bytes, bool]:
    """As :func:`audio_bytes`, and whether a file of an accepted format was transcoded for its length."""
    try:
        if not path.is_file():
            raise UsageError(f"{path} is missing or no file: an audio or video file is expected there.")
        if path.stat().st_size == 0:
            raise UnreadableMediaError(f"{path} is empty (0 bytes): copy it again.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            accepted = tag_size(head) > 0 or format_of(head) is not None
            data = head + file.read() if accepted else b""
    except OSError as error:
        raise MistereError(f"{path} can't be read ({error.strerror}): check its permissions.") from error
    try:
        stored = with_stated_length(data)
    except AudioError:
        return _through_ffmpeg(path), False
    return stored, stored is not data


def _through_ffmpeg(path: Path) -> bytes:
    program = shutil.which("ffmpeg")
    if program is None:
        raise MistereError(
            f"{path} is no {names()} file, and ffmpeg, which would read it, is not installed: "
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
                f"{path}: ffmpeg did not finish in {_TIMEOUT_SECONDS} seconds: check the file."
            ) from error
        except OSError as error:
            raise MistereError(
                f"{path}: ffmpeg at {program} does not start ({error.strerror}): install it again."
            ) from error
        if done.returncode != 0 or not _has_samples(result):
            lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
            reason = " ".join(lines[-1].split()).rstrip(".") if lines else "no sound in it"
            raise UnreadableMediaError(f"{path} has no audio that ffmpeg can read ({reason}).")
        return result.read_bytes()


def _has_samples(path: Path) -> bool:
    import soundfile

    try:
        return int(soundfile.info(str(path)).frames) > 0
    except soundfile.SoundFileError:
        return False


@dataclass(slots=True)
class AudioReader:
    """Reads the audio files of a corpus and records the missing, unreadable and transcoded ones for the notes.

    Released corpora lack files and hold broken ones (MELD's ``train_splits/dia125_utt3.mp4``); those utterances get no audio.
    """

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    transcoded: list[str] = field(default_factory=list)

    def load(self, path: Path, name: str) -> bytes:
        """The audio of a file; ``name`` identifies the utterance in the notes. Raises as :func:`audio_bytes`."""
        audio, transcoded = _load(path)
        self.transcoded += [name] if transcoded else []
        return audio

    def take(self, audio: bytes | None, name: str) -> bytes | None:
        """The audio that a table holds; of another format, or damaged, it is left to the validation, which names the row."""
        if audio is None:
            return None
        try:
            stored = with_stated_length(audio)
        except AudioError:
            return audio
        self.transcoded += [name] if stored is not audio else []
        return stored

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

    def notes(self) -> list[str]:
        """Sentences about missing, unreadable and transcoded files."""
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
        return notes
