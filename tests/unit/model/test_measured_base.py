"""``measured:vector``: the base of vectors comes from train, and vectors that do not suit it are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import DataError, UsageError
from mistere.config.encoder import EncoderConfig
from mistere.data.kinds.kind import UnreadableError
from mistere.model.encoders.families import families
from mistere.model.encoders.lookup.source_check import check_encoder
from mistere.model.encoders.source_state import source_state
from mistere.model.encoders.sources import resolve_base

SETTINGS = EncoderConfig(source="measured:vector")


def test_columns_are_standardised_by_those_of_train(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    train = (1e4 + draw.normal(size=(500, 3)) * [1, 5, 0]).astype(np.float32)
    store = LocalStore(tmp_path)
    base = resolve_base(SETTINGS, "vector", store, lambda: iter(train))
    family = families()[base.manifest.family](base.path, SETTINGS)
    prepared = np.concatenate([family.prepare(vector)["values"] for vector in train])
    np.testing.assert_allclose(prepared.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(prepared.std(0), [1, 1, 0], atol=2e-3)
    assert resolve_base(SETTINGS, "vector", store, lambda: iter(train)).manifest.digest == base.manifest.digest
    assert resolve_base(SETTINGS, "vector", store, lambda: iter(train[1:])).manifest.digest != base.manifest.digest
    with pytest.raises(UnreadableError, match=r"The vector has 4 values; this encoder reads vectors of 3\."):
        family.prepare(np.zeros(4, np.float32))


def test_unusable_training_vectors_are_one_sentence(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(DataError, match="no utterance of train has a usable vector"):
        resolve_base(SETTINGS, "vector", store)
    with pytest.raises(DataError, match="a vector has 2 values, others have 3"):
        resolve_base(SETTINGS, "vector", store, lambda: iter([np.ones(3), np.ones(2)]))
    with pytest.raises(UsageError, match="encoder measured:whisper: choose one of measured:vector"):
        resolve_base(EncoderConfig(source="measured:whisper"), "vector", store)
    with pytest.raises(UsageError, match="none is for frames, name another source"):
        resolve_base(SETTINGS, "frames", store)


def test_a_measured_source_needs_no_files() -> None:
    check_encoder(SETTINGS, "acoustic", in_this_image=True)
    assert source_state(SETTINGS) == {}
