"""A run that another client than mistere starts is completed from the ConfigMap, the image and the compiled profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.report_run.run import complete_registry
from components.resolve_inputs.run import STAGE, Resolved, resolve
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.data.latest import LATEST, LatestData
from mistere.engine.run_settings import run_context
from mistere.engine.stage import StageRecord, stage_record_key
from mistere.kubernetes.settings_keys import SETTINGS_KEYS
from mistere.runs.outcome import read_run_info
from pipelines.profiles import load_profile

JOB = "7d3c1c9e-6b0a-4a53-9d53-7f0f5f2f6a11"
"""Kubeflow Pipelines gives a run a UUID."""
PLACEHOLDER = "{{$.pipeline_job_uuid}}"


@pytest.fixture(scope="module")
def compiled() -> dict[str, Any]:
    config = load_profile("tiny")
    return {"profile": "tiny", "sections": config.parameters()}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalStore:
    """What the ConfigMap puts into the environment; the store holds published data."""
    store = LocalStore(tmp_path / "store")
    for key in SETTINGS_KEYS:
        monkeypatch.setenv(key, "")  # the manifests bring every key, some of them empty
    monkeypatch.setenv("MISTERE_STORE", store.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for variable in ("MISTERE_COMMIT", "MISTERE_VERSION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("components.resolve_inputs.preflight.check_tracking", lambda uri: None)  # there is no server
    latest = LatestData(digest="a" * 32 + ".dir", remote="s3://bucket/dvc", published_at=1.0)
    LATEST.move(store, LATEST.read(store).version, latest)
    return store


def resolved(compiled: dict[str, Any], run: dict[str, Any] | None = None, **given: dict[str, Any]) -> Resolved:
    """As the page of Kubeflow Pipelines starts a run: sections that are not given have their compiled default."""
    return resolve(run or {}, JOB, compiled, {**compiled["sections"], **given})


def test_a_run_without_arguments_gets_everything_from_the_config_map(
    settings: LocalStore, compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_COMMIT", "4f2a9c1")
    monkeypatch.setenv("MISTERE_VERSION", "v1.2-3-g4f2a9c1")
    context, values, sections, remaining, finished = resolved(compiled)
    assert (remaining, finished) == ("work", {})
    assert context == {
        "run_id": JOB,
        "profile": "tiny",
        "commit": "4f2a9c1",
        "dirty": False,
        "schedule": "",
        "store": settings.uri,
        "tracking_uri": "http://mlflow.example.org",
        "data_remote": "s3://bucket/dvc",
        "data_digest": "a" * 32 + ".dir",
        "inputs_digest": values["inputs"],
        "uncommitted": "",
    }
    assert values["code_state"] == "committed" and values["champion_digest"] == "none"
    assert sections == compiled["sections"]
    info = read_run_info(settings, JOB)
    assert info["config"] == sections and info["command"] == "started in Kubeflow Pipelines"
    assert info["data"]["dvc_digest"] == context["data_digest"]


def test_a_section_given_in_part_is_completed_from_the_compiled_profile(
    settings: LocalStore, compiled: dict[str, Any]
) -> None:
    # Kubeflow Pipelines hands numbers of a struct to a step as floats, and a value replaces the whole default.
    sections = resolved(
        compiled, mixture={"learning_rate": 0.001, "epochs": 3.0}, speech={"lora": {"rank": 2.0}}
    ).sections
    before = compiled["sections"]
    assert sections["mixture"] == {**before["mixture"], "learning_rate": 0.001, "epochs": 3}
    assert sections["speech"] == {**before["speech"], "lora": {**before["speech"]["lora"], "rank": 2}}
    assert sections["gate"] == before["gate"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mixture": {"learning_rte": 0.1}}, "unknown setting 'mixture.learning_rte'; did you mean 'learning_rate'?"),
        ({"gate": {"min_weighted_f": 0.1}}, "unknown setting 'gate.min_weighted_f'; did you mean 'min_weighted_f1'?"),
        ({"validation": {"max_second": 1}}, "unknown setting 'validation.max_second'; did you mean 'max_seconds'?"),
        ({"text": {"lora": {"rnk": 1}}}, "unknown setting 'text.lora.rnk'; did you mean 'rank'?"),
        (
            {"text": {"extraction": {"shards": 4.0}}},
            "text.extraction.shards=4: this pipeline was compiled for a single",
        ),
        ({"mixture": {"epochs": -1.0}}, "the run's parameters: mixture.epochs: Input should be greater than"),
    ],
)
def test_an_unknown_or_invalid_setting_ends_the_run_before_the_training(
    given: dict[str, Any], sentence: str, settings: LocalStore, compiled: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as refused:
        resolved(compiled, **given)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
    record = StageRecord.model_validate_json(settings.read(stage_record_key(JOB, STAGE.name))[0])
    assert (record.status, record.exit_code) == ("failed", 2) and sentence in record.message


@pytest.mark.parametrize(
    ("unset", "run", "sentence"),
    [
        (["MISTERE_STORE"], {}, 'does not know its store: set MISTERE_STORE in the ConfigMap mistere-settings'),
        (
            ["MISTERE_STORE", "MLFLOW_TRACKING_URI"],
            {},
            '"store": "s3://bucket/prefix", "tracking_uri": "https://mlflow.example.org"',
        ),
        (["MLFLOW_TRACKING_URI"], {"store": "s3://other/store"}, "does not know its tracking_uri"),
        ([], {"stores": "s3://other/store"}, "run: there is no field 'stores'; did you mean 'store'?"),
        ([], {"data_digest": "d" * 32}, "only one of data_digest (MISTERE_DATA_DIGEST) and data_remote"),
        ([], {"tracking_uri": "https://me:secret@mlflow.example.org"}, "contains credentials"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(
    unset: list[str], run: dict[str, Any], sentence: str, settings: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in unset:
        monkeypatch.delenv(variable)
    with pytest.raises(UsageError) as refused:
        run_context(run, JOB)
    message = str(refused.value)
    assert sentence in message and "\n" not in message and "secret@" not in message


def test_without_published_data_the_sentence_says_how_to_publish_or_pin(
    settings: LocalStore, compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.delete_object(LATEST.key)
    with pytest.raises(UsageError, match=r"mistere data publish.*MISTERE_DATA_REMOTE and MISTERE_DATA_DIGEST"):
        resolved(compiled)
    monkeypatch.setenv("MISTERE_DATA_REMOTE", "s3://bucket/pinned")
    monkeypatch.setenv("MISTERE_DATA_DIGEST", "b" * 32 + ".dir")
    context, *_ = resolve({}, "another-run", compiled, {})
    assert (context["data_remote"], context["data_digest"]) == ("s3://bucket/pinned", "b" * 32 + ".dir")


def test_data_given_for_a_run_replaces_both_settings_of_the_config_map(
    settings: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_DATA_REMOTE", "s3://bucket/pinned")
    monkeypatch.setenv("MISTERE_DATA_DIGEST", "b" * 32 + ".dir")
    context = run_context({"data_remote": "s3://bucket/mine", "data_digest": "c" * 32}, JOB)
    assert (context.data_remote, context.data_digest) == ("s3://bucket/mine", "c" * 32)
    with pytest.raises(UsageError, match="only one of"):
        run_context({"data_digest": "c" * 32}, JOB)


@pytest.mark.long
def test_the_namespace_of_the_config_map_applies_unless_the_run_names_one(
    settings: LocalStore, compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_NAMESPACE", "speech")
    assert resolved(compiled).sections["deployment"]["namespace"] == "speech"
    named = resolved(compiled, deployment={"namespace": "mine"})
    assert named.sections["deployment"]["namespace"] == "mine"
    submitted = {"run_id": "20261125-1", "store": settings.uri, "tracking_uri": "t", "profile": "tiny"}
    assert resolved(compiled, submitted).sections["deployment"]["namespace"] == "mistere"


def test_a_context_of_mistere_is_used_as_it_is(settings: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_COMMIT", "4f2a9c1")
    given = {"run_id": "20261125-1", "store": "s", "tracking_uri": "t", "data_digest": "", "commit": ""}
    context = run_context(given, PLACEHOLDER, "sample")
    assert json.loads(context.model_dump_json(include=set(given))) == given and not context.profile
    scheduled = run_context({**given, "schedule": "nightly/0123"}, JOB)
    assert scheduled.run_id == f"20261125-1-{JOB}"


@pytest.mark.parametrize("run", [{}, {"run_id": "n", "store": "s", "tracking_uri": "t", "schedule": "nightly/0123"}])
def test_a_run_that_needs_the_servers_id_is_refused_without_one(run: dict[str, Any], settings: LocalStore) -> None:
    with pytest.raises(UsageError, match=r"upgrade it to 2\.0\.2 or later"):
        run_context(run, PLACEHOLDER)


@pytest.mark.parametrize("run", [{"run_id": "mine"}, {"run_id": "mine", "tracking_uri": "http://mlflow.example.org"}])
def test_a_run_that_names_only_its_id_gets_the_rest_from_the_config_map(
    run: dict[str, Any], settings: LocalStore
) -> None:
    context = run_context(run, PLACEHOLDER, "tiny")
    assert (context.run_id, context.store, context.profile) == ("mine", settings.uri, "tiny")
    assert context.tracking_uri == "http://mlflow.example.org"


def test_a_folder_is_no_store_in_a_pod(settings: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UsageError, match="is a folder of the pod: name s3://bucket/prefix"):
        run_context({}, JOB)


@pytest.mark.long
def test_an_image_of_a_tree_with_uncommitted_changes_says_so(
    settings: LocalStore, compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolved(compiled).values["code_state"] == "unknown"
    monkeypatch.setenv("MISTERE_COMMIT", "4f2a9c1")
    monkeypatch.setenv("MISTERE_VERSION", "v1.2-3-g4f2a9c1-dirty")
    assert resolved(compiled).values["code_state"] == "uncommitted"
    run = {"commit": "4f2a9c1", "dirty": True, "uncommitted": "a.py, b.py"}
    assert resolved(compiled, run).values["code_state"] == "uncommitted: a.py, b.py"


def test_the_report_completes_its_section_and_survives_one_that_is_not_valid() -> None:
    compiled = {"sections": {"registry": {"model_name": "emotions", "experiment": "nightly"}}}
    assert complete_registry(compiled, {"experiment": "trial"})["model_name"] == "emotions"
    assert complete_registry(compiled, {"experiment": "trial"})["experiment"] == "trial"
    assert complete_registry(compiled, {"modelname": "x"}) == compiled["sections"]["registry"]
