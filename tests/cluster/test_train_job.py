"""The TrainJob of a multi-node training is valid and uses the settings of its step."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jsonschema
import pytest
import yaml

from components.finetune_encoder.nodes.train_job import train_job, train_job_name
from mistere.common.digests.code import closure
from mistere.common.paths import PROJECT_ROOT
from mistere.config.base import Toleration
from mistere.config.encoder import NodeSettings, TextConfig
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES
from tests.cluster.trainer import KEY, NAME, STEP_POD
from tests.manifests.pod_security import broken_rules
from tests.serving.test_inference_service import LOADER, strict

CRD = PROJECT_ROOT.parent / "shared" / "crds" / "trainer.kubeflow.org_trainjobs.yaml"
IMAGE = "registry.example/mistere-train@sha256:" + "b" * 64
EVERYTHING = TextConfig(
    num_nodes=3,
    processes=4,
    device="cuda",
    nodes=NodeSettings(
        cpu="16", memory="120Gi", node_selector={"pool": "gpu"}, tolerations=[Toleration(key="nvidia.com/gpu")]
    ),
)


def manifest(config: TextConfig = EVERYTHING) -> dict[str, Any]:
    return train_job(train_job_name("text", KEY), config, IMAGE, ("s3://bucket/store", "nodes/text/key"), STEP_POD)


def pod_of(content: dict[str, Any]) -> dict[str, Any]:
    (patch,) = content["spec"]["runtimePatches"]
    (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: dict[str, Any] = patched["template"]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("config", [EVERYTHING, TextConfig(num_nodes=2, device="cpu")], ids=["everything", "default"])
def test_the_manifest_is_valid_under_the_crd(config: TextConfig) -> None:
    if not CRD.is_file():
        pytest.skip("Kubeflow Trainer's CRDs are not beside this checkout")
    (version,) = yaml.load(CRD.read_text(encoding="utf-8"), LOADER)["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    content = manifest(config)
    assert content["apiVersion"] == f"trainer.kubeflow.org/{version['name']}"
    assert not [error.message for error in validator.iter_errors(content)]
    pod_of(content)["automountServiceAccountToken"] = False
    assert list(validator.iter_errors(content)), "a field that the CRD does not have is refused"


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, None),
        ({"device": "cpu"}, None),
        ({"device": "cuda"}, "1"),
        ({"device": "cuda", "processes": 4}, "4"),
        ({"nodes": NodeSettings(gpus=2)}, "2"),
        ({"device": "cuda", "nodes": NodeSettings(gpus=0)}, None),
    ],
    ids=str,
)
def test_nodes_request_gpus_only_where_they_are_wanted(settings: dict[str, Any], gpus: str | None) -> None:
    resources = manifest(TextConfig(num_nodes=2, **settings))["spec"]["trainer"]["resourcesPerNode"]
    assert resources["limits"].get("nvidia.com/gpu") == resources["requests"].get("nvidia.com/gpu") == gpus


def test_the_train_job_uses_the_queue_of_the_step() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "mistere", "pipeline/runid": "abc"}
    pod = {**STEP_POD, "metadata": {**STEP_POD["metadata"], "labels": labels}}
    content = train_job(NAME, EVERYTHING, IMAGE, (), pod)
    assert content["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "mistere"
    assert "pipeline/runid" not in content["metadata"]["labels"]


def test_nodes_use_the_pod_settings_of_the_step() -> None:
    content = manifest()
    assert content["metadata"]["name"] == NAME and content["metadata"]["namespace"] == "mistere"
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "mistere-x", "uid": "5f1d"}
    assert content["metadata"]["ownerReferences"] == [owner]
    pod, trainer = pod_of(content), content["spec"]["trainer"]
    assert pod["serviceAccountName"] == "mistere-pipeline" and pod["imagePullSecrets"] == [{"name": "registry"}]
    assert trainer["env"] == [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": "storage", "key": key, "optional": True}}}
        for key, variable in STORAGE_VARIABLES.items()
    ]


def test_nodes_get_the_variables_of_the_cluster_section() -> None:
    """The step's pod as Kubeflow Pipelines makes it of ``cluster.env``: KFP names a volume after its object."""
    folder = "/var/run/mistere/authorities/config-map-company"
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    texts = [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "SSL_CERT_FILE", "value": f"{folder}/ca.crt"},
    ]
    volume = {"name": "company", "configMap": {"name": "company"}}
    main = {
        "name": "main",
        "env": [token, *texts, {"name": "OTHER", "value": "x"}],
        "volumeMounts": [{"name": "company", "mountPath": folder}, {"name": "scratch", "mountPath": "/tmp"}],
    }
    spec = {**STEP_POD["spec"], "containers": [main], "volumes": [volume, {"name": "scratch", "emptyDir": {}}]}
    content = train_job(NAME, EVERYTHING, IMAGE, (), {**STEP_POD, "spec": spec})
    assert content["spec"]["trainer"]["env"] == [token, *texts]
    pod = pod_of(content)
    assert volume in pod["volumes"] and len(pod["volumes"]) == 3
    (container,) = pod["containers"]
    assert {"name": "company", "mountPath": folder, "readOnly": True} in container["volumeMounts"]


def test_nodes_are_restricted_and_declare_their_resources() -> None:
    content = manifest()
    pod, trainer = pod_of(content), content["spec"]["trainer"]
    assert not list(broken_rules(pod))
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True and "env" not in container
    assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "8", "memory": "120Gi", "nvidia.com/gpu": "4"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 4)
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    on_cpus = manifest(TextConfig(num_nodes=2, device="cpu"))["spec"]["trainer"]
    assert set(on_cpus["resourcesPerNode"]["limits"]) == {"cpu", "memory"}


def test_node_settings_do_not_change_step_keys() -> None:
    plain, with_node_settings = TextConfig(num_nodes=2), TextConfig(num_nodes=2, nodes=NodeSettings(memory="64Gi"))
    assert plain.keyed() == with_node_settings.keyed() and "num_nodes" in plain.keyed()
    assert not {"num_nodes", "nodes"} & set(plain.for_checkpoint())
    modules = closure("components.finetune_encoder.run")
    assert {f"components.finetune_encoder.{name}" for name in ("processes.worker", "training.trainer")} <= set(modules)
    assert "mistere.kubernetes.api" not in modules


def test_what_only_starts_other_processes_loads_no_trainer() -> None:
    """It would take seconds and 300 MB beside the processes that train."""
    code = (
        "import sys, components.finetune_encoder.nodes.launch, components.finetune_encoder.processes.local\n"
        "print(*sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []
