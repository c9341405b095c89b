"""Fine-tuning that was killed ends where it would have ended, with the real Trainer on a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from components.core.checkpoints import Checkpoints
from components.core.config.encoder import TextConfig
from components.core.data_source import pin
from components.core.manifests import EncoderCheckpoint, UtteranceSet
from components.core.progress import Progress
from components.core.stage import RunContext, Step
from components.core.store import LocalStore
from components.pull_data.run import describe
from tests.local.workshop import make_dataset, rows

SETTINGS = TextConfig(
    source="random:bidirectional_text",
    projection=8,
    epochs=4,
    patience=2,
    batch_size=8,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
)


class KilledError(Exception):
    """Stands for a kill."""


class Watch(Progress):
    """Ends the process, as it were, when an epoch begins."""

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
    reference: UtteranceSet, store: LocalStore, output: Path, watch: Watch, settings: TextConfig
) -> EncoderCheckpoint:
    from components.finetune_encoder.fine_tuning import fine_tune

    context = RunContext(run_id="test", store=store.uri, tracking_uri="")
    step = Step("finetune_encoder-text", "key", context, store, watch, Checkpoints(store, "finetune_encoder", "key"))
    output.mkdir(exist_ok=True)
    return fine_tune(settings, step, reference, output, "text")


@pytest.mark.parametrize("killed_in", ["2", "4"])
def test_a_killed_run_ends_where_it_would_have_ended(killed_in: str, reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", Watch(), SETTINGS)
    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", Watch(killed_in), SETTINGS)
    assert list((tmp_path / "killed" / "checkpoints").rglob("trainer_state.json"))
    resumed = tune(reference, store, tmp_path / "b", Watch(), SETTINGS)
    assert resumed.encoder_digest == whole.encoder_digest
    assert resumed.history == whole.history
    ours, theirs = load_file(tmp_path / "a" / "tuned.safetensors"), load_file(tmp_path / "b" / "tuned.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_run_that_had_ended_is_not_trained_on_and_may_have_moved(reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "one"), tmp_path / "a", Watch(), SETTINGS)
    (tmp_path / "one").rename(tmp_path / "two")
    again = tune(reference, LocalStore(tmp_path / "two"), tmp_path / "b", Watch("1"), SETTINGS)
    assert again.encoder_digest == whole.encoder_digest and again.history == whole.history


def test_a_half_written_checkpoint_costs_time_only(reference: UtteranceSet, tmp_path: Path) -> None:
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", Watch(), SETTINGS)
    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", Watch("3"), SETTINGS)
    states = sorted((tmp_path / "killed").rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    states[-1].write_text(states[-1].read_text()[:100])
    assert tune(reference, store, tmp_path / "b", Watch(), SETTINGS).encoder_digest == whole.encoder_digest
