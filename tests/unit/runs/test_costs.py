"""What a run used and cost: measured around each task, summed up in the report, in MLflow's metrics and in the bundle."""

from __future__ import annotations

import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.finetune_encoder.processes.usage import note_usage, processes_usage
from components.report_run.cost_view import RunCosts
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.usage import FURTHER, Usage, total_usage
from mistere.config.costs import CostSettings
from mistere.engine.execution import write_record
from mistere.engine.stage import RunContext, StageRecord, stage_record_key
from mistere.engine.usage_meter import UsageMeter
from mistere.runs.costs import costs_of, total_costs
from mistere.runs.outcome import read_outcome
from tests.unit.runs import recorded_runs
from tests.unit.runs.recorded_run import RecordedRun

HOUR = 3600.0
GIB = 1024**3
PLAIN = CostSettings(
    watts_per_core=10, watts_per_gpu=300, watts_per_gib=0.5, data_centre_factor=1.5, grams_per_kwh=400, currency="CZK"
)
USED = Usage(
    cpu_seconds=4 * HOUR, gpu_seconds=2 * HOUR, memory_gib_seconds=8 * HOUR, read_bytes=3 * GIB, written_bytes=GIB
)


def test_energy_is_estimated_from_hours_and_factors() -> None:
    costs = costs_of(USED, PLAIN)
    assert (costs.cpu_hours, costs.gpu_hours, costs.memory_gib_hours, costs.moved_gib) == (4, 2, 8, 4)
    assert costs.kwh == pytest.approx((40 + 600 + 4) / 1000 * 1.5) and not costs.measured
    assert costs.kg_co2e == pytest.approx(0.966 * 0.4) and costs.money is None
    assert set(costs.metrics("cost.run.")) == {
        f"cost.run.{name}" for name in ("cpu_hours", "gpu_hours", "memory_gib_hours", "moved_gib", "kwh", "kg_co2e")
    }


def test_prices_give_a_sum_of_money() -> None:
    settings = PLAIN.model_copy(update={"cpu_hour": 1.0, "gpu_hour": 50.0, "memory_gib_hour": 0.25, "moved_gib": 2.0})
    assert costs_of(USED, settings).money == pytest.approx(4 + 100 + 2 + 8)
    assert costs_of(USED, settings).metrics("")["money"] == pytest.approx(114)


def test_measured_energy_takes_the_place_of_the_estimate() -> None:
    measured = USED.model_copy(update={"measured_kwh": 2.0})
    costs = costs_of(measured, PLAIN)
    assert costs.measured and costs.kwh == 3.0
    both = total_costs([costs, costs_of(USED, PLAIN)])
    assert not both.measured and both.kwh == pytest.approx(3.966) and both.cpu_hours == 8
    assert not total_costs([]).measured and total_costs([]).money is None


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        CostSettings(cpu_hour=-1)


def test_the_meter_counts_processor_time_memory_and_bytes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("before", b"not counted")
    meter = UsageMeter(rapl=tmp_path)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    store.write("a", bytes(1000))
    (tmp_path / "file").write_bytes(bytes(300))
    store.upload(tmp_path / "file", "b")
    store.read("a")
    store.download("b", tmp_path / "copy")
    usage = meter.usage()
    assert usage.cpu_seconds >= 0.09 and usage.memory_gib_seconds > 0 and usage.gpu_seconds == 0
    assert (usage.read_bytes, usage.written_bytes) == (1300, 1300)
    assert usage.measured_kwh is None


def test_the_processes_of_a_machine_add_what_their_parent_does_not_count(tmp_path: Path) -> None:
    for rank, memory in enumerate((30.0, 20.0, 10.0)):
        meter = types.SimpleNamespace(
            usage=lambda memory=memory: Usage(
                cpu_seconds=9, gpu_seconds=5, memory_gib_seconds=memory, read_bytes=1, written_bytes=2
            )
        )
        note_usage(tmp_path, rank, meter)  # type: ignore[arg-type]
    (tmp_path / "usage-3.json").write_text('{"cpu_')
    used = processes_usage(tmp_path)
    assert (used.cpu_seconds, used.gpu_seconds, used.memory_gib_seconds) == (0, 15, 30)
    assert (used.read_bytes, used.written_bytes, used.measured_kwh) == (3, 6, 0)
    assert processes_usage(tmp_path / "none").gpu_seconds == 0


def test_further_usage_counts_for_the_task_that_it_was_added_in(tmp_path: Path) -> None:
    earlier = UsageMeter(rapl=tmp_path)
    FURTHER.add(Usage(gpu_seconds=5, measured_kwh=1.0))
    later = UsageMeter(rapl=tmp_path)
    assert earlier.usage().gpu_seconds == 5 and later.usage().gpu_seconds == 0
    assert earlier.usage().measured_kwh is None, "this machine's energy was not measured"
    assert total_usage([Usage(measured_kwh=1.0), Usage(measured_kwh=0.5)]).measured_kwh == 1.5
    assert total_usage([]).measured_kwh is None


