"""Killed fine-tuning resumes to the same result, with the real Trainer on a tiny encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from components.finetune_encoder.call_copies import CallCopies
from components.finetune_encoder.training.batches import Examples
from components.finetune_encoder.training.job import share_step
from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import publish
from mistere.artifacts.manifests import EncoderCheckpoint, UtteranceSet
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.errors import MistereError, UsageError
from mistere.common.modalities import Modality
from mistere.common.paths import PROJECT_ROOT
from mistere.common.progress import Progress
from mistere.config.calls import CallAugmentation
from mistere.config.encoder import EncoderConfig, SpeechConfig, TextConfig
from mistere.data.audio import decode
from mistere.data.utterances import FeatureSpool, UtteranceReader
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step
from mistere.model.encoders.families import families
from mistere.model.encoders.lookup.source_check import check_encoder
from tests.local.workshop import make_dataset, rows

SETTINGS = TextConfig(
    source="random:bidirectional_text",
    projection=8,
    epochs=4,
    patience=4,
    batch_size=8,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
)


class KilledError(Exception):
    """Simulates a killed process."""


class Watch(Progress):
    """Simulates a kill at the start of an epoch."""

    def __init__(self, epoch: str = "") -> None:
        super().__init__("finetune_encoder-text")
        self._epoch = epoch

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        if self._epoch and message.startswith(f"epoch {self._epoch}/"):
            raise KilledError


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> UtteranceSet:
    folder = tmp_path_factory.mktemp("data")
    pinned = pin(str(make_dataset(folder / "tones", rows(audio=False))), str(folder / "remote"))
    return describe(pinned.remote, pinned.digest)


def tune(
    reference: UtteranceSet,
    store: LocalStore,
    output: Path,
    watch: Watch,
    settings: EncoderConfig,
    tracking: str = "",
    modality: Modality = "text",
) -> EncoderCheckpoint:
    from components.finetune_encoder.fine_tuning import fine_tune

    context = RunContext(run_id="test", store=store.uri, tracking_uri=tracking)
    step = Step(
        f"finetune_encoder-{modality}", "key", context, store, watch, Checkpoints(store, "finetune_encoder", "key")
    )
    output.mkdir(exist_ok=True)
    return fine_tune(settings, step, reference, output, modality)


@pytest.mark.long
@pytest.mark.parametrize("killed_in", ["2", "4"])
def test_killed_run_resumes_to_the_same_result(killed_in: str, reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", Watch(), SETTINGS)
    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", Watch(killed_in), SETTINGS)
    assert list((tmp_path / "killed" / "checkpoints").rglob("trainer_state.json"))
    resumed = tune(reference, store, tmp_path / "b", Watch(), SETTINGS)
    assert resumed.encoder.identity.digest == whole.encoder.identity.digest
    assert resumed.history == whole.history
    ours, theirs = load_file(tmp_path / "a" / "tuned.safetensors"), load_file(tmp_path / "b" / "tuned.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.long
def test_resumed_training_reads_the_same_random_excerpts(tmp_path: Path) -> None:
    pinned = pin(str(make_dataset(tmp_path / "tones", rows())), str(tmp_path / "remote"))
    data = describe(pinned.remote, pinned.digest)
    settings = SpeechConfig(
        source="random:whisper", pooling="mean", projection=8, epochs=3, batch_size=8, learning_rate=1e-3,
        min_seconds=0.2, excerpt_seconds=0.3, schedule="constant", layer_norm="before_pooling",
    )  # fmt: skip

    def tune_speech(name: str, watch: Watch, settings: SpeechConfig) -> EncoderCheckpoint:
        return tune(data, LocalStore(tmp_path / name), tmp_path / f"{name}-output", watch, settings, modality="speech")

    whole = tune_speech("whole", Watch(), settings)
    with pytest.raises(KilledError):
        tune_speech("killed", Watch("3"), settings)
    resumed = tune_speech("killed", Watch(), settings)
    assert resumed.history == whole.history
    ours, theirs = (weights(tmp_path / f"{name}-output") for name in ("whole", "killed"))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    others = tune_speech("others", Watch(), settings.model_copy(update={"excerpt_seconds": None}))
    assert others.history != whole.history


def test_excerpts_depend_on_seed_epoch_and_utterance_only(tmp_path: Path) -> None:
    settings = SpeechConfig(source="random:whisper", excerpt_seconds=0.3)
    family_class = families()["whisper"]
    family_class.write_random(tmp_path / "base", 0)
    family = family_class(tmp_path / "base", settings)
    draw = np.random.default_rng(0)
    with FeatureSpool(tmp_path / "spool") as spool:
        for length in (20, 90, 200):
            spool.append({"frames": draw.normal(size=(length, 16)).astype(np.float32), "length": length}, 0)
        first, second = (Examples(spool, family, settings, settings.excerpt_seconds) for _ in range(2))
        assert first.lengths == [20, 30, 30] and Examples(spool, family, settings).lengths == [20, 90, 200]
        frames = [example[0]["frames"] for example in (first[2], second[2])]
        np.testing.assert_array_equal(*frames)
        second.set_epoch(1)
        assert not np.array_equal(first[2][0]["frames"], second[2][0]["frames"])
        np.testing.assert_array_equal(first[0][0]["frames"], second[0][0]["frames"])
        assert len(Examples(spool, family, settings)[2][0]["frames"]) == 200


def test_a_share_of_an_epochs_utterances_is_heard_through_a_call(tmp_path: Path) -> None:
    settings = SpeechConfig(
        source="random:whisper", augmentation=CallAugmentation(share=0.5, copies=3, effects=["clipping"])
    )
    family_class = families()["whisper"]
    family_class.write_random(tmp_path / "base", 0)
    family = family_class(tmp_path / "base", settings)
    with FeatureSpool(tmp_path / "spool") as spool:
        for number in range(200):
            for variant in range(4):
                frames = np.full((20, 16), variant, np.float32)
                spool.append({"frames": frames, "length": 20 + number + variant}, number % 3)
        first, second = (Examples(spool, family, settings, None, settings.augmentation.variants) for _ in range(2))
        assert len(first) == 200 and first.lengths == [20 + number for number in range(200)]
        assert [first[index][1] for index in range(6)] == [0, 1, 2, 0, 1, 2]

        def variants(examples: Examples) -> list[int]:
            return [int(examples[index][0]["frames"][0, 0]) for index in range(200)]

        chosen = variants(first)
        assert chosen == variants(second) and set(chosen) == {0, 1, 2, 3}
        assert 0.35 < np.mean([variant > 0 for variant in chosen]) < 0.65
        second.set_epoch(1)
        assert variants(second) != chosen
    assert SpeechConfig().augmentation.variants == 1


def test_copies_depend_on_the_seed_and_are_of_recordings_only(tmp_path: Path) -> None:
    pinned = pin(str(make_dataset(tmp_path / "tones", rows())), str(tmp_path / "remote"))
    reader = UtteranceReader(describe(pinned.remote, pinned.digest), ("train",))
    utterance = next(reader.stream("train"))

    def copies(seed: int) -> list[bytes]:
        config = SpeechConfig(seed=seed, augmentation=CallAugmentation(share=1.0, copies=4))
        made = CallCopies.of(config, reader)
        assert made is not None and made.variants == 5
        heard = made(utterance)
        assert all(replace(one, audio=utterance.audio) == utterance for one in heard)
        return [decode(one.audio or b"")[0].tobytes() for one in heard]

    assert copies(0) == copies(0) and len(set(copies(0))) >= 3 and set(copies(0)) != set(copies(1))
    assert CallCopies.of(SpeechConfig(), reader) is None
    alone = SpeechConfig(augmentation=CallAugmentation(share=1.0, effects=["babble"]))
    with pytest.raises(UsageError, match="only one training dialogue has recordings"):
        CallCopies.of(alone, reader)
    with pytest.raises(
        UsageError, match=r"text.augmentation.share=0.5: only speech is heard through calls; set it to 0"
    ):
        check_encoder(TextConfig(augmentation=CallAugmentation(share=0.5)), "text", in_this_image=True)
    with pytest.raises(UsageError, match=r"text.excerpt_seconds=3: only recordings are trained on in excerpts"):
        check_encoder(TextConfig(excerpt_seconds=3), "text", in_this_image=True)
    check_encoder(SpeechConfig(source="random:whisper", excerpt_seconds=3), "speech", in_this_image=True)


@pytest.mark.long
def test_augmentation_changes_training_and_a_resumed_one_is_the_same(tmp_path: Path) -> None:
    pinned = pin(str(make_dataset(tmp_path / "tones", rows())), str(tmp_path / "remote"))
    data = describe(pinned.remote, pinned.digest)
    settings = SpeechConfig(
        source="random:whisper", pooling="mean", projection=8, epochs=3, batch_size=8, learning_rate=1e-3,
        min_seconds=0.2, class_weights="balanced", augmentation=CallAugmentation(share=0.5, copies=1),
    )  # fmt: skip

    def tune_speech(name: str, watch: Watch, settings: SpeechConfig) -> EncoderCheckpoint:
        return tune(data, LocalStore(tmp_path / name), tmp_path / f"{name}-output", watch, settings, modality="speech")

    whole = tune_speech("whole", Watch(), settings)
    with pytest.raises(KilledError):
        tune_speech("killed", Watch("3"), settings)
    assert tune_speech("killed", Watch(), settings).history == whole.history
    plain = tune_speech("plain", Watch(), settings.model_copy(update={"augmentation": CallAugmentation()}))
    assert plain.history != whole.history and len(plain.history) == len(whole.history)
    assert whole.encoder.settings["augmentation"]["share"] == 0.5


@pytest.mark.long
def test_finished_run_is_not_trained_further_after_moving(reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "one"), tmp_path / "a", Watch(), SETTINGS)
    (tmp_path / "one").rename(tmp_path / "two")
    again = tune(reference, LocalStore(tmp_path / "two"), tmp_path / "b", Watch("1"), SETTINGS)
    assert again.encoder.identity.digest == whole.encoder.identity.digest and again.history == whole.history


@pytest.mark.long
def test_partially_written_checkpoint_is_skipped(reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", Watch(), SETTINGS)
    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", Watch("3"), SETTINGS)
    states = sorted((tmp_path / "killed").rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    states[-1].write_text(states[-1].read_text()[:100])
    assert (
        tune(reference, store, tmp_path / "b", Watch(), SETTINGS).encoder.identity.digest
        == whole.encoder.identity.digest
    )


# Hardware and torch


def of_steps(**changes: object) -> TextConfig:
    values = {"epochs": 2, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-3}
    return SETTINGS.model_copy(update={**values, **changes})


def weights(folder: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = load_file(folder / "tuned.safetensors")
    return tensors


def close(one: Path, other: Path, tolerance: float) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(np.abs(ours[n] - theirs[n]).max() < tolerance for n in ours)


@pytest.mark.long
def test_two_processes_train_the_same_weights_as_one(reference: UtteranceSet, tmp_path: Path) -> None:
    settings = without_dropout(reference, tmp_path)
    one = tune(reference, LocalStore(tmp_path / "1"), tmp_path / "a", Watch(), settings)
    two = tune(
        reference, LocalStore(tmp_path / "2"), tmp_path / "b", Watch(), settings.model_copy(update={"processes": 2})
    )
    assert [e["epoch"] for e in two.history] == [e["epoch"] for e in one.history]
    assert close(tmp_path / "a", tmp_path / "b", 1e-4)


def without_dropout(reference: UtteranceSet, tmp_path: Path) -> TextConfig:
    """A backbone and a head without random numbers, so that different micro-batch sizes are comparable."""
    folder = tmp_path / "plain"
    families()["bidirectional_text"].write_random(folder, 0)
    config = json.loads((folder / "config.json").read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps({**config, **off}))
    return of_steps(source=f"path:{folder}")


@pytest.mark.long
def test_step_does_not_depend_on_the_micro_batch_size(reference: UtteranceSet, tmp_path: Path) -> None:
    settings = without_dropout(reference, tmp_path)
    tune(reference, LocalStore(tmp_path / "1"), tmp_path / "a", Watch(), settings)
    cut = settings.model_copy(update={"batch_size": 2, "accumulation": 4})
    tune(reference, LocalStore(tmp_path / "2"), tmp_path / "b", Watch(), cut)
    assert close(tmp_path / "a", tmp_path / "b", 1e-4)


class Listener(Watch):
    """Records the progress notes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.long
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    reference: UtteranceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = without_dropout(reference, tmp_path)
    tune(reference, LocalStore(tmp_path / "1"), tmp_path / "a", Watch(), settings)
    family = families()["bidirectional_text"]
    hidden_states = family.hidden_states

    def small(self: object, backbone: object, batch: dict[str, torch.Tensor]) -> object:
        if len(batch["input_ids"]) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no room")
        return hidden_states(self, backbone, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(family, "hidden_states", small)
    listener = Listener()
    tune(reference, LocalStore(tmp_path / "2"), tmp_path / "b", listener, settings)
    assert listener.notes == [
        "8 utterances at once do not fit into the device's memory: continuing with 4 at once; an optimiser step still sees 8."
    ]
    assert close(tmp_path / "a", tmp_path / "b", 1e-4)


@pytest.mark.long
def test_out_of_memory_for_one_utterance_raises_an_actionable_error(
    reference: UtteranceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(families()["bidirectional_text"], "hidden_states", none)
    with pytest.raises(MistereError, match=r"one utterance at a time does not fit .*text\.max_tokens, .*qlora\."):
        tune(reference, LocalStore(tmp_path / "1"), tmp_path / "a", Watch(), of_steps())


def test_step_is_divided_into_micro_batches() -> None:
    assert share_step(16, 2, 1) == (2, 8) and share_step(16, 16, 2) == (8, 1) and share_step(16, 2, 4) == (2, 2)
    assert share_step(12, 5, 1) == (4, 3) and share_step(7, 4, 1) == (1, 7)
    with pytest.raises(UsageError, match="16, which 3 processes cannot share evenly"):
        share_step(16, 16, 3)


@pytest.mark.long
def test_adapter_checkpoint_is_small(reference: UtteranceSet, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    settings = of_steps(tuning="lora", gradient_checkpointing=True, class_weights="balanced", loss="cross_entropy")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "a", Watch("2"), settings)
    (file,) = store.root.rglob("checkpoint-*/model.safetensors")
    names = set(load_file(file))
    assert any(".lora_A" in name for name in names)
    assert all(".lora_" in name or not name.startswith("backbone.") for name in names)
    assert tune(reference, store, tmp_path / "a", Watch(), settings).history


@pytest.mark.long
def test_learning_curve_is_logged_to_mlflow_if_available(reference: UtteranceSet, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = LocalStore(tmp_path / "store")
    settings = of_steps(tracking=True)
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "a", Watch("2"), settings, uri)
    checkpoint = tune(reference, store, tmp_path / "a", Watch(), settings, uri)
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mistere").experiment_id])
    logged = client.get_metric_history(run.info.run_id, "dev_weighted_f1")
    assert [round(point.value, 6) for point in logged] == [epoch["dev_weighted_f1"] for epoch in checkpoint.history]
    assert run.info.status == "FINISHED" and run.data.params["learning_rate"] == "0.001"
    listener = Listener()
    tune(reference, LocalStore(tmp_path / "other"), tmp_path / "b", listener, settings, "http://127.0.0.1:9")
    assert len(listener.notes) == 1 and listener.notes[0].startswith("the curve is not logged: ")


# A real process, killed


PROGRAM = """
import json, sys, tempfile
from pathlib import Path
from components.finetune_encoder.run import STAGE
from mistere.artifacts.io import MANIFEST, artifact_key
from mistere.artifacts.object_store import open_store
from mistere.common.errors import MistereError
from mistere.engine.execution import execute

uri, digest, config = sys.argv[1:]
store = open_store(uri)
with tempfile.TemporaryDirectory() as scratch:
    utterances, encoder = Path(scratch) / "utterances", Path(scratch) / "encoder"
    utterances.mkdir()
    (utterances / MANIFEST).write_bytes(store.read(f"{artifact_key('UtteranceSet', digest)}/{MANIFEST}")[0])
    context = {"run_id": "stage", "store": uri, "tracking_uri": ""}
    try:
        execute(STAGE, context, json.loads(Path(config).read_text()), inputs={"utterances": str(utterances)},
                outputs={"encoder": str(encoder)}, modality="text")
    except MistereError as error:
        sys.exit(str(error))
    print("encoder:", json.loads((encoder / MANIFEST).read_text())["digest"])
"""
"""Runs the stage as its KFP component does: arguments are the store, the dataset's digest and the configuration's file."""


def command(store: ObjectStore, digest: str, config: Path, cache: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "MISTERE_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, store.uri, digest, str(config)],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_kept(store: ObjectStore) -> int:
    """The step of the newest complete checkpoint in a store."""
    mark = "trainer_state.json" if isinstance(store, LocalStore) else ".complete"
    names = [key for key in store.keys("checkpoints") if key.endswith(mark)]
    return max((int(name.split("checkpoint-")[1].split("/")[0].split(".")[0]) for name in names), default=0)


def stop_after(process: subprocess.Popen[str], store: ObjectStore, step: int, how: signal.Signals) -> str:
    """Wait until a step is checkpointed, then send a signal. Returns the process's output."""
    deadline = time.monotonic() + 120
    while steps_kept(store) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.split("encoder: ")[1].split()[0]


@pytest.mark.long
def test_killed_and_preempted_process_resumes_to_the_same_result(
    s3_store: ObjectStore, reference: UtteranceSet, tmp_path: Path
) -> None:
    store = s3_store
    config = tmp_path / "text.json"
    settings = SETTINGS.model_copy(update={"epochs": 3, "checkpoint_seconds": 0.0, "batch_size": 4})
    config.write_text(settings.model_dump_json(exclude_none=True))
    (tmp_path / "reference").mkdir()
    digest = publish(store, reference, tmp_path / "reference").digest
    whole_store = LocalStore(tmp_path / "whole")
    (tmp_path / "reference").mkdir(exist_ok=True)
    publish(whole_store, reference, tmp_path / "reference")
    whole = command(whole_store, digest, config, tmp_path / "machine-0")
    stop_after(command(store, digest, config, tmp_path / "machine-1"), store, 3, signal.SIGKILL)
    reached = steps_kept(store)
    output = stop_after(command(store, digest, config, tmp_path / "machine-2"), store, reached + 9, signal.SIGTERM)
    assert "stopped by SIGTERM after step" in output and "Traceback" not in output
    again = steps_kept(store)
    assert again > reached
    checkpoint = finish(command(store, digest, config, tmp_path / "machine-3"))
    assert checkpoint == finish(whole)  # the artifact's address: the same weights, the same curve
    assert not list(store.keys("checkpoints"))
