"""Damage to what a run leaves behind: it is named, or computed again, and never taken for the truth."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.finetune_encoder.training.snapshot import Snapshot
from components.gate_model.run import STAGE
from components.validate_data.facts.shard_facts import FactsCache, ShardFacts
from mistere.artifacts.io import MANIFEST, artifact_key, open_artifact, publish
from mistere.artifacts.manifests import EvaluationReport, GateVerdict
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.sealed_record import seal
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.progress import Progress
from mistere.engine.finished_run import remember as remember_run
from mistere.engine.finished_run import take_over
from mistere.engine.finished_steps import find_finished, remember
from mistere.engine.stage import RunContext, StageRecord, stage_record_key
from mistere.model.training_checkpoint import CHECKPOINT, TrainingState, read_checkpoint, write_checkpoint
from mistere.model.vector_cache import VectorCache
from mistere.registry.lineage import Lineage, lineage_key, read_lineage, write_lineage
from mistere.registry.release.champion import CHAMPION_KEY, Champion, read_champion
from mistere.runs.listing import REPORT_DATA, read_report
from mistere.runs.outcome import read_outcome, read_run_info, report_key, run_info_key
from mistere.runs.run_info import RunOrigin, read_origin, write_origin, write_run_info
from mistere.serving.deployment import Deployment, deployment_key, read_deployment


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one byte changed": _flip,
    "last byte changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda _data: b"",
}
CHAMPION = Champion(
    bundle_digest="b", evaluation_digest="e", model_name="m", model_version="1", run_id="r", moved_at=1.0
)
CONTEXT = RunContext(run_id="r", store="", tracking_uri="")


def _verdict(store: LocalStore, folder: Path, sentence: str = "It is better.") -> GateVerdict:
    folder.mkdir(parents=True)
    for name in STAGE.reports["verdict"]:
        (folder / name).write_text(sentence)
    return publish(store, GateVerdict(verdict="promote", rules=[]), folder)


def predictions(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    (folder / "report").mkdir(parents=True)
    table = pa.table({"dialogue_id": ["a"] * 50, "label": [0] * 50, "probabilities": [[0.5, 0.5]] * 50})
    pq.write_table(table, folder / "report" / "predictions.parquet")
    fields = {
        "labels": [],
        "experts": [],
        "test_digest": "t",
        "utterances": 50,
        "dialogues": 1,
        "metrics": {},
        "confusion": [],
    }
    manifest = publish(store, EvaluationReport.model_validate(fields), folder / "report")
    path = store.root / artifact_key("EvaluationReport", manifest.digest) / "predictions.parquet"
    return path, lambda: open_artifact(store, EvaluationReport, manifest.digest)


def manifest(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    digest = _verdict(store, folder / "verdict").digest
    return store.root / artifact_key("GateVerdict", digest) / MANIFEST, lambda: open_artifact(
        store, GateVerdict, digest
    )


def step_record(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    key = "k" * 64
    remember(STAGE, store, key, {"verdict": _verdict(store, folder / "verdict")}, {})
    assert find_finished(STAGE, store, key, Progress("gate_model")) is not None
    return store.root / "steps" / STAGE.name / f"{key}.json", lambda: find_finished(STAGE, store, key, Progress("t"))


def vectors(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    keys = [bytes([index]) * 16 for index in range(20)]
    VectorCache(store, "i", Progress("t")).add(keys, np.ones((20, 4), np.float32))
    assert len(VectorCache(store, "i", Progress("t")).find(keys)) == 20
    return next(
        (store.root / "vectors" / "i").iterdir()
    ), lambda: VectorCache(store, "i", Progress("t")).find(keys) or None


def facts(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    table = pa.table({"value": [1, 2]})
    cache = FactsCache(store, "en", -60.0)
    cache.add("m" * 32, ShardFacts([{"column": "text", "found": "string", "status": "ok"}], table, table, table, table))
    assert cache.find("m" * 32) is not None
    return next((store.root / "facts").rglob("rows.facts")), lambda: cache.find("m" * 32)


def checkpoint(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    folder.mkdir(parents=True)
    state = TrainingState({"w": torch.ones(40)}, optimizer={0: {"step": torch.tensor(1.0)}}, facts={"epoch": 3})
    write_checkpoint(state, folder)
    shapes = {"w": torch.Size([40])}
    assert read_checkpoint(folder, shapes) is not None
    return folder / CHECKPOINT, lambda: read_checkpoint(folder, shapes)


def tuning_checkpoint(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    from transformers import TrainerState

    from components.finetune_encoder.training.checkpointing import last_whole_checkpoint

    state = TrainerState(global_step=5, max_steps=9, num_train_epochs=3)
    Snapshot.of(state, {"w": torch.ones(40)}, {"epochs": []}, {"optimizer.pt": {"w": torch.ones(40)}}).write(folder)
    return folder / "checkpoint-5" / "optimizer.pt", lambda: last_whole_checkpoint(folder)


def stage_record(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    key = stage_record_key("r", "deploy_model")
    record = StageRecord(task="deploy_model", stage="deploy_model", status="done", started=1, values={"message": "up"})
    store.write(key, record.sealed())

    def read() -> object:
        outcome = read_outcome(store, "r")
        if outcome.damaged:
            assert outcome.damaged == [store.location(key)] and outcome.exit_code == 1
            raise ArtifactError(outcome.reasons[0])
        assert (outcome.exit_code, outcome.message) == (0, "up")
        return outcome.stages

    return store.root / key, read


def run_info(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    write_run_info(store, CONTEXT, RunOrigin(config={"seed": 7}, command="mistere run", source="data.dvc"))
    return store.root / run_info_key("r"), lambda: read_run_info(store, "r")


def schedule_origin(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    write_origin(store, "nightly/1", RunOrigin(config={"seed": 7}, command="mistere schedule", source="data.dvc"))
    return store.root / "schedules" / "nightly" / "1.json", lambda: read_origin(store, "nightly/1")


def run_report(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    store.write(report_key("r", REPORT_DATA), seal({"outcome": {"verdict": "held"}}))
    return store.root / report_key("r", REPORT_DATA), lambda: read_report(store, "r")


def finished_run(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    key = "k" * 64
    remember(STAGE, store, key, {"verdict": _verdict(store, folder / "verdict")}, {"verdict": "promote"})
    record = StageRecord(task="gate_model", stage="gate_model", status="done", started=1, key=key)
    remember_run(store, "r", "i", [record])

    def read() -> object:
        run = take_over(store, CONTEXT, "i")
        return run and (run.run_id, run.outputs(), run.values("gate_model"))

    return store.root / "finished" / "i.json", read


def champion(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    store.write(CHAMPION_KEY, CHAMPION.sealed())
    return store.root / CHAMPION_KEY, lambda: read_champion(store)


def deployment(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    value = Deployment(service="s", bundle_location="l", bundle_digest="b", model_version="1")
    store.write(deployment_key("s"), value.sealed())
    return store.root / deployment_key("s"), lambda: read_deployment(store, "s")


def lineage(store: LocalStore, folder: Path) -> tuple[Path, Callable[[], object]]:
    fields = {"model_name": "m", "run": {}, "bundle_digest": "b", "bundle_location": "l", "evaluation_digest": "e"}
    fields |= {"test_digest": "t", "verdict": "promote", "dataset": "d", "dvc_digest": "d", "data_remote": "r"}
    write_lineage(store, Lineage.model_validate(fields))
    return store.root / lineage_key("b"), lambda: read_lineage(store, "b")


DAMAGED: dict[str, tuple[Callable[[LocalStore, Path], tuple[Path, Callable[[], object]]], str]] = {
    "predictions": (predictions, "named"),
    "manifest": (manifest, "named"),
    "record of a step": (step_record, "computed again"),
    "cached vectors": (vectors, "computed again"),
    "cached facts of a shard": (facts, "computed again"),
    "checkpoint of the mixture": (checkpoint, "computed again"),
    "checkpoint of a fine-tuning": (tuning_checkpoint, "computed again"),
    "record of a run's start": (run_info, "named"),
    "record of a stage in a run": (stage_record, "named"),
    "record of a finished run": (finished_run, "computed again"),
    "report of a run": (run_report, "named"),
    "origin of a schedule": (schedule_origin, "named"),
    "champion pointer": (champion, "named"),
    "deployment record": (deployment, "named"),
    "lineage": (lineage, "named"),
}
"""What is damaged, how it is made and read, and what happens: named by an error, or computed again (the reader gives None)."""


@pytest.mark.parametrize(
    "damaged",
    [pytest.param(name, marks=pytest.mark.training if name.startswith("checkpoint") else []) for name in DAMAGED],
)
def test_damage_is_noticed(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    make, expected = DAMAGED[damaged]
    for number, (kind, damage) in enumerate(DAMAGE.items()):
        store = LocalStore(tmp_path / str(number) / "store")
        path, read = make(store, tmp_path / str(number) / "made")
        path.chmod(0o644)
        path.write_bytes(damage(path.read_bytes()))
        try:
            value = read()
        except MistereError as error:
            message = str(error)
            assert expected == "named" and "\n" not in message and message.endswith("."), f"{kind}: {message}"
        else:
            assert value is None, f"{damaged}, {kind}: read as {value}"


BINARY = frozenset(
    {
        "predictions",
        "cached vectors",
        "cached facts of a shard",
        "checkpoint of the mixture",
        "checkpoint of a fine-tuning",
    }
)


@pytest.mark.parametrize("damaged", [name for name in DAMAGED if name not in BINARY])
def test_each_changed_byte_is_noticed_or_harmless(damaged: str, tmp_path: Path) -> None:
    """A random bit of each byte of a record with a checksum; spaces between values are harmless."""
    bits = random.Random(7)
    path, read = DAMAGED[damaged][0](LocalStore(tmp_path / "store"), tmp_path / "made")
    data, intact = path.read_bytes(), read()
    noticed = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << bits.randrange(8)
        path.write_bytes(changed)
        try:
            value = read()
        except MistereError:
            noticed += 1
        else:
            # the name of the checksum's own field: the record then looks like one of a release without checksums
            if isinstance(value, dict) and isinstance(intact, dict):
                value = {name: value.get(name) for name in intact}
            noticed += value is None
            assert value is None or value == intact, f"byte {position}: {bytes(changed)!r} was read as {value}"
    assert noticed > 0.8 * len(data)


def test_swapped_artifacts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two intact artifacts under each other's digest."""
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    store = LocalStore(tmp_path / "store")
    digests = [_verdict(store, tmp_path / name, name).digest for name in ("first", "second")]
    first, second = (store.root / artifact_key("GateVerdict", digest) for digest in digests)
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    for digest in digests:
        with pytest.raises(ArtifactError, match=r"holds .*, expected "):
            open_artifact(store, GateVerdict, digest)
    shutil.copyfile(first / MANIFEST, second / MANIFEST)
    with pytest.raises(ArtifactError, match="is damaged: "):
        open_artifact(store, GateVerdict, digests[1])


def test_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A deployment record in the place of the champion pointer."""
    store = LocalStore(tmp_path)
    store.write(CHAMPION_KEY, json.dumps({"service": "s"}).encode())
    with pytest.raises(ArtifactError, match="is damaged: "):
        read_champion(store)
