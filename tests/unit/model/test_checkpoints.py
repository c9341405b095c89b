"""Checkpoints of a fine-tuning are written in the background, and a process killed at any point resumes from a complete one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.finetune_encoder.training import snapshot as module
from components.finetune_encoder.training.snapshot import Snapshot, step_of
from mistere.artifacts import checkpoint_writing
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import LocalStore, ObjectStore, UnreachableError
from tests.unit.model.test_fine_tuning import SETTINGS, KilledError, Watch, reference, tune  # noqa: F401


class StepWatch(Watch):
    """Records each optimiser step, and simulates a kill at one."""

    def __init__(self, killed_at: int = 0) -> None:
        super().__init__()
        self.steps: list[int] = []
        self._killed_at = killed_at

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        if message.startswith("epoch "):
            self.steps.append(int(done))
            if self._killed_at:
                for thread in threading.enumerate():
                    if (
                        thread.name == "checkpoint"
                    ):  # steps take as long as a checkpoint, as they do with a real encoder
                        thread.join()
            if self._killed_at and done >= self._killed_at:
                raise KilledError

    def note(self, message: str) -> None:
        pass


@pytest.fixture
def on_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's pod on a cluster, with checkpoints as often as possible."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(checkpoint_writing, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_writing, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_writing, "LARGEST_SHARE", 1e9)


@pytest.mark.long
@pytest.mark.usefixtures("on_cluster")
def test_a_killed_step_on_a_cluster_repeats_only_what_came_after_its_last_checkpoint(
    reference: UtteranceSet,  # noqa: F811
    tmp_path: Path,
) -> None:
    undisturbed = StepWatch()
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", undisturbed, SETTINGS)
    an_epoch = max(undisturbed.steps) // SETTINGS.epochs
    killed_at = 2 * an_epoch + an_epoch // 2
    store = LocalStore(tmp_path / "killed")
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", StepWatch(killed_at), SETTINGS)
    resumed = StepWatch()
    again = tune(reference, store, tmp_path / "b", resumed, SETTINGS)
    assert min(resumed.steps) == killed_at, "it goes on within the epoch, after the last step before the kill"
    assert again.encoder.identity.digest == whole.encoder.identity.digest and again.history == whole.history


@pytest.mark.long
def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(
    reference: UtteranceSet,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0, "epochs": 2})
    whole = tune(reference, LocalStore(tmp_path / "whole"), tmp_path / "a", StepWatch(), settings)
    watch, write = StepWatch(), Snapshot.write
    passed: list[int] = []
    killed = threading.Event()

    class Killing(StepWatch):
        def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
            super().__call__(message, done, total)
            if passed and done >= passed[0] + 3:
                killed.set()
                raise KilledError

    def slow(snapshot: Snapshot, directory: Path) -> None:
        if not passed:
            passed.append(snapshot.step)
            killed.wait(60)
        write(snapshot, directory)

    monkeypatch.setattr(Snapshot, "write", slow)
    store = LocalStore(tmp_path / "killed")
    watch = Killing()
    with pytest.raises(KilledError):
        tune(reference, store, tmp_path / "b", watch, settings)
    assert max(watch.steps) == passed[0] + 3, "three steps were made during the write"
    resumed = StepWatch()
    again = tune(reference, store, tmp_path / "b", resumed, settings)
    assert min(resumed.steps) == passed[0] + 1
    assert again.encoder.identity.digest == whole.encoder.identity.digest and again.history == whole.history


@pytest.mark.long
def test_a_store_that_refuses_a_checkpoint_fails_the_step(
    reference: UtteranceSet,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Checkpoints, name: str) -> None:
        raise UnreachableError(f"the object store refused {name}.")

    monkeypatch.setattr(Checkpoints, "save", refuse)
    with pytest.raises(UnreachableError, match="refused checkpoint-"):
        tune(reference, LocalStore(tmp_path / "store"), tmp_path / "a", StepWatch(), SETTINGS)


# A process killed at any point of a write


class Kill:
    """Raises :class:`KilledError` at the n-th change of a disk or store, and counts the changes."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise KilledError


class RemoteStore(ObjectStore):
    """A remote store: objects appear whole, one after another."""

    def __init__(self, folder: Path) -> None:
        self._objects, self.uri = LocalStore(folder), "s3://bucket/store"
        self.change: Callable[[], None] = lambda: None

    def read(self, key: str) -> tuple[bytes, str]:
        return self._objects.read(key)

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        self.change()
        return self._objects.write(key, data, expected)

    def age(self, key: str) -> float:
        return self._objects.age(key)

    def exists(self, key: str) -> bool:
        return self._objects.exists(key)

    def upload(self, path: Path, key: str) -> None:
        self.change()
        self._objects.upload(path, key)

    def download(self, key: str, path: Path) -> None:
        self._objects.download(key, path)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        return self._objects.versions(prefix)

    def delete(self, prefix: str) -> None:
        self.change()
        self._objects.delete(prefix)

    def delete_object(self, key: str) -> None:
        self.change()
        self._objects.delete_object(key)


