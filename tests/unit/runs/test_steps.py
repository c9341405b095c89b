"""The stage engine: finished steps are reused, changed steps are rerun, and failures are recorded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import components
from components.gate_model.run import STAGE as GATE
from components.resolve_inputs.run import STAGE as RESOLVE
from mistere.artifacts.io import MANIFEST, artifact_key, open_artifact, publish
from mistere.artifacts.manifests import EncoderCheckpoint, EvaluationReport, GateVerdict, ValidationReport
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.errors import ArtifactError, DataError, MistereError, UsageError
from mistere.common.progress import EVENTS_VARIABLE
from mistere.config.data import DataConfig
from mistere.engine.execution import execute
from mistere.engine.stage import Stage, StageRecord, stage_record_key
from mistere.registry.release.champion import Champion, move_champion, read_champion

METRICS = {
    "test.weighted_f1": 0.7,
    "test.weighted_f1.low": 0.65,
    "test.weighted_f1.high": 0.75,
    "test.majority.weighted_f1": 0.2,
    "test.support.a": 1.0,
    "test.support.b": 0.0,
    "test.ece": 0.05,
    "test.missing.text.75.weighted_f1": 0.6,
    "test.missing.text.75.weighted_f1.low": 0.55,
    "test.missing.text.75.weighted_f1.high": 0.65,
    "test.gain_coverage": 0.95,
    **{
        f"test.{name}{end}": value
        for name in ("gain_over_mean_of_experts", "gain_over.text", "gain_over.cross_modal")
        for end, value in (("", 0.01), (".low", 0.0), (".high", 0.02))
    },
}


class Runner:
    """Runs tasks against one store and captures their events."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store, self.folder, self.events_file = store, folder, folder / "events.jsonl"

    def context(self, run_id: str = "run") -> dict[str, str]:
        return {"run_id": run_id, "store": self.store.uri, "tracking_uri": "none"}

    def report(self, name: str = "report", files: Mapping[str, bytes] | None = None, **metrics: float) -> str:
        """A published evaluation and its manifest in a folder, as the previous task leaves them."""
        manifest = EvaluationReport(
            labels=["a", "b"],
            experts=["text", "cross_modal"],
            test_digest="t",
            utterances=1,
            dialogues=1,
            metrics={**METRICS, **metrics},
            confusion=[[1, 0], [0, 0]],
        )
        material = self.folder / "material"
        material.mkdir()
        for file, content in (files or {}).items():
            (material / file).write_bytes(content)
        manifest = publish(self.store, manifest, material)
        shutil.rmtree(material, ignore_errors=True)
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / MANIFEST).write_text(manifest.model_dump_json())
        return str(self.folder / name)

    def validation(self) -> str:
        """A published validation report, likewise."""
        manifest = ValidationReport(verdict="pass", expectations=1, utterances=1, audio_seconds=1.0)
        material = self.folder / "validation_report"
        material.mkdir()
        manifest = publish(self.store, manifest, material)
        shutil.rmtree(material, ignore_errors=True)
        (self.folder / "validation").mkdir(exist_ok=True)
        (self.folder / "validation" / MANIFEST).write_text(manifest.model_dump_json())
        return str(self.folder / "validation")

    def gate(
        self, report: str, config: Mapping[str, Any] | None = None, champion: str = "none"
    ) -> tuple[str, StageRecord]:
        values = execute(
            GATE,
            self.context(),
            config or {},
            inputs={"validation": self.validation(), "report": report},
            outputs={"verdict": str(self.folder / "verdict")},
            external_inputs={"champion_digest": champion, "anchor_digest": "none", "code_state": "committed"},
        )
        return values["verdict"], self.record("gate_model")

    def record(self, task: str) -> StageRecord:
        return StageRecord.model_validate_json(self.store.read(stage_record_key("run", task))[0])

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def notes(self) -> list[str]:
        return [event["message"] for event in self.events() if event["event"] == "note"]


