"""The binary messages of a stream: samples of all channels, or an Opus packet of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mistere.predictor.stream.messages import OPUS, CloseCode, StreamError
from mistere.predictor.stream.opus import OpusDecoder
from mistere.predictor.stream.turns import RATE, SAMPLE_BYTES, ChannelSplitter, Cut


class AudioReader(Protocol):
    """Reads the binary messages of a stream."""

    def read(self, message: bytes) -> tuple[Iterator[Cut], float]:
        """Take a message.

        Returns:
            The turns that end in it, which must be taken before the next message, and its length, seconds of the stream.

        Raises:
            StreamError: it holds no such audio.
        """


class PcmReader:
    """Reads interleaved 16-bit samples.

    Args:
        splitter: receives the samples.
        channels: the number of channels.
    """

    def __init__(self, splitter: ChannelSplitter, channels: int) -> None:
        self._splitter, self._channels = splitter, channels

    def read(self, message: bytes) -> tuple[Iterator[Cut], float]:
        """Take samples."""
        size = SAMPLE_BYTES * self._channels
        if len(message) % size:
            raise StreamError(
                CloseCode.UNSUPPORTED,
                f"A binary message must hold whole samples of 16 bits for each of the {self._channels} channels.",
            )
        return self._splitter.add(message), len(message) / size / RATE


class OpusReader:
    """Reads Opus packets, each after a byte that names its channel.

    Args:
        splitter: receives the samples.
        channels: the number of channels.

    Raises:
        StreamError: Opus cannot be decoded here.
    """

    def __init__(self, splitter: ChannelSplitter, channels: int) -> None:
        self._splitter = splitter
        self._decoders = [OpusDecoder() for _ in range(channels)]

    def read(self, message: bytes) -> tuple[Iterator[Cut], float]:
        """Take a packet."""
        channels = len(self._decoders)
        if not message or message[0] >= channels:
            raise StreamError(
                CloseCode.UNSUPPORTED, f"An Opus message must begin with the byte of its channel, 0 to {channels - 1}."
            )
        samples = self._decoders[message[0]].decode(message[1:])
        return self._splitter.add_to(message[0], samples), len(samples) / SAMPLE_BYTES / RATE / channels


def audio_reader(encoding: str, splitter: ChannelSplitter, channels: int) -> AudioReader:
    """The reader of an encoding.

    Raises:
        StreamError: it cannot be decoded here.
    """
    return (OpusReader if encoding == OPUS else PcmReader)(splitter, channels)
