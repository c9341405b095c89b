"""The whole pipeline under kfp's local runner: a release, reruns, a rejection by the gate, serving, and the registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mistere as api
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.registry.release.champion import read_champion
from mistere.serving.client import DialogueClient
from tests.local.canaries import leaks
from tests.local.workshop import LABELS, ROOT, Run, make_dataset, mistere, mistere_in_process, rows, run

pytestmark = pytest.mark.long
"""A run of the whole pipeline takes a quarter of the time of all quick tests; `make run` runs it before them."""
ALWAYS = {"resolve_inputs", "register_model", "deploy_model", "report_run"}


def test_a_first_run_ends_with_a_champion_that_answered(first: Run, output: Path) -> None:
    assert first.code == 0, first.text
    assert "DEPLOYED" in first.text and "largest difference from the offline evaluation" in first.text
    champion = read_champion(LocalStore(output / "store")).champion
    assert champion is not None and champion.bundle_digest == first.stages["register_model"]["outputs"]["bundle"]
    assert all(record["status"] == "done" for record in first.stages.values())


def test_a_run_leaves_no_secret_of_its_environment_behind(first: Run, output: Path) -> None:
    assert not leaks([output], {"output": first.text})
    for name in ("arguments.json", "kfp.log", "events.jsonl"):
        (file,) = output.glob(f"runs/{first.folder.name}/{name}")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_registry_names_the_champion(first: Run, output: Path) -> None:
    from mlflow.tracking import MlflowClient

    version = MlflowClient(f"sqlite:///{output / 'mlflow.db'}").get_model_version_by_alias("mistere", "champion")
    assert version.tags["mistere.bundle_digest"] == first.stages["register_model"]["outputs"]["bundle"]
    assert version.tags["mistere.dvc_digest"].endswith(".dir")


def test_the_guides_snippet_loads_the_champion_through_mlflow(
    first: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / "release.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)  # MLflow creates a database in the current directory
    tracking = f"sqlite:///{output / 'mlflow.db'}"
    names: dict[str, Any] = {}
    exec(snippet.replace("sqlite:///output/mlflow.db", tracking), names)
    assert "modalities_used" in capsys.readouterr().out
    store = LocalStore(output / "store")
    champion = open_artifact(store, ModelBundle, read_champion(store).digest)
    assert not (champion.path / "registered_model_meta").exists()
    expected = api.load(champion.path).predict(["How was your day?", "I got the job!"])
    answer = names["model"].predict(names["table"])
    assert answer["label"].tolist() == expected.predicted
    np.testing.assert_allclose(answer["probabilities"].tolist(), expected.probabilities, rtol=0, atol=1e-6)
    run = mlflow.get_run(mlflow.MlflowClient(tracking).get_model_version_by_alias("mistere", "champion").run_id)
    assert run.info.end_time - run.info.start_time > 5000 and len(run.data.params) < 60
    assert f"experiments/{run.info.experiment_id}/runs?workflowType=machine_learning" in first.text


def test_the_reports_are_complete_and_load_nothing(first: Run) -> None:
    for name in ("run_report.html", "validation_report.html"):
        page = (first.folder / "reports" / name).read_text()
        assert (
            "</html>" in page
            and "<script" not in page
            and not re.search(r"https?://(?!www\.w3\.org|127\.0\.0\.1:5000)", page)
        )
    facts = json.loads((first.folder / "reports" / "run_report.json").read_text())
    assert facts["outcome"]["verdict"] == "deployed"
    page = (first.folder / "reports" / "run_report.html").read_text()
    chosen = page.partition("chosen by the size of train: ")[2].partition("</p>")[0]
    assert "input_dropout 0.4" in chosen and "learning_rate" not in chosen  # the profile states that one


@dataclass(frozen=True)
class Rerun:
    """The second run of the same configuration: exit code, output and records, kept because later runs replace them."""

    code: int
    text: str
    ran: set[str]
    stages: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def rerun(first: Run, output: Path, data: Path, tree: Path) -> Rerun:
    """A second run with the same inputs; the only difference is that a champion exists."""
    second = run(output, data, root=tree)
    return Rerun(second.code, second.text, second.ran, second.stages)


def test_an_unchanged_rerun_trains_nothing(rerun: Rerun, output: Path) -> None:
    assert rerun.code == 0, rerun.text
    # These three read the champion, which did not exist in the first run.
    assert rerun.ran == ALWAYS | {"validate_data", "evaluate_model", "gate_model"}
    # The drift is measured against the champion's dataset, which is the same.
    report = rerun.stages["validate_data"]["outputs"]["report"]
    drift = json.loads((output / "store" / "artifacts" / "ValidationReport" / report / "verdict.json").read_text())[
        "drift"
    ]
    assert {"labels", "duration", "level", "vocabulary"} <= drift.keys()
    assert all(measure["distance"] == 0 for measure in drift.values())


def test_a_third_run_computes_nothing(rerun: Rerun, output: Path, data: Path, tree: Path) -> None:
    third = run(output, data, root=tree)
    assert third.code == 0 and third.ran == ALWAYS


def test_a_changed_threshold_reruns_the_gate_alone_and_keeps_the_champion(
    rerun: Rerun, output: Path, data: Path, tree: Path
) -> None:
    before = read_champion(LocalStore(output / "store")).digest
    rejected = run(output, data, "gate.min_over_majority=0.999", root=tree)
    assert rejected.code == 3, rejected.text
    assert rejected.ran == {"resolve_inputs", "gate_model", "report_run"}
    assert "0.999" in rejected.text
    assert read_champion(LocalStore(output / "store")).digest == before


def test_a_damaged_artifact_is_named_and_computed_again(first: Run, output: Path, data: Path, tree: Path) -> None:
    digest = first.stages["train_moe"]["outputs"]["model"]
    weights = output / "store" / "artifacts" / "MoEModel" / digest / "mixture.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    for pattern in ("artifacts/EvaluationReport/*/predictions.parquet", "steps/gate_model/*.json", "vectors/*/*"):
        for path in (output / "store").glob(pattern):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1])
    repaired = run(output, data, root=tree)
    assert repaired.code == 0, repaired.text
    assert "mixture.safetensors has SHA-256" in repaired.text and "computed again" in repaired.text
    assert {
        "train_moe",
        "evaluate_model",
        "gate_model",
    } <= repaired.ran and "finetune_encoder-speech" not in repaired.ran
    assert repaired.stages["train_moe"]["outputs"]["model"] == digest


def test_the_champion_stays_if_the_smoke_test_fails(
    first: Run, output: Path, data: Path, tree: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(output, tmp_path / "output")
    (copy / "store" / "champion.json").unlink()
    shutil.rmtree(copy / "store" / "deployments")
    failed = run(copy, data, "deployment.ready_timeout=0.1", root=tree)
    assert failed.code == 1, failed.text
    assert "the smoke test failed, the champion stays" in failed.text and "Traceback" not in failed.text
    assert not (copy / "store" / "champion.json").exists()
    assert not (copy / "store" / "deployments" / "mistere" / "deployment.json").exists()


def test_the_deployed_model_is_served_and_queried_as_the_docs_say(first: Run, output: Path, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8").split("## Log\n")[0]
    serve, *queries = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (tmp_path / "output").symlink_to(output)
    with subprocess.Popen(["bash", "-c", f"exec {serve}"], cwd=tmp_path, env=environment) as server:
        try:
            DialogueClient("http://127.0.0.1:8080").wait_ready(60)
            answers = [
                subprocess.run(
                    ["bash", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
                )
                for block in queries
            ]
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 130, "as a program that Ctrl-C ends"
    assert len(answers) == 6
    assert any(label in answers[0].stdout for label in LABELS) and "model version" in answers[0].stdout
    decoder = json.JSONDecoder()
    v1, end = decoder.raw_decode(answers[1].stdout)
    v2, _ = decoder.raw_decode(answers[1].stdout[end:].lstrip())
    assert len(v1["predictions"][0]["label"]) == 2
    assert {tensor["name"] for tensor in v2["outputs"]} >= {"label", "probabilities", "expert_weights"}


def test_train_and_tune_use_the_embeddings_of_a_run(first: Run, output: Path, tmp_path: Path) -> None:
    source = ["--embeddings", str(output), "--profile", "tiny", "--set", "mixture.epochs=2"]
    alone = ["--set", "mixture.modalities=[text]", "--output", str(tmp_path / "text-only")]
    trained = mistere_in_process("train", *source, *alone)
    assert trained.returncode == 0, trained.stderr
    assert "text alone" in trained.stdout and (tmp_path / "text-only" / "report.html").is_file()
    tuned = mistere_in_process("tune", *source, "--trials", "1", "--output", str(tmp_path / "tune"))
    assert tuned.returncode == 0, tuned.stderr
    nowhere = mistere_in_process("train", "--embeddings", str(tmp_path), "--output", str(tmp_path / "none"))
    assert nowhere.returncode == 2 and not (tmp_path / "none").exists()


def test_the_registry_holds_the_training_curve_and_the_metrics_of_the_expert_gate(first: Run, output: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    version = client.get_model_version_by_alias("mistere", "champion")
    metrics = client.get_run(version.run_id).data.metrics
    assert {"test.gate.text.led", "test.gate.entropy", "test.ece", "test.missing.text.50.weighted_f1"} <= metrics.keys()
    curve = client.get_metric_history(version.run_id, "train_moe.gate.text.mean")
    assert [point.step for point in curve] == list(range(1, len(curve) + 1)) and curve


def test_a_port_in_use_is_reported(first: Run, output: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = mistere("serve", "--output", str(output), "--port", str(listener.getsockname()[1]))
    assert result.returncode == 1
    assert "in use" in result.stderr and "choose another --port." in result.stderr and result.stderr.count("\n") == 1
    assert "serving" not in result.stdout


def test_a_champion_evaluated_on_another_test_split_is_evaluated_on_this_one(
    first: Run, output: Path, tmp_path: Path, tree: Path
) -> None:
    def longer_test_texts():  # type: ignore[no-untyped-def]
        for split, utterance in rows():
            yield split, replace(utterance, text=f"{utterance.text} indeed") if split == "test" else utterance

    before = read_champion(LocalStore(output / "store")).digest
    copy = shutil.copytree(output, tmp_path / "output")
    second = run(copy, make_dataset(tmp_path / "tones", longer_test_texts()), root=tree)
    assert second.code == 0, second.text
    assert re.search("Weighted F1 (differs from|is exactly) the champion's", second.text)
    assert second.stages["resolve_inputs"]["values"]["champion_digest"] == before
