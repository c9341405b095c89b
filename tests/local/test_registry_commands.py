"""``mistere models``, ``promote``, ``rollback``, ``compare`` and ``replay`` on models of real runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.registry.lineage import lineage_key, read_lineage
from mistere.registry.release.champion import read_champion
from mistere.serving.deployment import deployment_key, read_deployment
from tests.local.workshop import Run, mistere, mistere_in_process, run

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Registry:
    """A committed tree, and an output folder with model versions."""

    tree: Path
    data: Path
    output: Path

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.output / "store")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call a command; ``run`` uses the code of the committed tree."""
        command = (*arguments, "--output", str(self.output))
        return mistere(*command, root=self.tree) if arguments[0] == "run" else mistere_in_process(*command)

    def versions(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.call("models", "--json").stdout)
        return {row["version"]: row for row in rows}

    def champion(self) -> tuple[str, str]:
        """The versions of the champion and of the deployment."""
        champion = read_champion(self.store).champion
        assert champion is not None
        return champion.model_version, read_deployment(self.store, "mistere").model_version


OPTIONAL_EVALUATIONS = [
    f"evaluation.{name}=true" for name in ("robustness", "calls", "int8", "runtime", "speaker_probe")
]
CALLS = ["evaluation.call_effects=[codec,word_errors]", "gate.max_call_loss=1.0"]


@pytest.fixture(scope="module")
def first_version(tree: Path, first: Run, output: Path, data: Path) -> Registry:
    """The registry after the first run; another test may have added version 2."""
    assert first.code == 0, first.text
    return Registry(tree, data, output)


@pytest.fixture(scope="module")
def registry(first_version: Registry) -> Registry:
    """Two versions of the model; the second is the champion."""
    second = run(first_version.output, first_version.data, "mixture.seed=1", root=first_version.tree)
    assert second.code == 0, second.text
    return first_version


def test_promote_on_an_empty_registry_prints_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    result = mistere("promote", "1", "--output", str(tmp_path))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "mistere: the registry has no model 'mistere' yet: `mistere run` registers one.\n"


def test_models_lists_versions_with_aliases_code_and_data(registry: Registry) -> None:
    versions = registry.versions()
    assert versions["2"]["aliases"] == ["challenger", "champion"] and versions["1"]["aliases"] == ["previous"]
    assert versions["2"]["champion"] and not versions["2"]["dirty"] and len(versions["2"]["commit"]) == 40
    assert versions["1"]["dataset"] == "tones" and versions["1"]["dvc_digest"].endswith(".dir")
    table = registry.call("models").stdout
    assert "challenger, champion" in table and versions["1"]["bundle_digest"][:12] in table
    log = json.loads(registry.call("models", "--log", "--json").stdout)
    assert [event["outcome"] for event in log] == ["done", "done"] and log[1]["by"].startswith("run ")


def test_optional_evaluations_are_in_metrics_and_report(registry: Registry, tmp_path: Path) -> None:
    copy = shutil.copytree(registry.output, tmp_path / "output")
    measured = run(copy, registry.data, "mixture.seed=2", *OPTIONAL_EVALUATIONS, *CALLS, root=registry.tree)
    assert measured.code == 0, measured.text
    reports = measured.folder / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
    for name in ("robustness.noise_0db.loss", "robustness.words_20.weighted_f1", "int8.loss", "contribution.text"):
        assert metrics[f"test.{name}.low"] <= metrics[f"test.{name}"] <= metrics[f"test.{name}.high"]
    for name in (
        "test.calls.codec_gsm.weighted_f1",
        "test.calls.clean.ece",
        "champion.calls.codec_gsm.weighted_f1",
        "champion.calls.word_errors_20.difference",
    ):
        assert metrics[f"{name}.low"] <= metrics[f"{name}.high"]
    assert "test.calls.clean.loss" not in metrics and "test.calls.babble_0db.loss" not in metrics
    rules = {rule["rule"]: rule for rule in json.loads((reports / "verdict.json").read_text())}
    assert rules["call_loss"]["outcome"] == "promote" and rules["call_loss"]["bound"] == -1.0
    assert "test.slice.words.4-8.weighted_f1" in metrics and "champion.difference.weighted_f1.low" in metrics
    report = json.loads((reports / "run_report.json").read_text())
    assert report["runtime"]["runtime.dialogue_ms.p95"] > 0 < report["runtime"]["runtime.size_mb"]
    page = (reports / "run_report.html").read_text()
    assert "noise as loud as the" in page and "int8" in page and "all is well today" in page
    assert "Effects of real calls" in page and "shown to be worse than the previous champion" in page
    cards = [path.read_text() for path in (copy / "store" / "artifacts" / "ModelBundle").glob("*/README.md")]
    assert sum("Under the effects of real calls" in card and "and GSM 06.10 |" in card for card in cards) == 1


