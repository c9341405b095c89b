"""The check of the compiled pipeline finds what KFP's driver refuses and its local runner accepts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from kfp.compiler import Compiler

from mistere.common.errors import MistereError
from mistere.common.paths import PROJECT_ROOT
from pipelines.compile import compile_pipeline
from pipelines.ir_check import check_pipeline, find_mismatches
from tests.yaml_documents import documents


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The committed pipeline."""
    text = (PROJECT_ROOT / "pipelines" / "retraining.yaml").read_text(encoding="utf-8")
    spec: dict[str, Any] = documents(text)[0]
    return spec


@pytest.fixture(scope="module")
def with_loops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pipeline whose encoders have several shards, with a third modality."""
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    third = "modalities={speech: {}, text: {}, face: {source: 'random:whisper', extraction: {shards: 2}}}"
    compile_pipeline("tiny", [third, "speech.extraction.shards=2", "text.extraction.shards=2"], path)
    spec: dict[str, Any] = documents(path.read_text(encoding="utf-8"))[0]
    return spec


@pytest.fixture
def spec(with_loops: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(with_loops)


def test_the_compiled_pipelines_have_no_mismatch(committed: dict[str, Any], with_loops: dict[str, Any]) -> None:
    for compiled_spec in (committed, with_loops):
        assert list(find_mismatches(compiled_spec)) == []
        check_pipeline(compiled_spec)


@dsl.component(base_image="image", install_kfp_package=False)  # type: ignore[untyped-decorator]
def list_untyped() -> list:  # type: ignore[type-arg]
    return []


@dsl.component(base_image="image", install_kfp_package=False)  # type: ignore[untyped-decorator]
def list_structs() -> list[dict]:  # type: ignore[type-arg]
    return []


@dsl.component(base_image="image", install_kfp_package=False)  # type: ignore[untyped-decorator]
def consume(item: dict) -> None:  # type: ignore[type-arg]
    return None


def compiled(producer: Any, path: Path) -> dict[str, Any]:
    @dsl.pipeline(name="loop")  # type: ignore[untyped-decorator]
    def pipeline() -> None:
        with dsl.ParallelFor(producer().output) as item:
            consume(item=item)

    Compiler().compile(pipeline, str(path))
    spec: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return spec


def test_a_loop_over_an_untyped_list_is_a_mismatch(tmp_path: Path) -> None:
    """Seen on KFP 2.17.0: ``input parameter "item" type mismatch: expect STRUCT, got string``."""
    (mismatch,) = find_mismatches(compiled(list_untyped, tmp_path / "loop.yaml"))
    assert "input 'item' is declared STRUCT and gets STRING" in mismatch


def test_a_loop_over_a_list_of_structs_is_accepted(tmp_path: Path) -> None:
    assert list(find_mismatches(compiled(list_structs, tmp_path / "loop.yaml"))) == []


def training_tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """The tasks of the branch that runs if the data is valid."""
    tasks: dict[str, Any] = spec["components"]["comp-condition-3"]["dag"]["tasks"]
    return tasks


def rename_output(spec: dict[str, Any]) -> None:
    outputs = spec["components"]["comp-train-moe"]["outputDefinitions"]["artifacts"]
    outputs["mixture"] = outputs.pop("model")


def change_artifact(spec: dict[str, Any]) -> None:
    model = spec["components"]["comp-train-moe"]["outputDefinitions"]["artifacts"]["model"]
    model["artifactType"]["schemaTitle"] = "system.EncoderCheckpoint"


def declare_one_artifact_instead_of_a_list(spec: dict[str, Any]) -> None:
    del spec["components"]["comp-extract-embeddings"]["inputDefinitions"]["artifacts"]["shards"]["isArtifactList"]


def remove_binding(spec: dict[str, Any]) -> None:
    del training_tasks(spec)["train-moe"]["inputs"]["parameters"]["mixture"]


def add_input(spec: dict[str, Any]) -> None:
    training_tasks(spec)["train-moe"]["inputs"]["parameters"]["seed"] = {"runtimeValue": {"constant": 1.0}}


def change_constant(spec: dict[str, Any]) -> None:
    training_tasks(spec)["finetune-encoder"]["inputs"]["parameters"]["modality"] = {"runtimeValue": {"constant": 1.0}}


def remove_dependency(spec: dict[str, Any]) -> None:
    training_tasks(spec)["evaluate-model"]["dependentTasks"].remove("train-moe")


def depend_on_a_missing_task(spec: dict[str, Any]) -> None:
    training_tasks(spec)["train-moe"]["dependentTasks"].append("train-mixture")


def remove_component(spec: dict[str, Any]) -> None:
    del spec["components"]["comp-gate-model"]


def remove_executor(spec: dict[str, Any]) -> None:
    del spec["deploymentSpec"]["executors"]["exec-gate-model"]


def change_parameter(spec: dict[str, Any]) -> None:
    spec["components"]["comp-train-moe"]["inputDefinitions"]["parameters"]["mixture"]["parameterType"] = "STRING"


def change_default(spec: dict[str, Any]) -> None:
    spec["root"]["inputDefinitions"]["parameters"]["gate"]["defaultValue"] = "strict"


def loop_over_a_struct(spec: dict[str, Any]) -> None:
    loop = spec["components"]["comp-for-loop-4"]["inputDefinitions"]["parameters"]
    loop["pipelinechannel--resolve-inputs-speech_shards"]["parameterType"] = "STRUCT"


def rename_item(spec: dict[str, Any]) -> None:
    training_tasks(spec)["for-loop-4"]["parameterIterator"]["itemInput"] = "item"


def loop_over_constants(spec: dict[str, Any]) -> None:
    training_tasks(spec)["for-loop-4"]["parameterIterator"]["items"] = {"raw": '[{"shard": 0}, 1]'}


def change_condition(spec: dict[str, Any]) -> None:
    tasks = training_tasks(spec)
    (policy,) = (task["triggerPolicy"] for name, task in tasks.items() if name.startswith("condition-"))
    policy["condition"] = policy["condition"].replace("gate-model-Output", "gate-Output")


def remove_loop_output(spec: dict[str, Any]) -> None:
    spec["components"]["comp-for-loop-4"]["dag"]["outputs"]["artifacts"].clear()


MUTATIONS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (rename_output, "output 'model' of task 'train-moe', which does not exist"),
    (change_artifact, "gets system.EncoderCheckpoint from output 'model' of task 'train-moe'"),
    (declare_one_artifact_instead_of_a_list, "input 'shards' takes one artifact and gets a list"),
    (remove_binding, "its required input 'mixture' is not bound"),
    (add_input, "its component has no input 'seed'"),
    (change_constant, "input 'modality' is declared STRING and gets the constant 1.0"),
    (remove_dependency, "comes from task 'train-moe', for which the task does not wait"),
    (depend_on_a_missing_task, "it waits for the missing task 'train-mixture'"),
    (remove_component, "refers to the missing component 'comp-gate-model'"),
    (remove_executor, "component 'comp-gate-model' has no executor"),
    (change_parameter, "input 'mixture' is declared STRING and gets STRUCT"),
    (change_default, "the pipeline's default for 'gate' is not of its type STRUCT"),
    (loop_over_a_struct, "it loops over 'pipelinechannel--resolve-inputs-speech_shards', which is not a list"),
    (rename_item, "its component has no input 'item' for the item of its loop"),
    (loop_over_constants, "the item of its loop is declared STRUCT and gets the constant 1"),
    (change_condition, "its condition refers to 'pipelinechannel--gate-Output', which is not among its inputs"),
    (remove_loop_output, "its output 'pipelinechannel--embed-shard-vectors' comes from no task"),
]


@pytest.mark.parametrize(("mutate", "phrase"), MUTATIONS, ids=[mutate.__name__ for mutate, _ in MUTATIONS])
def test_each_kind_of_mismatch_is_found(
    mutate: Callable[[dict[str, Any]], None], phrase: str, spec: dict[str, Any]
) -> None:
    mutate(spec)
    assert any(phrase in mismatch for mismatch in find_mismatches(spec)), list(find_mismatches(spec))
    with pytest.raises(MistereError, match="Kubeflow Pipelines would refuse this pipeline at run time"):
        check_pipeline(spec)
