"""Cut the audio of a speaker's channel into turns by voice activity.

WebRTC's detector (``webrtcvad``) decides about frames of 20 ms. It takes about 10 µs a frame and no memory. Silero's network finds
speech in loud noise more reliably, but takes about 0.7 ms a frame of 32 ms and 8 MB a channel: 100 calls of two speakers would need
four cores for it alone. Both separate speech from silence and from noise 20 dB below the speech.
"""

from __future__ import annotations

import io
import wave
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import webrtcvad

RATE: Final = 16000
"""Samples a second of every channel."""
SAMPLE_BYTES: Final = 2
"""Signed 16-bit integers, little-endian."""

WAV_HEAD_BYTES: Final = 44
"""Of a clip, before its samples."""

_FRAME: Final = RATE // 50
"""Samples of a frame."""
_FRAME_SECONDS: Final = _FRAME / RATE
_STRICTNESS: Final = 3
"""The detector's mode that takes noise for speech least often."""
_LEAD: Final = 15
"""Frames before the first speech that belong to the turn: consonants are quiet, and the detector needs some frames."""
_TAIL: Final = 10
"""Frames after the last speech that belong to the turn."""
_ONSET, _ONSET_WINDOW = 5, 8
"""Frames of speech, among the last ones, that begin a turn."""
_LEAST_SPEECH: Final = 8
"""Frames of speech of a turn; with fewer it is a click or a cough, and dropped."""


@dataclass(frozen=True)
class Cut:
    """The audio of a turn.

    Attributes:
        channel: the speaker's channel.
        start: first sample, counted from the begin of the stream.
        pcm: the samples as bytes.
    """

    channel: int
    start: int
    pcm: bytes

    @property
    def seconds(self) -> tuple[float, float]:
        """Begin and end, from the begin of the stream, seconds."""
        return self.start / RATE, self.start / RATE + len(self.pcm) / SAMPLE_BYTES / RATE

    def wav(self) -> bytes:
        """The turn as a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(SAMPLE_BYTES)
            writer.setframerate(RATE)
            writer.writeframes(self.pcm)
        return file.getvalue()


class TurnCutter:
    """Cuts one channel.

    Args:
        channel: its index.
        silence_seconds: silence that ends a turn.
        max_seconds: length at which a turn ends in any case.
    """

    def __init__(self, channel: int, silence_seconds: float, max_seconds: float) -> None:
        import webrtcvad

        self._detector: webrtcvad.Vad = webrtcvad.Vad(_STRICTNESS)
        self._channel = channel
        self._silence = max(1, round(silence_seconds / _FRAME_SECONDS))
        self._longest = max(1, int(max_seconds / _FRAME_SECONDS))
        self._before: deque[bytes] = deque(maxlen=_LEAD + _ONSET_WINDOW)
        self._recent: deque[bool] = deque(maxlen=_ONSET_WINDOW)
        self._turn: list[bytes] = []
        self._speech = self._quiet = 0
        self._frames = 0

    @property
    def extent(self) -> tuple[int, int] | None:
        """First sample and length, samples, of the open turn if it ended now; None if there is none, or hardly any speech in it."""
        if self._speech < _LEAST_SPEECH:
            return None
        return (self._frames - len(self._turn)) * _FRAME, self._kept * _FRAME

    def so_far(self) -> Cut | None:
        """The open turn as it would be if it ended now, or None as :attr:`extent`. Copies its audio."""
        if (extent := self.extent) is None:
            return None
        return Cut(self._channel, extent[0], b"".join(self._turn[: self._kept]))

    @property
    def _kept(self) -> int:
        """Frames of the open turn that belong to it if it ends now."""
        return len(self._turn) - max(0, self._quiet - _TAIL)

    def add(self, frame: bytes) -> Cut | None:
        """Take the next frame.

        Args:
            frame: 20 ms of samples.

        Returns:
            The turn that this frame ends, if it ends one.
        """
        speech: bool = self._detector.is_speech(frame, RATE)
        self._frames += 1
        if not self._turn:
            self._before.append(frame)
            self._recent.append(speech)
            if sum(self._recent) < _ONSET:
                return None
            self._turn = list(self._before)
            self._speech, self._quiet = sum(self._recent), 0
        else:
            self._turn.append(frame)
            self._speech += speech
            self._quiet = 0 if speech else self._quiet + 1
        if self._quiet >= self._silence or len(self._turn) >= self._longest:
            return self.close()
        return None

    def close(self) -> Cut | None:
        """End the open turn now.

        Returns:
            The turn; None if there is none, or hardly any speech in it.
        """
        cut = self.so_far()
        self._turn = []
        self._speech = self._quiet = 0
        self._before.clear()
        self._recent.clear()
        return cut


class ChannelSplitter:
    """Cuts interleaved audio of several channels, in time order across them.

    Args:
        channels: the number of channels.
        silence_seconds: silence that ends a turn.
        max_seconds: length at which a turn ends in any case.
    """

    def __init__(self, channels: int, silence_seconds: float, max_seconds: float) -> None:
        self._cutters = [TurnCutter(channel, silence_seconds, max_seconds) for channel in range(channels)]
        self._pending = b""
        self._tails: dict[int, bytes] = {}

    def open_turns(self) -> Iterator[tuple[int, int, int]]:
        """Channel, first sample and length, samples, of the open turns if they ended now. Cheap: it runs at every message."""
        for channel, cutter in enumerate(self._cutters):
            if (extent := cutter.extent) is not None:
                yield channel, *extent

    def so_far(self, channel: int) -> Cut | None:
        """The open turn of a channel as it would be if it ended now; None if there is none."""
        return self._cutters[channel].so_far()

    def add(self, pcm: bytes) -> Iterator[Cut]:
        """Take the next samples, interleaved; returns the turns that end in them, in the order of their ends."""
        channels = len(self._cutters)
        size = _FRAME * SAMPLE_BYTES * channels
        data = self._pending + pcm
        whole = len(data) // size * size
        self._pending = data[whole:]
        for at in range(0, whole, size):
            samples = memoryview(data)[at : at + size].cast("h")
            for channel, cutter in enumerate(self._cutters):
                if (cut := cutter.add(samples[channel::channels].tobytes())) is not None:
                    yield cut

    def add_to(self, channel: int, pcm: bytes) -> Iterator[Cut]:
        """Take the next samples of one channel; returns the turns that end in them. A stream uses either this or :meth:`add`."""
        size = _FRAME * SAMPLE_BYTES
        data = self._tails.get(channel, b"") + pcm
        whole = len(data) // size * size
        self._tails[channel] = data[whole:]
        for at in range(0, whole, size):
            if (cut := self._cutters[channel].add(data[at : at + size])) is not None:
                yield cut

    def close(self, channel: int | None = None) -> list[Cut]:
        """End the open turn of a channel, or of all."""
        chosen = self._cutters if channel is None else [self._cutters[channel]]
        return [cut for cutter in chosen if (cut := cutter.close()) is not None]
