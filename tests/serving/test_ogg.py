"""OGG files with incomplete headers are rejected before the decoder, which leaks memory for each."""

from __future__ import annotations

import io
import os
import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mistere.data.recordings.ogg import _checksum, has_whole_headers
from mistere.predictor.audio.clip import read_header
from mistere.predictor.errors import RequestError
from tests.serving.conftest import clip

VORBIS = clip(0.6, 8000, "OGG")


def pages(file: bytes) -> list[bytes]:
    result: list[bytes] = []
    while file:
        size = 27 + file[26] + sum(file[27 : 27 + file[26]])
        result.append(file[:size])
        file = file[size:]
    return result


def with_checksum(page: bytes) -> bytes:
    """The page with its correct checksum."""
    return page[:22] + _checksum(page).to_bytes(4, "little") + page[26:]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2)])
def test_whole_files_pass(subtype: str, rate: int, channels: int) -> None:
    file = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, (rate * 2, channels))
    with soundfile.SoundFile(file, "w", rate, channels, format="OGG", subtype=subtype) as encoder:
        if subtype == "VORBIS":
            encoder.comment = "x" * 100000
        encoder.write(samples)
    assert has_whole_headers(file.getvalue())
    read_header(file.getvalue(), 0)
    assert not has_whole_headers(file.getvalue()[:80])


def test_large_headers_are_read_fast() -> None:
    page = first[:26] + b"\xff" * 256 + bytes(255 * 255)
    pieces = [with_checksum(page[:5] + b"\x01" + page[6:18] + struct.pack("<I", n) + page[22:]) for n in range(1, 120)]
    start = time.process_time()  # CPU time: does not depend on the machine's load
    assert not has_whole_headers(first + with_checksum(pieces[0][:5] + b"\x00" + pieces[0][6:]) + b"".join(pieces[1:]))
    assert time.process_time() - start < 1


first, second, *rest = pages(VORBIS)
BROKEN = {
    "marker alone": b"OggS",
    "first page alone": first,
    "headers cut": VORBIS[:2000],
    "a header's byte changed": first + second[:200] + b"\xff" + second[201:] + b"".join(rest),
    "a newer version": with_checksum(first[:35] + b"\x09" + first[36:]) + second,
    "another codec": with_checksum(first.replace(b"\x01vorbis", b"\x80theora")) + second,
    "another stream's page": first + with_checksum(second[:14] + b"\x01" + second[15:]),
    "a page missing": first + with_checksum(second[:18] + b"\x05" + second[19:]),
    "a continuation of nothing": first + with_checksum(second[:5] + b"\x01" + second[6:]),
    "no header for tags": first + with_checksum(second.replace(b"\x03vorbis", b"\x03vorbix")),
    "pages of nothing": b"".join(with_checksum(first[:18] + bytes([n]) + first[19:26] + b"\x00") for n in range(255)),
    "lengths of nothing": first[:26] + b"\xff" * 100,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_rejected(name: str) -> None:
    assert not has_whole_headers(BROKEN[name])
    with pytest.raises(RequestError) as refused:
        read_header(BROKEN[name], 4)
    assert refused.value.code == 415


@pytest.mark.long
def test_broken_files_leak_no_memory() -> None:
    generator = random.Random(7)

    def broken() -> bytes:
        parts = [bytearray(page) for page in pages(VORBIS)]
        for _ in range(generator.randrange(1, 4)):
            part = generator.choice(parts)
            part[generator.randrange(len(part))] = generator.randrange(256)
        seal = generator.random() < 0.7
        file = b"".join(with_checksum(bytes(part)) if seal else bytes(part) for part in parts)
        return file[: generator.randrange(len(file))] if generator.random() < 0.2 else file

    def check(count: int) -> float:
        for _ in range(count):
            try:
                read_header(broken(), 0)
            except RequestError as error:
                assert error.code == 415
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    before = check(500)
    assert check(3000) - before < 4