def test_the_bundle_has_its_provenance_and_an_example_that_predict_accepts(first_version: Registry) -> None:
    digest = first_version.versions()["1"]["bundle_digest"]
    folder = first_version.store.local_path(f"artifacts/ModelBundle/{digest}")
    bundle = ModelBundle.model_validate_json((folder / "manifest.json").read_text())
    assert bundle.provenance is not None and bundle.provenance.lock and not bundle.provenance.run.dirty
    assert {"mixture", "label map", "dataset", "speech base encoder", "text preprocessing"} <= set(bundle.digests)
    assert bundle.digests["mixture"] == bundle.files["mixture.safetensors"].sha256
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlanguage: en\nlicense: cc0-1.0\n") and "says nothing" in card.replace("say", "says")
    assert json.loads((folder / "bundle.json").read_text())["labels"] == bundle.labels
    from pipelines.cli.commands.predict import read_dialogue

    turns = read_dialogue(folder / "example" / "dialogue.json")
    expected = json.loads((folder / "example" / "expected.json").read_text())["probabilities"]
    assert len(turns) == len(expected) and all(turn.audio and turn.text for turn in turns)


def test_promote_and_rollback_change_champion_deployment_aliases_and_log(registry: Registry) -> None:
    promoted = registry.call("promote", "mistere@previous", "--reason", "Fewer false alarms.")
    assert promoted.returncode == 0, promoted.stderr
    assert registry.champion() == ("1", "1")
    # A pipe has no width, so that no sentence is wrapped.
    assert " by REST and gRPC; largest difference" in promoted.stdout
    assert "instead of version 2. A predictor that is running serves it after a restart.\n" in promoted.stdout
    assert registry.versions()["1"]["aliases"] == ["champion"]
    repeated = registry.call("promote", "1")
    assert repeated.returncode == 0 and "champion already" in repeated.stdout
    rolled_back = registry.call("rollback")
    assert rolled_back.returncode == 0, rolled_back.stderr
    assert registry.champion() == ("2", "2") and registry.versions()["1"]["aliases"] == ["previous"]
    log = registry.call("models", "--log").stdout
    assert "Fewer false alarms." in log and "rollback" in log and "Rolled back by hand from version 1." in log


def test_a_run_fails_if_the_registry_is_unreachable_and_a_rerun_completes_it(
    registry: Registry, tmp_path: Path
) -> None:
    before = registry.champion()
    command = ("run", "--profile", "tiny", "--data", str(registry.data))
    failed = registry.call(*command, "--tracking", "postgresql://mlflow:s3cret@127.0.0.1:9/mlflow")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "cannot be reached" in failed.stdout and "s3cret" not in failed.stdout + failed.stderr
    stages = Run(1, "", registry.output).stages
    assert stages["register_model"]["status"] == "failed" and "deploy_model" not in stages
    assert registry.champion() == before and stages["train_moe"]["status"] == "reused"
    rerun = registry.call(*command)
    assert rerun.returncode == 0 and registry.champion() == ("1", "1"), rerun.stdout
    assert registry.call("rollback").returncode == 0 and registry.champion() == before


