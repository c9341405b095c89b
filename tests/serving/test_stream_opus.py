"""Opus in streams: decoded as the same audio, packets of strangers refused with a sentence, and a server without libopus."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile

from mistere.data.kinds.audio import encoded
from mistere.predictor.stream import opus
from mistere.predictor.stream.messages import StreamError, parse_message
from mistere.predictor.stream.opus import MAX_PACKET, OpusDecoder, has_opus
from mistere.predictor.stream.turns import RATE, ChannelSplitter
from tests.serving.conftest import Server, Utterance
from tests.serving.test_stream import call, closed_with, opened, rest_of, silence, voice

needs_opus = pytest.mark.skipif(not has_opus(), reason="needs libopus: apt-get install libopus0")
START = {"encoding": "opus"}


def packets(samples: np.ndarray, channels: int = 1) -> list[bytes]:
    """The Opus packets of a recording."""
    file = io.BytesIO()
    wave = np.stack([samples] * channels, axis=1)
    soundfile.write(file, wave, RATE, format="OGG", subtype="OPUS")
    return list(_of_pages(file.getvalue()))[2:]  # without the two headers


def _of_pages(ogg: bytes) -> Iterator[bytes]:
    offset, packet = 0, b""
    while offset < len(ogg):
        (count,) = struct.unpack_from("B", ogg, offset + 26)
        lacing = ogg[offset + 27 : offset + 27 + count]
        offset += 27 + count
        for size in lacing:
            packet += ogg[offset : offset + size]
            offset += size
            if size < 255:
                yield packet
                packet = b""


def samples_of(given: list[bytes]) -> np.ndarray:
    decoder = OpusDecoder()
    return np.frombuffer(b"".join(map(decoder.decode, given)), "<i2")


@needs_opus
def test_packets_decode_to_what_was_said() -> None:
    said = call()[:, 0]
    for channels in (1, 2):
        heard = samples_of(packets(said, channels))[: len(said)]
        shift = min(range(400), key=lambda shift: np.abs(heard[shift : shift + RATE].astype(int) - said[:RATE]).sum())
        aligned = heard[shift:].astype(float)
        assert np.corrcoef(aligned, said[: len(aligned)])[0, 1] > 0.95


@needs_opus
def test_turns_of_opus_equal_the_same_turns_sent_as_files(server: Server) -> None:
    sides = [packets(side) for side in call().T]
    heard = [samples_of(side) for side in sides]
    with opened(server, {"channels": 2, **START}) as stream:
        for pair in zip(*sides, strict=True):
            for channel, packet in enumerate(pair):
                stream.send(bytes([channel]) + packet)
        stream.send(json.dumps({"type": "end"}))
        turns = rest_of(stream)
    assert [turn["channel"] for turn in turns] == [0, 1, 0]
    files = []
    for number, turn in enumerate(turns):
        clip = heard[turn["channel"]][round(turn["start"] * RATE) : round(turn["end"] * RATE)]
        files.append(Utterance(None, encoded(clip, RATE, "PCM_16")))
        answer = server.client.predict_v1(files)
        np.testing.assert_allclose(turn["probabilities"], answer.probabilities[number], atol=1e-4)


@needs_opus
def test_empty_packets_stand_for_silence_that_ends_a_turn(server: Server) -> None:
    with opened(server, START) as stream:
        for packet in [*packets(voice(1.0)), *[b""] * 50]:  # a sender that saves the silence
            stream.send(b"\0" + packet)
        assert json.loads(stream.recv(60))["type"] == "turn"


REFUSED = [
    (b"", 1003, "An Opus message must begin with the byte of its channel, 0 to 0."),
    (b"\1\xf8\xff\xfe", 1003, "An Opus message must begin with the byte of its channel, 0 to 0."),
    (b"\0\xff", 1003, "An Opus packet does not decode."),
    (b"\0" + bytes(MAX_PACKET + 1), 1009, "An Opus packet may have 8192 bytes; this one has 8193."),
]


@needs_opus
@pytest.mark.parametrize(("message", "code", "sentence"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_wrong_packet_ends_the_stream_with_a_sentence(
    server: Server, message: bytes, code: int, sentence: str
) -> None:
    with opened(server, START) as stream:
        stream.send(message)
        assert closed_with(stream) == (code, sentence)


@needs_opus
def test_packets_of_strangers_give_samples_or_an_error() -> None:
    draw = np.random.default_rng(0)
    real = packets(np.concatenate([voice(0.5), silence(0.5)]))
    decoder, splitter = OpusDecoder(), ChannelSplitter(1, 0.6, 30.0)
    decoded = refused = 0
    for number in range(3000):
        packet = bytearray(draw.bytes(int(draw.integers(1, 400))))
        if number % 2:  # a real one with damage
            packet = bytearray(real[number % len(real)])
            for _ in range(3):
                packet[int(draw.integers(len(packet)))] = int(draw.integers(256))
            packet = packet[: int(draw.integers(1, len(packet) + 1))]
        try:
            samples = decoder.decode(bytes(packet))
        except StreamError as error:
            refused += 1
            assert str(error) == "An Opus packet does not decode."
            continue
        decoded += 1
        assert 0 < len(samples) <= 2 * RATE * 120 // 1000 and len(samples) % 2 == 0
        list(splitter.add_to(0, samples))
    assert decoded > 500 and refused > 100


def test_a_server_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "_library", lambda: None)
    with pytest.raises(StreamError, match="This server has no decoder of Opus: send pcm16"):
        OpusDecoder()
    assert not has_opus()


def test_the_rate_of_opus_is_the_senders() -> None:
    message = parse_message('{"type": "start", "encoding": "opus", "rate": 48000}', 1)
    assert getattr(message, "encoding", "") == "opus"
