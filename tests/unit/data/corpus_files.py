"""Small files and dataset readers for the importers' tests."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import soundfile

from mistere.common.splits import Split
from mistere.data.dataset import Utterance, load_info, read_utterances, shards_of


def wav(samples: int = 160) -> bytes:
    """Encode a sine as WAV; files with different numbers of samples differ."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(samples) / 5).astype(np.float32) / 2, 16_000, format="WAV")
    return buffer.getvalue()


def shard_digests(directory: Path) -> dict[str, str]:
    """Return the MD5 of every file of a dataset, as DVC computes it."""
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def read(directory: Path, split: Split) -> list[Utterance]:
    """Return the utterances of one split, with all modalities."""
    kinds = load_info(directory / "dataset.yaml").kinds
    return list(read_utterances(shards_of(directory.iterdir(), split), modalities=kinds))