@pytest.fixture
def runner(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    created = Runner(store, tmp_path)
    monkeypatch.setenv(EVENTS_VARIABLE, str(created.events_file))
    return created


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    created = Runner(LocalStore(tmp_path / "store"), tmp_path)
    monkeypatch.setenv(EVENTS_VARIABLE, str(created.events_file))
    return created


def test_repeated_step_is_reused_with_the_same_result(runner: Runner) -> None:
    report = runner.report()
    verdict, first = runner.gate(report)
    manifest = (runner.folder / "verdict" / MANIFEST).read_text()
    again, second = runner.gate(report)
    assert verdict == again == "promote"
    assert (first.status, second.status) == ("done", "reused")
    assert first.key == second.key and first.outputs == second.outputs and first.values == second.values
    assert (runner.folder / "verdict" / MANIFEST).read_text() == manifest
    assert [event["event"] for event in runner.events()] == ["started", "done", "started", "reused"]
    opened = open_artifact(runner.store, GateVerdict, first.outputs["verdict"])
    assert opened.manifest.made_by is not None and opened.manifest.made_by.key == first.key
    assert opened.manifest.inputs["report"] == json.loads((Path(report) / MANIFEST).read_text())["digest"]
    assert runner.store.exists("runs/run/reports/verdict.json")


def test_each_dependency_of_a_result_changes_the_key(runner: Runner) -> None:
    report = runner.report()
    _, first = runner.gate(report)
    _, by_config = runner.gate(report, {"min_weighted_f1": 0.5})
    _, by_world = runner.gate(report, champion="c" * 64)
    _, by_input = runner.gate(runner.report(**{"test.weighted_f1": 0.71}))
    records = [first, by_config, by_world, by_input]
    assert [record.status for record in records] == ["done"] * 4
    assert len({record.key for record in records}) == 4
    assert by_world.values == {"verdict": "reject"}
    assert runner.gate(report)[1].status == "reused"


def test_explicit_defaults_and_kfp_number_forms_keep_the_key(runner: Runner) -> None:
    report = runner.report()
    _, first = runner.gate(report)
    _, second = runner.gate(report, {"min_weighted_f1": 0.40, "min_class_support": 20.0, "max_robustness_loss": False})
    assert second.status == "reused" and second.key == first.key


def test_step_is_reused_by_another_run(local: Runner) -> None:
    report = local.report()
    local.gate(report)
    inputs = {"validation": local.validation(), "report": report}
    execute(
        GATE,
        local.context("other"),
        {},
        inputs=inputs,
        external_inputs={"champion_digest": "none", "anchor_digest": "none", "code_state": "committed"},
    )
    record = StageRecord.model_validate_json(local.store.read(stage_record_key("other", "gate_model"))[0])
    assert record.status == "reused"


def test_damaged_output_is_reported_and_recomputed(local: Runner) -> None:
    report = local.report()
    _, first = local.gate(report)
    assert isinstance(local.store, LocalStore)
    folder = local.store.local_path(artifact_key("GateVerdict", first.outputs["verdict"]))
    file = folder / "verdict.json"
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    _, second = local.gate(report)
    assert second.status == "done" and second.outputs == first.outputs
    (note,) = local.notes()
    assert str(file) in note and "SHA-256" in note and note.endswith("It is computed again.")
    assert local.gate(report)[1].status == "reused"


def test_missing_output_is_reported_and_recomputed(runner: Runner) -> None:
    report = runner.report()
    _, first = runner.gate(report)
    runner.store.delete(artifact_key("GateVerdict", first.outputs["verdict"]))
    _, second = runner.gate(report)
    assert second.status == "done" and second.outputs == first.outputs
    (note,) = runner.notes()
    assert first.outputs["verdict"][:12] in note


def test_output_with_a_missing_file_is_recomputed(runner: Runner) -> None:
    report = runner.report()
    _, first = runner.gate(report)
    runner.store.delete_object(f"{artifact_key('GateVerdict', first.outputs['verdict'])}/verdict.json")
    _, second = runner.gate(report)
    assert second.status == "done"
    (note,) = runner.notes()
    assert "verdict.json" in note
    open_artifact(runner.store, GateVerdict, second.outputs["verdict"])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"outputs": 3, "values": {}}'])
def test_damaged_record_causes_a_rerun(local: Runner, damage: bytes) -> None:
    report = local.report()
    _, first = local.gate(report)
    local.store.write(f"steps/gate_model/{first.key}.json", damage)
    _, second = local.gate(report)
    assert second.status == "done" and len(local.notes()) == 1
    assert local.gate(report)[1].status == "reused"