class Tracker:
    """In place of codecarbon's ``OfflineEmissionsTracker`` (codecarbon/emissions_tracker.py, 3.3.2), which needs a sensor."""

    def __init__(self, **options: Any) -> None:
        assert options["save_to_file"] is False and options["country_iso_code"]

    def start(self) -> None:
        self.started = True

    def stop(self) -> float:
        self.final_emissions_data = types.SimpleNamespace(energy_consumed=0.25)
        return 0.1


def test_sensors_are_read_through_codecarbon_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = types.ModuleType("codecarbon")
    package.__spec__ = types.SimpleNamespace(name="codecarbon")  # type: ignore[assignment]
    package.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", package)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert UsageMeter(rapl=tmp_path).usage().measured_kwh is None  # no sensor: codecarbon would guess
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1")
    meter = UsageMeter(rapl=tmp_path)
    assert meter.usage().measured_kwh == meter.usage().measured_kwh == 0.25
    (tmp_path / "nvidia0").touch()  # a GPU, and no library to measure it
    assert UsageMeter(tmp_path, tmp_path).usage().measured_kwh is None
    shutil.rmtree(tmp_path / "intel-rapl:0")
    library = types.SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert UsageMeter(tmp_path, tmp_path).usage().measured_kwh is None, "the processors cannot be measured"


def test_failed_attempts_count(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    context = RunContext(run_id="r", store=store.uri, tracking_uri="", data_remote="", data_digest="")
    for status, seconds in (("failed", 36_000.0), ("failed", 10.0), ("succeeded", 60.0)):
        used = Usage(cpu_seconds=seconds, measured_kwh=0.5)
        write_record(store, context, StageRecord(task="t", stage="t", status=status, started=1.0, usage=used))
    record = StageRecord.unsealed(store.read(stage_record_key("r", "t"))[0])
    assert record is not None and record.status == "succeeded"
    assert (record.usage.cpu_seconds, record.usage.measured_kwh) == (36_070.0, 1.5)


def without_usage(recorded: RecordedRun) -> RecordedRun:
    """The run as an earlier release would have recorded it."""
    for task in [record.task for record in read_outcome(recorded.store, recorded.run_id).stages]:
        recorded.record(task, usage=Usage())
    return recorded


def test_the_report_shows_the_costs_by_stage(tmp_path: Path) -> None:
    recorded = without_usage(recorded_runs.deployed(tmp_path))
    used = Usage(cpu_seconds=90, memory_gib_seconds=60, read_bytes=5 << 20, written_bytes=1 << 20)
    recorded.record("train_moe", usage=used)
    recorded.record("finetune_encoder-text", usage=used.model_copy(update={"gpu_seconds": HOUR}))
    recorded.record("gate_model", usage=Usage(cpu_seconds=0.1))
    costs = RunCosts(read_outcome(recorded.store, recorded.run_id), PLAIN.model_copy(update={"gpu_hour": 3.0}))
    assert list(costs.by_task) == [
        "finetune_encoder-text",
        "train_moe",
        "gate_model",
    ]  # others are records of an earlier release
    view = costs.view()
    assert view is not None and view["titles"] == [
        "processor time", "GPU time", "read and written", "energy", "CO2e", "price"
    ]  # fmt: skip
    tiles = {title: text.replace("\N{NO-BREAK SPACE}", " ") for title, text in view["tiles"]}
    assert tiles["processor time"] == "3 min 0 s" and tiles["GPU time"] == "1 h 00 min"
    assert tiles["read and written"] == "12.0 MB" and tiles["price"] == "3.00 CZK"
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in view["rows"][1][1][3:5]] == ["0.39 Wh", "0.16 g"]
    assert view["rows"][2][1][3].replace("\N{NO-BREAK SPACE}", " ") == "< 0.01 Wh"
    assert tiles["energy"] == "451 Wh" and tiles["CO2e"] == "180 g"
    assert "Energy is an estimate: 10 W a busy core, 300 W a GPU" in view["sentence"]
    assert "for what the data centre adds (cooling and power supply); " in view["sentence"]
    assert costs.as_dict()["total"]["money"] == pytest.approx(3.0) and costs.as_dict()["currency"] == "CZK"


def test_a_run_of_an_earlier_release_has_no_costs(tmp_path: Path) -> None:
    recorded = without_usage(recorded_runs.deployed(tmp_path))
    assert RunCosts(read_outcome(recorded.store, recorded.run_id), CostSettings()).view() is None
