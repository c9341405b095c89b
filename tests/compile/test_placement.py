"""Each step of the compiled pipeline has the resources, timeout, retries, secrets, nodes and labels of its profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import UsageError
from mistere.config.cluster import ClusterConfig
from mistere.config.stages import stages
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES, TRACKING_KEYS, WEBHOOK_KEYS
from pipelines.compile import compile_pipeline
from pipelines.profiles import load_profile
from tests.compile.steps import OPTIONAL, SETTINGS_OF, stages_of, step_of
from tests.yaml_documents import documents

GIB = 2**30
UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}
PROFILES = {
    "tiny": [],
    "sample": [],
    "gpu": [],
    "paper": [],
    "sample with settings": [
        "cluster.steps.train_moe.gpus=1",
        "cluster.steps.train_moe.gpu_type=amd.com/gpu",
        "cluster.steps.finetune_encoder-speech.memory=48Gi",
        "cluster.steps.finetune_encoder-speech.shared_memory=8Gi",
        "cluster.steps.gate_model.retries=0",
        "cluster.steps.evaluate_model.node_selector={pool: batch}",
        "cluster.steps.evaluate_model.tolerations=[{key: batch, operator: Equal, value: only, effect: NoSchedule}]",
        "cluster.image_pull_secret=registry",
        "cluster.signing_secret=mistere-signing",
        "cluster.storage_secret=''",
        "cluster.labels={team: speech}",
        "cluster.env={HF_TOKEN: {secret: hub, key: token}, HTTPS_PROXY: 'http://proxy:3128', AWS_MAX_ATTEMPTS: 5, HF_ENDPOINT: "
        "{config_map: hub, key: url}, SSL_CERT_FILE: {config_map: company, key: ca.crt}, AWS_CA_BUNDLE: {config_map: company, key: ca.crt}}",
        "cluster.run_ttl=600",
    ],
}
QUICK = {"sample with settings"}
"""Tested by ``make test``; the others with the long tests."""


def parse_quantity(quantity: str) -> float:
    for unit, factor in UNITS.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * factor
    return float(quantity)


class Compiled:
    """A compiled pipeline with its settings by step."""

    def __init__(self, profile: str, settings: list[str], path: Path) -> None:
        compile_pipeline(profile, settings, path)
        self.spec, platform = documents(path.read_text())
        kubernetes = platform["platforms"]["kubernetes"]
        self.pods: dict[str, dict[str, Any]] = kubernetes["deploymentSpec"]["executors"]
        self.settings: dict[str, Any] = kubernetes["pipelineConfig"]
        self.containers = {
            name: executor["container"] for name, executor in self.spec["deploymentSpec"]["executors"].items()
        }
        self.retries: dict[str, Any] = {}
        self.steps: dict[str, tuple[str, str]] = {}
        self.stages: set[str] = set()
        for dag in [self.spec["root"], *self.spec["components"].values()]:
            for name, task in dag.get("dag", {}).get("tasks", {}).items():
                component = self.spec["components"][task["componentRef"]["name"]]
                if "executorLabel" in component:
                    label = component["executorLabel"]
                    modality = task["inputs"].get("parameters", {}).get("modality", {})
                    modality_name = modality.get("runtimeValue", {}).get("constant", "")
                    self.steps[label] = (SETTINGS_OF.get(step_of(name), step_of(name)), modality_name)
                    self.stages.update(stages_of(step_of(name)))
                    self.retries[label] = task.get("retryPolicy", {})


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in PROFILES]
)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Compiled, ClusterConfig]:
    profile, settings = request.param.split(" ")[0], PROFILES[request.param]
    path = tmp_path_factory.mktemp("compiled") / "retraining.yaml"
    return Compiled(profile, settings, path), load_profile(profile, settings).cluster


def test_each_step_has_the_settings_of_its_profile(compiled: tuple[Compiled, ClusterConfig]) -> None:
    pipeline, cluster = compiled
    assert pipeline.stages == set(stages()) - OPTIONAL
    for label, (stage, modality) in pipeline.steps.items():
        expected = cluster.step(stage, modality)
        resources, pod = pipeline.containers[label]["resources"], pipeline.pods[label]
        assert resources["resourceCpuRequest"] == expected.cpu and resources["resourceCpuLimit"] == expected.cpu_limit
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == expected.memory
        if expected.gpus:
            assert resources["accelerator"]["resourceType"] == expected.gpu_type
            assert int(resources["accelerator"]["resourceCount"]) == expected.gpus
        else:
            assert "accelerator" not in resources
        assert int(pod["activeDeadlineSeconds"]) == expected.timeout
        retry = pipeline.retries[label]
        assert int(retry.get("maxRetryCount", 0)) == expected.retries
        if expected.retries:
            # Argo kills a later attempt when this window from the first attempt's start has passed (seen on Argo 4.0.5).
            waits = sum(30 * 2**attempt for attempt in range(expected.retries))
            assert retry["backoffMaxDuration"] == f"{(expected.retries + 1) * expected.timeout + waits}s"
        assert pod["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        mounts = {mount["mountPath"]: mount for mount in pod["emptyDirMounts"]}
        assert mounts["/tmp"]["sizeLimit"] == expected.scratch
        assert mounts.get("/dev/shm", {}).get("sizeLimit", "") == expected.shared_memory
        assert pod.get("nodeSelector", {}).get("labels", {}) == expected.node_selector
        assert len(pod.get("tolerations", [])) == len(expected.tolerations)
        labels = pod["podMetadata"]["labels"]
        assert labels["mistere/stage"] == stage.replace("_", "-") and cluster.labels.items() <= labels.items()
        pulls = [pull["secretName"] for pull in pod.get("imagePullSecret", [])]
        assert pulls == ([cluster.image_pull_secret] if cluster.image_pull_secret else [])
    # The limits after success and failure come before the one after completion (seen on Argo 4.0.5).
    for event in ("Completion", "Success", "Failure"):
        assert int(pipeline.settings[f"resourceTtlOn{event}"]) == cluster.run_ttl


def test_requests_do_not_exceed_limits(compiled: tuple[Compiled, ClusterConfig]) -> None:
    for container in compiled[0].containers.values():
        resources = container["resources"]
        assert 0 < parse_quantity(resources["resourceCpuRequest"]) <= parse_quantity(resources["resourceCpuLimit"])
        assert (
            GIB / 2
            <= parse_quantity(resources["resourceMemoryRequest"])
            <= parse_quantity(resources["resourceMemoryLimit"])
        )


def expected_files(cluster: ClusterConfig, stage: str) -> tuple[dict[str, tuple[str, bool]], dict[str, str]]:
    """The secrets that a stage mounts as files (folder, optional), and the variables that name the files."""
    folder = "/var/run/secrets/mistere"
    if stage == "register_model" and cluster.signing_secret:
        files = {cluster.signing_secret: (f"{folder}/signing", False)}
        return files, {"MISTERE_SIGNING_KEY": f"{folder}/signing/signing.key"}
    if stage == "deploy_model" and cluster.image_pull_secret:
        files = {cluster.image_pull_secret: (f"{folder}/registry", True)}
        return files, {"REGISTRY_AUTH_FILE": f"{folder}/registry/.dockerconfigjson"}
    return {}, {}


def expected_environment(cluster: ClusterConfig) -> dict[str, str]:
    """The texts of ``cluster.env``, and the paths of mounted authorities."""
    if not cluster.env:
        return {}
    authorities = "/var/run/mistere/authorities/config-map-company/ca.crt"
    return {
        "HTTPS_PROXY": "http://proxy:3128",
        "AWS_MAX_ATTEMPTS": "5",
        "SSL_CERT_FILE": authorities,
        "AWS_CA_BUNDLE": authorities,
    }


def test_every_step_gets_the_variables_of_the_cluster_section(compiled: tuple[Compiled, ClusterConfig]) -> None:
    pipeline, cluster = compiled
    for pod in (pipeline.pods[label] for label in pipeline.steps):
        variables = [(one["configMapName"], one["keyToEnv"]) for one in pod.get("configMapAsEnv", [])]
        hub = ("hub", [{"configMapKey": "url", "envVar": "HF_ENDPOINT"}])
        assert (hub in variables) == ("HF_TOKEN" in str(pod.get("secretAsEnv"))) == bool(cluster.env)
        mounts = [(volume["configMapName"], volume["mountPath"]) for volume in pod.get("configMapAsVolume", [])]
        assert mounts == ([("company", "/var/run/mistere/authorities/config-map-company")] if cluster.env else [])


def test_each_step_references_the_secrets_it_needs(compiled: tuple[Compiled, ClusterConfig]) -> None:
    pipeline, cluster = compiled
    for label, (stage, _) in pipeline.steps.items():
        expected = {cluster.storage_secret: STORAGE_VARIABLES} if cluster.storage_secret else {}
        if stage in {"resolve_inputs", "finetune_encoder", "train_moe", "register_model", "deploy_model", "report_run"}:
            expected[cluster.tracking_secret] = {key: key for key in TRACKING_KEYS}
        if stage == "report_run":
            expected[cluster.webhook_secret] = {key: key for key in WEBHOOK_KEYS}
        secrets = {}
        for secret in pipeline.pods[label].get("secretAsEnv", []):
            if secret["secretName"] == "hub":
                assert not secret.get("optional") and secret["keyToEnv"] == [
                    {"secretKey": "token", "envVar": "HF_TOKEN"}
                ]
                continue
            assert secret["optional"] is True
            secrets[secret["secretName"]] = {key["secretKey"]: key["envVar"] for key in secret["keyToEnv"]}
        assert secrets == expected
        # With a root of s3:// and `fromEnv`, KFP 2.17's launcher takes AWS_… from the step's own environment.
        assert not any(name.startswith("AWS_") for variables in secrets.values() for name in variables.values())
        files: dict[str, tuple[str, bool]] = {}
        environment = {"MISTERE_RETRIES": str(cluster.step(*pipeline.steps[label]).retries)}
        for one in stages_of(step_of(label)):
            mounts, variables = expected_files(cluster, one)
            files, environment = files | mounts, environment | variables
        environment |= expected_environment(cluster)
        mounted = {
            volume["secretName"]: (volume["mountPath"], volume.get("optional", False))
            for volume in pipeline.pods[label].get("secretAsVolume", [])
        }
        assert mounted == files
        assert {one["name"]: one["value"] for one in pipeline.containers[label].get("env", [])} == environment


def test_gpu_profiles_request_gpus_for_encoder_steps_only() -> None:
    for profile in ("gpu", "paper"):
        config = load_profile(profile)
        for modality, section in (("speech", config.speech), ("text", config.text)):
            tuned = config.cluster.step("finetune_encoder", modality)
            assert section.device == "cuda" and tuned.gpus == section.processes
            assert tuned.shared_memory and config.cluster.step("embed_shard", modality).gpus == 1
        assert config.cluster.step("gate_model").gpus == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "cluster.steps.finetune_encoders.cpu='2'",
            "there is no step 'finetune_encoders'; did you mean 'finetune_encoder'?",
        ),
        ("cluster.steps.train_moe.cpus=2", "unknown setting 'cluster.steps.train_moe.cpus'; did you mean 'cpu'?"),
        ("cluster.steps.train_moe.memory=lots", "cluster.steps.train_moe.memory"),
        ("cluster.namespace=Not_A_Name", "cluster.namespace"),
    ],
)
def test_invalid_setting_is_rejected_with_one_sentence(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_profile("sample", [setting])
    assert message in str(error.value) and "\n" not in str(error.value)