def test_promote_changes_the_one_deployment_that_serves_the_champion(registry: Registry) -> None:
    store = registry.store
    deployment = read_deployment(store, "mistere")
    other = deployment.model_copy(update={"service": "other"})
    try:
        store.write(deployment_key("other"), other.model_dump_json().encode())
        refused = registry.call("promote", "1")
        assert refused.returncode == 2 and "several deployments (mistere, other)" in refused.stderr, refused.stderr
        assert registry.champion() == ("2", "2")
        lineage = read_lineage(store, registry.versions()["1"]["bundle_digest"])
        elsewhere = other.model_copy(
            update={"bundle_digest": lineage.bundle_digest, "bundle_location": lineage.bundle_location}
        )
        store.write(deployment_key("other"), elsewhere.model_dump_json().encode())
        promoted = registry.call("promote", "1")
        assert promoted.returncode == 0 and registry.champion() == ("1", "1"), promoted.stderr
        assert read_deployment(store, "other") == elsewhere
    finally:
        store.delete("deployments/other")
        if registry.champion()[0] != "2":
            assert registry.call("rollback").returncode == 0


def test_a_damaged_bundle_is_not_promoted(first_version: Registry, tmp_path: Path) -> None:
    copy = Registry(first_version.tree, first_version.data, tmp_path / "output")
    champion = first_version.champion()
    shutil.copytree(first_version.output, copy.output)
    digest = first_version.versions()["1"]["bundle_digest"]
    lineage, pointer = read_lineage(copy.store, digest), read_deployment(copy.store, "mistere")
    for location in (lineage.bundle_location, lineage.data_remote, pointer.bundle_location):
        assert Path(location).is_relative_to(copy.output) and Path(location).is_dir()
    weights = copy.store.local_path(f"artifacts/ModelBundle/{digest}/mixture.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = copy.call("promote", "1")
    assert refused.returncode == 1 and "mixture.safetensors has SHA-256" in refused.stderr
    assert "Traceback" not in refused.stderr and copy.champion() == champion


def test_damage_to_a_finished_store_is_named_and_nothing_is_overwritten(
    first_version: Registry, tmp_path: Path
) -> None:
    """Each record that a command reads, changed in a byte, truncated, emptied, zeroed and replaced by other JSON."""
    kinds: tuple[Callable[[bytes], bytes], ...] = (
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda data: bytes(len(data)),
        lambda _: b"[1, null, {}]",
    )
    store, version = first_version.store, first_version.versions()["1"]
    commands: dict[str, list[tuple[str, ...]]] = {
        "store/champion.json": [("models",), ("rollback",), ("promote", "1")],
        "store/deployments/mistere/deployment.json": [("promote", "1")],
        "store/deployments/mistere/journal.json": [("promote", "1")],
        f"store/{next(iter(store.keys('promotions')))}": [("models", "--log")],
        f"store/{lineage_key(version['bundle_digest'])}": [("promote", "1"), ("compare", "1", "1")],
    }
    for name, run_on in commands.items():
        for number, damage in enumerate(kinds):
            copy = tmp_path / f"{len(list(tmp_path.iterdir()))}"  # MLflow keeps connections to a file by its path
            shutil.copytree(first_version.output, copy, ignore=shutil.ignore_patterns("kfp", "vectors"))
            damaged = copy / name
            damaged.chmod(0o644)
            damaged.write_bytes(content := damage(damaged.read_bytes()))
            for command in run_on:
                result = mistere_in_process(*command, "--output", str(copy))
                assert result.returncode == 1, (name, number, result)
                assert str(damaged) in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
                assert damaged.read_bytes() == content
            shutil.rmtree(copy / "store")


def test_a_registry_that_lost_its_versions_is_reported(first_version: Registry, tmp_path: Path) -> None:
    shutil.copytree(first_version.output, tmp_path / "copy", ignore=shutil.ignore_patterns("kfp", "vectors"))
    (tmp_path / "copy" / "mlflow.db").write_bytes(b"")
    for command in (("models",), ("promote", "1"), ("compare", "1", "1")):
        result = mistere_in_process(*command, "--output", str(tmp_path / "copy"))
        assert result.returncode == 1 and "mlflow.db holds no version of mistere, although version" in result.stderr
        assert "restore the registry from a copy" in result.stderr


def test_a_version_from_uncommitted_code_can_be_neither_promoted_nor_replayed(first_version: Registry) -> None:
    champion = first_version.champion()
    key = lineage_key(first_version.versions()["1"]["bundle_digest"])
    before, _ = first_version.store.read(key)
    lineage = read_lineage(first_version.store, first_version.versions()["1"]["bundle_digest"])
    first_version.store.write(
        key,
        lineage.model_copy(update={"run": lineage.run.model_copy(update={"dirty": True})}).model_dump_json().encode(),
    )
    try:
        for command in ("promote", "replay"):
            refused = first_version.call(command, "1")
            assert refused.returncode == 1 and "uncommitted changes" in refused.stderr, refused.stderr
        assert first_version.champion() == champion
    finally:
        first_version.store.write(key, before)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("promote", "mistere@best"), 2, "there is no 'mistere@best'"),
        (("promote", "nobody"), 2, "has no model 'nobody'"),
        (("replay", "mistere/9"), 2, "there is no 'mistere/9'"),
        (("compare", "1", "9"), 2, "there is no '9'"),
    ],
)
def test_an_unknown_version_is_reported_in_one_sentence(
    first_version: Registry, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = first_version.call(*arguments)
    assert (result.returncode, result.stdout) == (code, "") and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_commands_report_an_output_without_a_run(tmp_path: Path) -> None:
    for command in ("models", "rollback"):
        result = mistere_in_process(command, "--output", str(tmp_path / "nothing"))
        assert result.returncode == 2 and "nothing has run in" in result.stderr


def test_compare_writes_one_page_about_two_versions(registry: Registry, tmp_path: Path) -> None:
    result = registry.call("compare", "2", "mistere@previous", "--page", str(tmp_path / "compare.html"))
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "compare.html").read_text()
    assert (
        "version 1" in page
        and "version 2" in page
        and "<script" not in page
        and "http://" not in page.replace("http://www.w3.org", "")
    )


