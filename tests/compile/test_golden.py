"""The committed pipeline is up to date, and every step uses a locked image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mistere.common.errors import UsageError
from mistere.config.stages import PipelineName, stages
from mistere.kubernetes.images import IMAGES_LOCK
from mistere.runs.outcome import EXIT_HANDLER
from pipelines.catalogue import DISTILLATION, find_pipeline
from pipelines.combined_steps import ENCODER, RELEASED
from pipelines.compile import compile_pipeline
from pipelines.images import lock_text
from pipelines.profiles import load_profile
from tests.compile.steps import stages_of, step_of
from tests.yaml_documents import documents

GOLDEN = Path(__file__).resolve().parents[2] / "pipelines" / "retraining.yaml"
STEPS = {
    "resolve-inputs",
    "pull-data",
    "validate-data",
    "embed-utterances",
    "embed-utterances-2",
    "finetune-encoder",
    "finetune-encoder-2",
    "train-moe",
    "evaluate-model",
    "gate-model",
    "register-model",
    "deploy-model",
    "release-finished",
    "report-run",
}


def test_committed_pipeline_is_up_to_date(tmp_path: Path) -> None:
    compile_pipeline("sample", [], tmp_path / "retraining.yaml")
    assert (tmp_path / "retraining.yaml").read_text() == GOLDEN.read_text(), "run `make compile`"


@pytest.mark.parametrize("name", ["scoring", "monitoring"])
def test_committed_further_pipelines_are_up_to_date_and_run_locked_images(name: PipelineName, tmp_path: Path) -> None:
    compile_pipeline("sample", [], tmp_path / f"{name}.yaml", name)
    golden = GOLDEN.with_name(f"{name}.yaml")
    assert (tmp_path / f"{name}.yaml").read_text() == golden.read_text(), "run `make compile`"
    spec = documents(golden.read_text())[0]
    executors = spec["deploymentSpec"]["executors"]
    handler = {EXIT_HANDLER} if find_pipeline(name).reports else set()
    steps = {executor.removeprefix("exec-").replace("-", "_") for executor in executors}
    assert steps == set(stages(pipeline=name)) | handler
    images = set(yaml.safe_load(IMAGES_LOCK.read_text())["images"].values())
    assert {executor["container"]["image"] for executor in executors.values()} <= images
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"run", name} and all("defaultValue" in one for one in parameters.values())


def test_committed_distillation_is_up_to_date_and_runs_locked_images(tmp_path: Path) -> None:
    compile_pipeline("sample", [], tmp_path / "distillation.yaml", "distillation")
    golden = GOLDEN.with_name("distillation.yaml")
    assert (tmp_path / "distillation.yaml").read_text() == golden.read_text(), "run `make compile`"
    spec = documents(golden.read_text())[0]
    executors = spec["deploymentSpec"]["executors"]
    compiled = {stage for executor in executors for stage in stages_of(step_of(executor))}
    assert compiled == set(stages(pipeline="distillation")) | {EXIT_HANDLER}
    images = set(yaml.safe_load(IMAGES_LOCK.read_text())["images"].values())
    assert {executor["container"]["image"] for executor in executors.values()} <= images
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"run", *DISTILLATION.parameters(load_profile("sample"))}
    assert all("defaultValue" in one for one in parameters.values())


@pytest.mark.long
@pytest.mark.parametrize("profile", ["tiny", "sample", "gpu", "paper"])
def test_every_profile_deploys_to_a_cluster(profile: str, tmp_path: Path) -> None:
    compile_pipeline(profile, [], tmp_path / "pipeline.yaml")
    with pytest.raises(UsageError, match=r"set deployment\.mode=standard or deployment\.mode=knative") as refused:
        compile_pipeline(profile, ["deployment.mode=local"], tmp_path / "local.yaml")
    assert refused.value.exit_code == 2 and not (tmp_path / "local.yaml").exists()


def test_image_tags_match_the_source_hash() -> None:
    assert IMAGES_LOCK.read_text() == lock_text(), "run `make compile`"


def pipeline_spec() -> dict[str, Any]:
    """Return the pipeline's YAML document; the second document holds Kubernetes settings."""
    return dict(documents(GOLDEN.read_text())[0])


def test_each_step_runs_a_locked_image() -> None:
    images = set(yaml.safe_load(IMAGES_LOCK.read_text())["images"].values())
    executors = pipeline_spec()["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-") for name in executors} == STEPS
    assert {executor["container"]["image"] for executor in executors.values()} <= images


def test_kfp_caches_no_step() -> None:
    """A step that KFP skips would leave no record under the run's id, and KFP does not see a purged store."""
    spec = pipeline_spec()
    tasks = {}
    for dag in [spec["root"], *spec["components"].values()]:
        tasks.update(dag.get("dag", {}).get("tasks", {}))
    assert not [name for name in STEPS if tasks[name].get("cachingOptions", {}).get("enableCache")]


def test_pipeline_has_at_most_ten_parameters_and_no_secret() -> None:
    parameters = pipeline_spec()["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) <= 10
    text = yaml.safe_dump(pipeline_spec()).lower()
    assert not any(word in text for word in ("password", "secret_key", "aws_access", "token="))


def test_every_parameter_has_a_default() -> None:
    """A run from the page is refused with 400 otherwise: ``parameter run is not optional`` (KFP 2.17.0, backend/src/apiserver)."""
    parameters = pipeline_spec()["root"]["inputDefinitions"]["parameters"]
    assert [name for name, parameter in parameters.items() if "defaultValue" not in parameter] == []


def test_pipeline_outputs_metrics_confusion_matrix_and_report() -> None:
    output_types = {
        output["artifactType"]["schemaTitle"]
        for component in pipeline_spec()["components"].values()
        for output in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert {"system.Metrics", "system.ClassificationMetrics", "system.HTML"} <= output_types


@pytest.mark.long
@pytest.mark.parametrize("source", ["", "random:whisper"])
def test_the_step_transcribe_is_compiled_only_where_it_transcribes(source: str, tmp_path: Path) -> None:
    """Without it, a run has no pod for it, and the encoders are trained on what validation accepted."""
    compile_pipeline("tiny", [f"data.transcription.source={source}"], tmp_path / "pipeline.yaml")
    spec = documents((tmp_path / "pipeline.yaml").read_text())[0]
    tasks = {}
    for component in spec["components"].values():
        tasks.update(component.get("dag", {}).get("tasks", {}))
    assert ("transcribe" in tasks) == bool(source)
    read = tasks["finetune-encoder"]["inputs"]["artifacts"]["utterances"]
    if source:
        assert read["taskOutputArtifact"] == {"producerTask": "transcribe", "outputArtifactKey": "transcribed"}
    else:
        assert read["componentInputArtifact"].endswith("validate-data-accepted")


def test_the_release_of_a_finished_model_gets_what_register_model_gets() -> None:
    (inner,) = (
        one["dag"]["tasks"]
        for one in pipeline_spec()["components"].values()
        if "register-model" in one.get("dag", {}).get("tasks", {})
    )
    stage, output = ENCODER
    tasks = {"speech": stage.replace("_", "-"), "text": f"{stage.replace('_', '-')}-2"}
    expected = {
        name: f"pipelinechannel--{task.replace('_', '-')}-{output}" for name, (task, output) in RELEASED.items()
    } | {f"{modality}_encoder": f"pipelinechannel--{task}-{output}" for modality, task in tasks.items()}
    artifacts = inner["register-model"]["inputs"]["artifacts"]
    assert {name: source["componentInputArtifact"] for name, source in artifacts.items()} == expected
