"""``mistere models``, ``promote``, ``rollback``, ``compare`` and ``replay`` on models that the pipeline has made."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.registry.champion import read_champion
from mistere.registry.lineage import lineage_key, read_lineage
from mistere.serving.deployment import deployment_key, read_deployment
from tests.local.workshop import Run, mistere, mistere_in_process, run


@dataclass(frozen=True)
class Registry:
    """A committed tree and an output folder with two versions of a model, the second of which is champion."""

    tree: Path
    data: Path
    output: Path
    first: Run
    second: Run

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.output / "store")

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call a command; those that run the pipeline run that of the committed tree."""
        everything = (*arguments, "--output", str(self.output))
        return mistere(*everything, root=self.tree) if arguments[0] == "run" else mistere_in_process(*everything)

    def versions(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self.call("models", "--json").stdout)
        return {one["version"]: one for one in found}

    def champion(self) -> tuple[str, str]:
        """Version of the champion, and of what is deployed."""
        champion = read_champion(self.store).champion
        assert champion is not None
        return champion.model_version, read_deployment(self.store, "mistere").model_version


EVERYTHING = [f"evaluation.{name}=true" for name in ("robustness", "int8", "runtime", "speaker_probe")]


@pytest.fixture(scope="module")
def registry(tree: Path, first: Run, output: Path, data: Path) -> Registry:
    second = run(output, data, "mixture.seed=1", root=tree)
    assert first.code == second.code == 0, first.text + second.text
    return Registry(tree, data, output, first, second)


def test_two_versions_with_aliases_code_and_data(registry: Registry) -> None:
    versions = registry.versions()
    assert versions["2"]["aliases"] == ["challenger", "champion"] and versions["1"]["aliases"] == ["previous"]
    assert versions["2"]["champion"] and not versions["2"]["dirty"] and len(versions["2"]["commit"]) == 40
    assert versions["1"]["dataset"] == "tones" and versions["1"]["dvc_digest"].endswith(".dir")
    table = registry.call("models").stdout
    assert "challenger, champion" in table and versions["1"]["bundle_digest"][:12] in table
    log = json.loads(registry.call("models", "--log", "--json").stdout)
    assert [event["outcome"] for event in log] == ["done", "done"] and log[1]["by"].startswith("run ")


@pytest.mark.long
def test_everything_that_can_be_measured_was(registry: Registry, tmp_path: Path) -> None:
    copy = shutil.copytree(registry.output, tmp_path / "output")
    measured = run(copy, registry.data, "mixture.seed=2", *EVERYTHING, root=registry.tree)
    assert measured.code == 0, measured.text
    reports = measured.folder / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
    for name in ("robustness.noise_0db.loss", "robustness.words_20.weighted_f1", "int8.loss", "contribution.text"):
        assert metrics[f"test.{name}.low"] <= metrics[f"test.{name}"] <= metrics[f"test.{name}.high"]
    assert "test.slice.words.4-8.weighted_f1" in metrics and "champion.difference.weighted_f1.low" in metrics
    told = json.loads((reports / "run_report.json").read_text())
    assert told["runtime"]["runtime.dialogue_ms.p95"] > 0 < told["runtime"]["runtime.size_mb"]
    page = (reports / "run_report.html").read_text()
    assert "noise as loud as the" in page and "int8" in page and "all is well today" in page


def test_the_bundle_says_what_it_is_and_holds_an_example_that_predict_takes(registry: Registry) -> None:
    digest = registry.versions()["2"]["bundle_digest"]
    folder = registry.store.local_path(f"artifacts/ModelBundle/{digest}")
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


def test_promote_and_rollback_move_everything_and_say_why(registry: Registry) -> None:
    promoted = registry.call("promote", "mistere@previous", "--reason", "It was kinder.")
    assert promoted.returncode == 0, promoted.stderr
    assert registry.champion() == ("1", "1")
    assert "instead of version 2" in promoted.stdout and "largest difference" in promoted.stdout
    assert registry.versions()["1"]["aliases"] == ["champion"]
    again = registry.call("promote", "1")
    assert again.returncode == 0 and "champion already" in again.stdout
    back = registry.call("rollback")
    assert back.returncode == 0, back.stderr
    assert registry.champion() == ("2", "2") and registry.versions()["1"]["aliases"] == ["previous"]
    log = registry.call("models", "--log").stdout
    assert "It was kinder." in log and "rollback" in log and "Rolled back by hand from version 1." in log


@pytest.mark.long
def test_a_registry_that_is_down_fails_the_run_there_and_a_rerun_completes_it(
    registry: Registry, tmp_path: Path
) -> None:
    before = registry.champion()
    command = ("run", "--profile", "tiny", "--data", str(registry.data))
    down = registry.call(*command, "--tracking", "postgresql://mlflow:s3cret@127.0.0.1:9/mlflow")
    assert down.returncode == 1, down.stdout + down.stderr
    assert "cannot be reached" in down.stdout and "s3cret" not in down.stdout + down.stderr
    stages = Run(1, "", registry.output).stages
    assert stages["register_model"]["status"] == "failed" and "deploy_model" not in stages
    assert registry.champion() == before and stages["train_moe"]["status"] == "reused"
    again = registry.call(*command)
    assert again.returncode == 0 and registry.champion() == ("1", "1"), again.stdout
    assert registry.call("rollback").returncode == 0 and registry.champion() == before