def test_replay_reproduces_a_model_from_its_lineage(registry: Registry, tmp_path: Path) -> None:
    result = mistere(
        *("replay", "mistere@champion", "--work", str(tmp_path / "replay"), "--output", str(registry.output)),
        root=registry.tree,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SAME: all" in result.stdout and "the bundle is identical" in result.stdout
    (report,) = tmp_path.glob("replay/*/replay.json")
    replay = json.loads(report.read_text())
    assert replay["same"] and replay["compared"] > 50 and replay["environment"]["then"]["processor"]
    assert all(pair["then"] == pair["now"] for pair in replay["artifacts"].values())
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=registry.tree, capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.strip().splitlines()) == 1


def test_a_different_replay_names_the_first_artifact_that_differs(registry: Registry, tmp_path: Path) -> None:
    digest = registry.versions()["1"]["bundle_digest"]
    before, _ = registry.store.read(lineage_key(digest))
    lineage = read_lineage(registry.store, digest)
    lineage.config["mixture"]["seed"] = 5
    registry.store.write(lineage_key(digest), lineage.model_dump_json().encode())
    try:
        result = mistere(
            *("replay", "1", "--work", str(tmp_path / "replay"), "--output", str(registry.output)), root=registry.tree
        )
    finally:
        registry.store.write(lineage_key(digest), before)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "DIFFERENT" in result.stdout and "The first artifact that differs: mixture." in result.stdout
