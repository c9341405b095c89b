"""Small files for the tests of importers."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile

from mistere.common.splits import Split
from mistere.data.dataset import Utterance, read_utterances, shards_of


def wav(samples: int = 160) -> bytes:
    """A WAV file that the number of its samples tells from others."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(samples) / 5).astype(np.float32) / 2, 16_000, format="WAV")
    return buffer.getvalue()


def shard_digests(directory: Path) -> dict[str, str]:
    """The MD5 of every file of a dataset, as DVC takes it."""
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def read(directory: Path, split: Split) -> list[Utterance]:
    """The utterances of one split."""
    return list(read_utterances(shards_of(directory.iterdir(), split)))
