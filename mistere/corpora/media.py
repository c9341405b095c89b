"""Extract audio from media files: accepted encodings unchanged, everything else through ffmpeg."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mistere.common.errors import DataError, MistereError
from mistere.corpora.import_report import some

_ACCEPTED = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"})
_RATE = 16_000
_TIMEOUT_SECONDS = 300
# Containers that hold their audio. Playlists and scripts (hls, concat, …) are excluded: they could name any other file.
_CONTAINERS = "mov,mp4,m4a,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,wav,w64,aiff,au,caf,amr,aac,ac3,eac3,mp3,flac"


class UnreadableMediaError(DataError):
    """A media file without readable audio."""


def audio_bytes(path: Path) -> bytes:
    """The audio of a file in an encoding of the dataset form.

    WAV, FLAC, OGG and MP3, recognised by their content, are returned unchanged. ffmpeg converts any other file (a video, another
    codec) to mono FLAC at 16 kHz; the same file and version of ffmpeg give the same bytes.

    Raises:
        UnreadableMediaError: the file is empty, not a media file, or has no audio.
        DataError: the file is missing or cannot be read.
        MistereError: the file needs ffmpeg, which is not installed.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing or no file: an audio or video file is expected there.")
        if path.stat().st_size == 0:
            raise UnreadableMediaError(f"{path} is empty (0 bytes): copy it again.")
        if _is_accepted(path):
            return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check its permissions.") from error
    return _through_ffmpeg(path)


def _is_accepted(path: Path) -> bool:
    """Whether libsndfile finds an accepted encoding; it gets a descriptor, so that the file's name has no influence."""
    import soundfile

    descriptor = os.open(path, os.O_RDONLY)
    try:
        with soundfile.SoundFile(descriptor, closefd=False) as file:
            return file.format in _ACCEPTED
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError):
        return False
    finally:
        os.close(descriptor)


def _through_ffmpeg(path: Path) -> bytes:
    program = shutil.which("ffmpeg")
    if program is None:
        raise MistereError(
            f"{path} is no WAV, FLAC, OGG or MP3 file, and ffmpeg, which would read it, is not installed: "
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
    """Reads the audio files of a corpus and records the missing and unreadable ones for the notes.

    Released corpora lack files and hold broken ones (MELD's ``train_splits/dia125_utt3.mp4``); those utterances get no audio.
    """

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def read(self, path: Path | None, name: str) -> bytes | None:
        """The audio of a file, None if it is missing or unreadable; ``name`` identifies the utterance in the notes."""
        if path is None or not path.is_file():
            self.missing.append(name)
            return None
        try:
            return audio_bytes(path)
        except UnreadableMediaError:
            self.unreadable.append(name)
            return None

    def notes(self) -> list[str]:
        """Sentences about missing and unreadable files."""
        notes = []
        if self.missing:
            notes.append(
                f"{len(self.missing)} utterances have no audio file and go without audio ({some(self.missing)})."
            )
        if self.unreadable:
            notes.append(
                f"{len(self.unreadable)} utterances have an audio file that can't be read and go without audio "
                f"({some(self.unreadable)})."
            )
        return notes
