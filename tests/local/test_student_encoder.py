"""The training of a student's encoder: a training that was killed goes on from its checkpoint, and it is where the settings say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mistere.artifacts.io import ArtifactHandle, open_artifact
from mistere.artifacts.manifests import EncoderCheckpoint, ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError, UsageError
from mistere.config.distillation import DistillationConfig
from mistere.data.versions import pin
from mistere.engine.live_progress import StoredProgress
from mistere.engine.stage import RunContext
from pipelines.cli.distillation.steps import StudentSteps
from pipelines.profiles import load_profile
from tests.local.test_distill import labelled
from tests.local.workshop import make_dataset
from tests.serving.conftest import LABELS, make_bundle

SETTINGS = ["distillation.epochs=3", "distillation.new_epochs=3", "distillation.audio_encoder=convolutional"]


class KilledError(Exception):
    """The process is gone."""


@dataclass(frozen=True)
class Workshop:
    """A store with a teacher, and the data."""

    store: Path
    teacher: str
    data: RunContext

    def distil(self, modality: str, work: Path, *settings: str) -> tuple[ArtifactHandle[EncoderCheckpoint], LocalStore]:
        """Train the student's encoder in a copy of the store, which is made once."""
        store = LocalStore(work / "store")
        if not store.root.exists():
            shutil.copytree(self.store, store.root)
        references = work / "references"
        shutil.rmtree(references, ignore_errors=True)
        references.mkdir()
        context = self.data.model_copy(update={"store": store.uri})
        config = load_profile("tiny", [*SETTINGS, *settings])
        teacher = open_artifact(store, ModelBundle, self.teacher.rpartition("/")[2])
        steps = StudentSteps(store, context, config, teacher, references)
        utterances, encoder = steps.pull(None), steps.teacher_encoder(modality)
        return steps.encoder(utterances, encoder, steps.vectors(utterances, encoder, "teacher")), store


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    teacher = make_bundle(folder)
    pinned = pin(str(make_dataset(folder / "tones", labelled(), labels=LABELS)), str(folder / "remote"))
    store = folder / "store"
    context = RunContext(
        run_id="student", store="", tracking_uri="", data_remote=pinned.remote, data_digest=pinned.digest
    )
    return Workshop(store, teacher, context)


def watch_epochs(monkeypatch: pytest.MonkeyPatch, last: int = 0) -> list[str]:
    """The epochs that are trained from now on; after the epoch ``last`` the training dies."""
    trained: list[str] = []
    report = StoredProgress.__call__

    def call(self: Any, message: str, done: float = 0, total: float = 0) -> None:
        report(self, message, done, total)
        if message.startswith("epoch "):
            trained.append(message.partition("/")[0])
            if done == last:
                raise KilledError

    monkeypatch.setattr(StoredProgress, "__call__", call)
    return trained


@pytest.mark.parametrize("modality", ["text", pytest.param("speech", marks=pytest.mark.long)])
def test_a_killed_training_goes_on_from_its_checkpoint(
    modality: str, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = workshop.distil(modality, tmp_path / "whole")
    with monkeypatch.context() as patch:
        assert watch_epochs(patch, last=1) == []
        with pytest.raises(KilledError):
            workshop.distil(modality, tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "store").glob("checkpoints/distill_encoder/*/epoch"))) == 1
    with monkeypatch.context() as patch:
        trained = watch_epochs(patch)
        resumed, store = workshop.distil(modality, tmp_path / "killed")
    assert trained == ["epoch 2", "epoch 3"]
    assert resumed.file("tuned.safetensors").read_bytes() == whole.file("tuned.safetensors").read_bytes()
    assert resumed.manifest.history == whole.manifest.history
    assert resumed.manifest.encoder == whole.manifest.encoder
    assert not list((store.root / "checkpoints").glob("*/*/*")), "they are deleted after the step"


def test_a_gpu_that_is_not_there_or_too_small_is_one_sentence(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"distillation\.device=cuda, but torch .* finds no GPU"):
        workshop.distil("text", tmp_path, "distillation.device=cuda")
    monkeypatch.setattr("components.distill_encoder.training._Student.train_epoch", exhausted)
    with pytest.raises(MistereError, match=r"does not fit into the device's memory: lower distillation\.batch_size"):
        workshop.distil("text", tmp_path)


def test_a_student_does_not_record_where_it_was_trained() -> None:
    cpu, auto = DistillationConfig(device="cpu"), DistillationConfig()
    assert cpu.for_student() == auto.for_student() and cpu.keyed() != auto.keyed()