def last_whole(directory: Path, note: Callable[[str], None] = lambda _: None) -> Path | None:
    from components.finetune_encoder.training.checkpointing import last_whole_checkpoint  # with the Trainer: seconds

    return last_whole_checkpoint(directory, note)


def snapshot_at(step: int, best: int) -> Snapshot:
    from transformers import TrainerState

    state = TrainerState(global_step=step, best_global_step=best, max_steps=90, num_train_epochs=3)
    value = torch.full((4,), float(step))
    return Snapshot.of(state, {"head": value}, {"epochs": [], "sum": 0.0, "count": 0}, {"optimizer.pt": {"exp": value}})


def content(folder: Path) -> tuple[set[str], float, float]:
    """A checkpoint's files, and the step that its weights and its optimiser are of."""
    weights = float(load_file(folder / "model.safetensors")["head"][0])
    optimizer = float(torch.load(folder / "optimizer.pt", weights_only=True)["exp"][0])
    return {file.name for file in folder.iterdir()}, weights, optimizer


FILES = {"model.safetensors", "losses.json", "optimizer.pt", "trainer_state.json", "digests.json"}
HISTORY = [(10, 0), (30, 30), (40, 30), (50, 30), (60, 60), (70, 60)]
"""Steps with a checkpoint, and the best step at that time."""


def write_until_killed(store: ObjectStore, directory: Path, kill: Kill, monkeypatch: pytest.MonkeyPatch) -> int:
    """Write checkpoints as a training does; returns the step of the last one that was completely written."""
    done = 0
    with monkeypatch.context() as patch:
        for name in ("save_file", "rmtree", "rename", "save"):
            owner = {"save_file": module, "rmtree": shutil, "rename": Path, "save": torch}[name]
            call = getattr(owner, name)

            def killing(*arguments: object, _call: Callable[..., object] = call, **options: object) -> object:
                kill()
                return _call(*arguments, **options)

            patch.setattr(owner, name, killing)
        if isinstance(store, RemoteStore):
            store.change = kill
        checkpoints = Checkpoints(store, "finetune_encoder", "key")
        checkpoints.directory.mkdir(parents=True, exist_ok=True)
        try:
            for step, best in HISTORY:
                snapshot = snapshot_at(step, best)
                snapshot.write(directory)
                checkpoints.save(snapshot.name)
                done = step
        except KilledError:
            pass
    if isinstance(store, RemoteStore):
        store.change = lambda: None
    return done


@pytest.mark.parametrize("where", ["on the same disk", pytest.param("on an empty disk", marks=pytest.mark.long)])
def test_a_process_killed_at_any_point_of_a_write_leaves_a_complete_checkpoint(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 0
    for at in range(1, 200):
        monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"machine-{at}"))
        store = RemoteStore(tmp_path / f"store-{at}")
        kill = Kill(at)
        directory = Checkpoints(store, "finetune_encoder", "key").directory
        done = write_until_killed(store, directory, kill, monkeypatch)
        if kill.count < at:
            break
        points += 1
        if where == "on an empty disk":
            monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"another-{at}"))
        later = Checkpoints(store, "finetune_encoder", "key")
        later.restore()
        last = last_whole(later.directory)
        if done:
            assert last is not None and step_of(last) >= done
        for folder in later.directory.iterdir():
            step = float(step_of(folder))
            assert content(folder) == (FILES, step, step)
        if last is not None:
            best = dict(HISTORY)[step_of(last)]
            assert not best or (later.directory / f"checkpoint-{best}").is_dir()
    assert points > 60


@pytest.mark.parametrize("damage", ["one byte", "emptied", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    for name in (*sorted(FILES), "all"):
        directory = tmp_path / name
        for step, best in HISTORY[1:4]:
            snapshot_at(step, best).write(directory)
        newest = directory / "checkpoint-50"
        for path in newest.iterdir() if name == "all" else [newest / name]:
            data = path.read_bytes()
            middle = len(data) // 2
            path.write_bytes(
                data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if damage == "one byte" else b""
            )
            if damage == "missing":
                path.unlink()
        notes: list[str] = []
        assert last_whole(directory, notes.append) == directory / "checkpoint-30"
        assert len(notes) == 1 and str(newest) in notes[0] and not newest.exists()
        assert damage == "missing" or name == "all" or name in notes[0]


def test_a_damaged_best_checkpoint_takes_those_that_need_it_along(tmp_path: Path) -> None:
    for step, best in HISTORY[1:4]:
        snapshot_at(step, best).write(tmp_path)
    weights = tmp_path / "checkpoint-30" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert last_whole(tmp_path) is None
    assert not list(tmp_path.iterdir())
