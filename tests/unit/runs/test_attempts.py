"""Attempts of a step are counted under its run, so that nested retries of Argo do not multiply them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import components
from mistere.artifacts.manifests import EncoderCheckpoint
from mistere.artifacts.object_store import LocalStore
from mistere.common.environment import RETRIES_VARIABLE
from mistere.common.errors import DataError, MistereError
from mistere.config.data import DataConfig
from mistere.engine.attempts import AttemptsExhaustedError
from mistere.engine.execution import execute
from mistere.engine.stage import Stage, StageRecord, stage_record_key

BODY = """
import os, signal
from pathlib import Path
from mistere.artifacts.manifests import EncoderCheckpoint
from mistere.common.errors import DataError, MistereError
from mistere.engine.stage import Result

def run(config, step, encoder, modality):
    Path(step.store.uri, "starts").open("a").write("started\\n")
    match Path(step.store.uri, "how").read_text():
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refused":
            raise MistereError("the tracking server refused the token.")
        case "data":
            raise DataError("a label is unknown.")
    return Result(manifests={"encoder": EncoderCheckpoint(modality=modality)})
"""
STAGE = Stage(name="flaky", config=DataConfig, outputs={"encoder": EncoderCheckpoint}, cached=False)


class Flaky:
    """A step of a run, started as often as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder)
        self.store.root.mkdir()

    def start(self, how: str, run_id: str = "run", pod_of: str = "") -> Mapping[str, str]:
        (self.store.root / "how").write_text(how)
        context = {"run_id": run_id, "store": self.store.uri, "tracking_uri": "none"}
        return execute(STAGE, context, {}, modality="text", pod_of=pod_of)

    def start_and_kill(self) -> None:
        """Start the step in a process of its own, which is killed as the kernel kills one that is out of memory."""
        process = os.fork()
        if not process:
            try:
                self.start("killed")
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL

    @property
    def starts(self) -> int:
        return len((self.store.root / "starts").read_text().splitlines())

    @property
    def record(self) -> StageRecord:
        return StageRecord.model_validate_json(self.store.read(stage_record_key("run", "flaky-text"))[0])


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    (tmp_path / "stages" / "flaky").mkdir(parents=True)
    (tmp_path / "stages" / "flaky" / "__init__.py").write_text("")
    (tmp_path / "stages" / "flaky" / "run.py").write_text(BODY)
    monkeypatch.setattr(components, "__path__", [*components.__path__, str(tmp_path / "stages")])
    monkeypatch.setenv(RETRIES_VARIABLE, "2")
    monkeypatch.setenv("KFP_POD_NAME", "retraining-x7k2p-system-container-impl-42")
    yield Flaky(tmp_path / "store")
    for name in [name for name in sys.modules if name.startswith(f"components.{STAGE.name}")]:
        del sys.modules[name]
    components.__dict__.pop("flaky", None)


def test_a_killed_step_is_started_no_more_often_than_its_retries_allow(flaky: Flaky) -> None:
    for _ in range(3):
        flaky.start_and_kill()
    sentence = (
        "flaky-text was started 3 times in this run, as often as cluster.steps.flaky-text.retries allows, and every attempt "
        "was killed before it could say why (out of memory, evicted, its node lost): look at kubectl describe pod "
        "retraining-x7k2p-system-container-impl-42, raise cluster.steps.flaky-text.memory if it says OOMKilled, and start the "
        "run again, which finds the finished steps."
    )
    for _ in range(2):  # the levels of Argo above the step repeat it again
        with pytest.raises(AttemptsExhaustedError) as caught:
            flaky.start("done")
        assert str(caught.value) == sentence == flaky.record.message and flaky.starts == 3
    assert (flaky.record.status, flaky.record.exhausted, flaky.record.explained) == ("failed", True, False)


def test_a_step_in_the_pod_of_another_names_the_settings_of_that_pod(flaky: Flaky) -> None:
    for _ in range(3):
        flaky.start_and_kill()
    with pytest.raises(AttemptsExhaustedError) as caught:
        flaky.start("done", pod_of="embed_shard")
    assert re.findall(r"cluster\.steps\.(\S+)", str(caught.value)) == [
        "embed_shard-text.retries",
        "embed_shard-text.memory",
    ]


def test_the_recorded_reason_is_repeated_once_the_attempts_are_used(flaky: Flaky) -> None:
    for _ in range(3):
        with pytest.raises(MistereError, match=r"^the tracking server refused the token\.$"):
            flaky.start("refused")
    for _ in range(2):
        with pytest.raises(
            AttemptsExhaustedError,
            match=r"3 times .*retries allows; its last reason: the tracking server refused the token\. When that is resolved",
        ):
            flaky.start("done")
    assert flaky.starts == 3 and flaky.record.exhausted and flaky.record.explained


def test_another_run_has_attempts_of_its_own(flaky: Flaky) -> None:
    for _ in range(3):
        with pytest.raises(MistereError):
            flaky.start("refused")
    flaky.start("done", run_id="another")
    assert flaky.starts == 4


def test_a_step_that_finished_may_be_repeated_with_its_dag(flaky: Flaky) -> None:
    for _ in range(2):
        flaky.start_and_kill()
    for _ in range(5):
        flaky.start("done")
    assert flaky.starts == 7 and not list(flaky.store.keys("runs/run/attempts"))


def test_a_data_error_is_repeated_without_another_attempt(flaky: Flaky) -> None:
    for _ in range(5):
        with pytest.raises(DataError, match=r"^a label is unknown\.$"):
            flaky.start("data")
    assert flaky.starts == 1


def test_a_local_run_counts_nothing(flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RETRIES_VARIABLE)
    for _ in range(5):
        with pytest.raises(MistereError, match="refused the token"):
            flaky.start("refused")
    assert flaky.starts == 5 and not list(flaky.store.keys("runs/run/attempts"))