@pytest.mark.long
def test_of_several_deployments_the_champion_s_is_moved(registry: Registry) -> None:
    store = registry.store
    mine = read_deployment(store, "mistere")
    other = mine.model_copy(update={"service": "other"})
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


def test_a_damaged_bundle_is_not_promoted(registry: Registry, tmp_path: Path) -> None:
    copy = Registry(registry.tree, registry.data, tmp_path / "output", registry.first, registry.second)
    shutil.copytree(registry.output, copy.output)
    digest = registry.versions()["1"]["bundle_digest"]
    lineage = read_lineage(copy.store, digest)
    moved = lineage.model_copy(update={"bundle_location": str(copy.output / "store/artifacts/ModelBundle" / digest)})
    copy.store.write(lineage_key(digest), moved.model_dump_json().encode())
    weights = copy.store.local_path(f"artifacts/ModelBundle/{digest}/mixture.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = copy.call("promote", "1")
    assert refused.returncode == 1 and "mixture.safetensors has SHA-256" in refused.stderr
    assert "Traceback" not in refused.stderr and copy.champion() == ("2", "2")


def test_what_no_commit_holds_says_so_and_cannot_be_promoted_nor_replayed(registry: Registry) -> None:
    key = lineage_key(registry.versions()["1"]["bundle_digest"])
    before, _ = registry.store.read(key)
    lineage = read_lineage(registry.store, registry.versions()["1"]["bundle_digest"])
    registry.store.write(
        key,
        lineage.model_copy(update={"run": lineage.run.model_copy(update={"dirty": True})}).model_dump_json().encode(),
    )
    try:
        for command in ("promote", "replay"):
            refused = registry.call(command, "1")
            assert refused.returncode == 1 and "uncommitted changes" in refused.stderr, refused.stderr
        assert registry.champion() == ("2", "2")
    finally:
        registry.store.write(key, before)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("promote", "mistere@best"), 2, "there is no 'mistere@best'"),
        (("promote", "nobody"), 2, "has no model 'nobody'"),
        (("replay", "mistere/9"), 2, "there is no 'mistere/9'"),
        (("compare", "1", "9"), 2, "there is no '9'"),
    ],
)
def test_a_version_that_is_not_there_is_one_sentence(
    registry: Registry, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = registry.call(*arguments)
    assert (done.returncode, done.stdout) == (code, "") and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_where_nothing_has_run_it_is_said(tmp_path: Path) -> None:
    for command in ("models", "rollback"):
        done = mistere_in_process(command, "--output", str(tmp_path / "nothing"))
        assert done.returncode == 2 and "nothing has run in" in done.stderr


def test_compare_writes_one_page_about_two_versions(registry: Registry, tmp_path: Path) -> None:
    done = registry.call("compare", "2", "mistere@previous", "--page", str(tmp_path / "compare.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "compare.html").read_text()
    assert (
        "version 1" in page
        and "version 2" in page
        and "<script" not in page
        and "http://" not in page.replace("http://www.w3.org", "")
    )


@pytest.mark.long
def test_a_model_is_made_again_from_its_lineage_alone(registry: Registry, tmp_path: Path) -> None:
    done = mistere(
        *("replay", "mistere@champion", "--work", str(tmp_path / "replay"), "--output", str(registry.output)),
        root=registry.tree,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SAME: all" in done.stdout and "the bundle is identical" in done.stdout
    (report,) = tmp_path.glob("replay/*/replay.json")
    told = json.loads(report.read_text())
    assert told["same"] and told["compared"] > 50 and told["environment"]["then"]["processor"]
    assert all(pair["then"] == pair["now"] for pair in told["artifacts"].values())
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=registry.tree, capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.strip().splitlines()) == 1


@pytest.mark.long
def test_a_replay_that_differs_says_what_and_from_where_on(registry: Registry, tmp_path: Path) -> None:
    digest = registry.versions()["1"]["bundle_digest"]
    before, _ = registry.store.read(lineage_key(digest))
    lineage = read_lineage(registry.store, digest)
    lineage.config["mixture"]["seed"] = 5
    registry.store.write(lineage_key(digest), lineage.model_dump_json().encode())
    try:
        done = mistere(
            *("replay", "1", "--work", str(tmp_path / "replay"), "--output", str(registry.output)), root=registry.tree
        )
    finally:
        registry.store.write(lineage_key(digest), before)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "DIFFERENT" in done.stdout and "The first artifact that differs: mixture." in done.stdout