def test_damaged_input_fails_the_step_and_is_named(local: Runner) -> None:
    report = local.report(files={"predictions.parquet": b"x" * 100})
    digest = json.loads((Path(report) / MANIFEST).read_text())["digest"]
    assert isinstance(local.store, LocalStore)
    file = local.store.local_path(artifact_key("EvaluationReport", digest)) / "predictions.parquet"
    file.write_bytes(b"x" * 99)
    with pytest.raises(ArtifactError, match="99 bytes, its manifest says 100"):
        local.gate(report)
    record = local.record("gate_model")
    assert (record.status, record.exit_code) == ("failed", 1) and str(file) in record.message


def test_missing_input_raises_a_readable_error(local: Runner) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"holds no EvaluationReport: the task before this one did not finish; see its log, then run again\.",
    ):
        local.gate(str(local.folder / "nothing"))


def test_invalid_setting_raises_a_usage_error(local: Runner) -> None:
    report = local.report()
    for config in ({"min_weighted_f1": 2}, {"min_weighted_f2": 0.5}):
        with pytest.raises(UsageError, match=r"gate_model: min_weighted_f"):
            local.gate(report, config)
        record = local.record("gate_model")
        assert (record.status, record.exit_code) == ("failed", 2)


def test_unexpected_exception_is_recorded_and_raised(local: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("a rule is broken")

    monkeypatch.setattr("components.gate_model.rules.rules", broken)
    report = local.report()
    with pytest.raises(RuntimeError, match="broken") as caught:
        local.gate(report)
    assert not isinstance(caught.value, MistereError)
    record = local.record("gate_model")
    assert (record.status, record.exit_code) == ("failed", 1)
    assert record.message.startswith("gate_model failed unexpectedly (RuntimeError: ")
    assert record.message.endswith("the log has the trace.") and "\n" not in record.message
    assert local.events()[-1]["event"] == "failed"
    assert isinstance(local.store, LocalStore)
    assert list(local.store.local_path("scratch").iterdir()) == []


RANDOM_ENCODERS = {"speech": {"source": "random:whisper"}, "text": {"source": "random:bidirectional_text"}}
"""The first step looks for other sources on the hub, or as packages."""


def test_uncached_stage_runs_every_time_and_resolves_external_inputs(local: Runner) -> None:
    def resolve() -> Mapping[str, str]:
        return execute(RESOLVE, {**local.context(), "data_digest": "d.dir"}, {"given": RANDOM_ENCODERS})

    seen = {"data_digest": "d.dir", "data_remote": "", "code_state": "unknown", "inputs": ""}
    assert resolve() == {**seen, "champion_digest": "none", "anchor_digest": "none"}
    champion = Champion(
        bundle_digest="b" * 64, evaluation_digest="e", model_name="m", model_version="1", run_id="run", moved_at=0.0
    )
    move_champion(local.store, read_champion(local.store), champion)
    assert resolve() == {**seen, "champion_digest": "b" * 64, "anchor_digest": "none"}
    assert local.record("resolve_inputs").status == "done"
    local.store.write("champion.json", b"{")
    with pytest.raises(ArtifactError, match=r"champion pointer .* is damaged"):
        resolve()


def test_resolve_inputs_refuses_a_local_deployment_in_a_pod(local: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of Kubeflow Pipelines that starts a run with ``deployment.mode=local`` learns it before the training."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UsageError, match=r"set deployment\.mode=standard or deployment\.mode=knative"):
        execute(RESOLVE, {**local.context(), "data_digest": "d.dir"}, {"given": {"deployment": {"mode": "local"}}})
    record = StageRecord.model_validate_json(local.store.read(stage_record_key("run", "resolve_inputs"))[0])
    assert (record.status, record.exit_code) == ("failed", 2)
    standard = {"given": {"deployment": {"mode": "standard"}, **RANDOM_ENCODERS}}
    assert execute(RESOLVE, {**local.context("other"), "data_digest": "d.dir"}, standard)


STAGES = {
    "diverging": 'return Result(manifests={"encoder": EncoderCheckpoint(modality="text", metrics={"f1": float("nan")})})',
    "rejecting": 'raise DataError("the data is wrong.")',
    "counting": """
    step.store.write(f"tries/{len(list(step.store.keys('tries')))}", b"")
    raise DataError("the data is wrong.")""",
    "silent": "raise ValueError()",
    "wordy": 'raise ValueError("first line\\nsecond line")',
    "full": 'raise OSError(28, "No space left on device", "/somewhere/file")',
    "keeping": """
    (step.checkpoints.directory).mkdir(parents=True, exist_ok=True)
    mark = step.checkpoints.directory / "mark"
    if not mark.exists():
        mark.write_text("half way")
        raise MistereError("interrupted.")
    (encoder / "file").write_text(mark.read_text() + modality)
    return Result(manifests={"encoder": EncoderCheckpoint(modality=modality)}, values={"found": mark.read_text()})""",
}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stages defined by the tests, with one folder each like the real ones."""
    for name, body in STAGES.items():
        (tmp_path / "stages" / name).mkdir(parents=True)
        (tmp_path / "stages" / name / "__init__.py").write_text("")
        (tmp_path / "stages" / name / "run.py").write_text(
            "from mistere.common.errors import DataError, MistereError\nfrom mistere.artifacts.manifests import EncoderCheckpoint\n"
            "from mistere.engine.execution import Result\n"
            f"def run(config, step, encoder, modality='text'):\n    {body}\n"
        )
    monkeypatch.setattr(components, "__path__", [*components.__path__, str(tmp_path / "stages")])
    yield
    for name in [name for name in sys.modules if name.split(".")[1:2] and name.split(".")[1] in STAGES]:
        del sys.modules[name]
    for name in STAGES:
        components.__dict__.pop(name, None)


def stage_of(name: str) -> Stage:
    return Stage(name=name, config=DataConfig, outputs={"encoder": EncoderCheckpoint})


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("name", "error", "code", "message_part"),
    [
        ("diverging", MistereError, 1, "EncoderCheckpoint.metrics.f1 is nan"),
        ("rejecting", DataError, 4, "the data is wrong."),
        ("silent", ValueError, 1, "silent failed unexpectedly (ValueError: ); the log has the trace."),
        ("wordy", ValueError, 1, "wordy failed unexpectedly (ValueError: first line); the log has the trace."),
        ("full", MistereError, 1, "full: the disk is full; free some space or choose another folder (/somewhere/"),
    ],
)
def test_failures_keep_their_exit_code_and_message(
    local: Runner, name: str, error: type[Exception], code: int, message_part: str
) -> None:
    with pytest.raises(error):
        execute(stage_of(name), local.context(), {}, outputs={"encoder": str(local.folder / "out")})
    record = local.record(name)
    assert (record.status, record.exit_code) == ("failed", code) and record.message.startswith(message_part)
    assert not (local.folder / "out").exists()
    assert list(local.store.keys("artifacts")) == list(local.store.keys("steps")) == []


@pytest.mark.usefixtures("made_up")
def test_retry_of_a_run_fails_fast_on_a_data_error(local: Runner) -> None:
    def attempt(run_id: str) -> None:
        outputs = {"encoder": str(local.folder / "out")}
        with pytest.raises(DataError, match=r"^the data is wrong\.$"):
            execute(stage_of("counting"), local.context(run_id), {}, outputs=outputs)

    for _ in range(2):
        attempt("run")
    assert len(list(local.store.keys("tries"))) == 1
    assert local.record("counting").exit_code == 4
    attempt("another")
    assert len(list(local.store.keys("tries"))) == 2


@pytest.mark.usefixtures("made_up")
def test_step_resumes_from_its_checkpoint(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Mapping[str, str]:
        return execute(stage_of("keeping"), runner.context(), {}, modality="speech")

    with pytest.raises(MistereError):
        run()
    assert runner.record("keeping-speech").message == "interrupted."
    assert run() == {"found": "half way"}
    record = runner.record("keeping-speech")
    assert record.status == "done" and record.message == "" and record.exit_code == 0
    assert list(runner.store.keys("checkpoints")) == []
    monkeypatch.setenv("MISTERE_CACHE", str(runner.folder / "another-machine"))
    assert run() == {"found": "half way"}
    assert runner.record("keeping-speech").status == "reused"
