"""One changed bit in a file of a finished run: each command that needs the file names it in one sentence, and no other is disturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.registry.release.champion import read_champion
from pipelines.cli.doctor.groups.records import check_records
from tests.local.workshop import Run, mistere_in_process

pytestmark = pytest.mark.long
SERVE, PROMOTE = ("serve",), ("promote", "mistere/1", "--reason", "again")
MODELS, LOG, HISTORY = ("models",), ("models", "--log"), ("models", "--history")
RUNS, REPORT, TABLE = ("runs",), ("report",), ("gate-table", "{run}")
DAMAGED: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...], str]] = {
    "store/artifacts/ModelBundle/*/mixture.safetensors": ((SERVE, PROMOTE), (MODELS, REPORT), "failed"),
    "store/artifacts/ModelBundle/*/manifest.json": ((SERVE, PROMOTE), (MODELS, REPORT), "failed"),
    "store/artifacts/ModelBundle/*/encoders/text.safetensors": ((SERVE, PROMOTE), (), "failed"),
    "store/artifacts/EvaluationReport/*/manifest.json": ((), (MODELS, LOG, REPORT, TABLE), "ok"),
    "store/artifacts/EvaluationReport/*/predictions.parquet": ((), (MODELS, REPORT), "ok"),
    "store/champion.json": ((MODELS, PROMOTE), (RUNS, REPORT), "failed"),
    "store/deployments/mistere/deployment.json": ((SERVE, PROMOTE), (MODELS, REPORT), "failed"),
    "store/deployments/mistere/journal.json": ((PROMOTE,), (MODELS, REPORT), "failed"),
    "store/lineage/*.json": ((PROMOTE,), (MODELS, HISTORY), "note"),
    "store/promotions/*.json": ((LOG, HISTORY), (MODELS, REPORT), "note"),
    "store/runs/*/run.json": ((RUNS, REPORT), (MODELS, TABLE), "note"),
    "store/runs/*/stages/deploy_model.json": ((REPORT,), (MODELS, TABLE), "note"),
    "store/runs/*/reports/run_report.json": ((RUNS, REPORT, ("report", "--json")), (MODELS, TABLE), "note"),
}
"""By file: the commands that end with 1 and name it, some that end with 0 without it, and what the doctor says."""


@pytest.fixture(scope="module")
def copied(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the output folder of a run."""
    copy = tmp_path_factory.mktemp("damaged") / "output"
    shutil.copytree(first.output, copy)
    return copy


@pytest.mark.parametrize("pattern", DAMAGED)
def test_a_changed_bit_is_named_by_what_needs_the_file(pattern: str, copied: Path, first: Run) -> None:
    refused, undisturbed, doctor = DAMAGED[pattern]
    path = next(copied.glob(pattern.replace("runs/*", f"runs/{first.folder.name}")))
    if "ModelBundle" in pattern:
        digest = read_champion(LocalStore(copied / "store")).digest
        path = copied / "store" / "artifacts" / "ModelBundle" / digest / Path(*Path(pattern).parts[4:])
    intact = path.read_bytes()
    path.chmod(0o644)
    changed = bytearray(intact)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    try:
        for command in refused:
            result = mistere_in_process(*_arguments(command, first), "--output", str(copied))
            assert result.returncode == 1, f"{command}: {result.stdout}{result.stderr}"
            assert str(path.relative_to(copied)) in result.stderr and result.stderr.count("\n") == 1, result.stderr
        for command in undisturbed:
            result = mistere_in_process(*_arguments(command, first), "--output", str(copied))
            assert result.returncode == 0 and not result.stderr, f"{command}: {result.stdout}{result.stderr}"
        assert check_records(LocalStore(copied / "store")).status == doctor
    finally:
        path.write_bytes(intact)


def _arguments(command: tuple[str, ...], run: Run) -> list[str]:
    return [part.replace("{run}", run.folder.name) for part in command]
