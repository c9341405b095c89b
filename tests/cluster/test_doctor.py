"""``mistere doctor``: every check passes in a healthy environment; each failure is one sentence that says how to fix it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistere.kubernetes.images import ImageReference, image
from pipelines.cli.commands.doctor import doctor
from pipelines.cli.doctor.groups import (
    clock,
    cluster,
    dataset,
    images,
    kubeflow,
    local_machine,
    serving,
    storage,
    tracking,
)
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult
from pipelines.sign_images import sign
from tests.cluster.doctor_checks import (  # noqa: F401 - fixtures
    cluster_results,
    ignore_this_machine,
    plan,
    results_of,
    serve_kubernetes_api,
    serve_pipelines_api,
    troubles,
)
from tests.cluster.mounted_pod import json_web_token
from tests.cluster.signed_images import new_key, public, push
from tests.local.servers import free_port
from tests.stand_ins.doctor_cluster import KubernetesApi, PipelinesApi
from tests.stand_ins.doctor_registry import Registry, TroubledS3
from tests.stand_ins.http_server import HttpServer, Reply, running
from tests.stand_ins.image_registry import Registry as SigningRegistry
from tests.unit.conftest import s3_endpoint, s3_store  # noqa: F401 - fixtures

# Kubeflow Pipelines


def test_a_healthy_kubeflow_passes(pipelines_api: PipelinesApi) -> None:
    for number in range(5):
        pipelines_api.schedule(f"nightly-{number}", "v1")
    results = results_of(kubeflow.group(plan(host=f"{pipelines_api.url}/")))
    assert troubles(results) == {}
    assert f"version 2.17.0 at {pipelines_api.url}" in results["the server"].sentence
    assert results["schedules"].sentence.startswith("5, each")
    assert len([request for request in pipelines_api.received if "/versions/v1" in request]) == 5


def test_single_user_kubeflow_is_queried_without_a_namespace(pipelines_api: PipelinesApi) -> None:
    pipelines_api.health = {"multi_user": False}
    assert troubles(results_of(kubeflow.group(plan(host=pipelines_api.url)))) == {}


def test_the_token_is_sent_and_never_printed(pipelines_api: PipelinesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines_api.token = "hush-hush"
    monkeypatch.setenv("KFP_TOKEN", "hush-hush")
    assert troubles(results_of(kubeflow.group(plan(host=pipelines_api.url)))) == {}


PIPELINES_TROUBLE: dict[str, tuple[Callable[[PipelinesApi], Any], str, str, str]] = {
    "a namespace that is another's": (
        lambda api: api.namespaces.clear(),
        "namespace",
        "failed",
        "does not allow access to runs in namespace 'mistere' (403): set cluster.namespace to a namespace of yours, or have "
        "its owner add you",
    ),
    "a pipeline that was deleted": (
        lambda api: api.pipelines.clear(),
        "pipeline",
        "note",
        "no pipeline mistere-retraining yet, or it was deleted: `mistere submit` uploads it",
    ),
    "a schedule of a deleted version": (
        lambda api: [api.schedule(name, version) for name, version in (("a", "v1"), ("b", "v1"), ("nightly", "v9"))],
        "schedules",
        "failed",
        "the schedule nightly runs a pipeline version that was deleted: `mistere schedule apply`",
    ),
    "an old version": (
        lambda api: api.health.update(tag_name="1.8.5"),
        "the server",
        "failed",
        "is Kubeflow Pipelines 1.8.5, and the pipeline needs 2.0 or newer",
    ),
    "a login page": (
        lambda api: setattr(api, "trouble", Reply(302, b"", {"Location": "/dex/auth"})),
        "token",
        "failed",
        "is behind a login: put a token that it accepts into KFP_TOKEN",
    ),
    "a login that forbids": (
        lambda api: setattr(api, "trouble", Reply(403, b"<html>", {"Content-Type": "text/html"})),
        "token",
        "failed",
        "is behind a login: put a token that it accepts into KFP_TOKEN",
    ),
    "a page for people": (
        lambda api: setattr(api, "trouble", Reply(200, b"<html>", {"Content-Type": "text/html"})),
        "the server",
        "failed",
        "behind Kubeflow's dashboard it ends in /pipeline",
    ),
    "something else at that address": (
        lambda api: setattr(api, "trouble", Reply(404, b"<html>", {"Content-Type": "text/html"})),
        "the server",
        "failed",
        "answers, but not as Kubeflow Pipelines 2 does",
    ),
    "trouble of its own": (
        lambda api: setattr(api, "trouble", Reply(503, {})),
        "the server",
        "failed",
        "server error (503)",
    ),
}


@pytest.mark.parametrize("trouble", PIPELINES_TROUBLE)
def test_kubeflow_failures_are_reported(trouble: str, pipelines_api: PipelinesApi) -> None:
    spoil, check, status, message_part = PIPELINES_TROUBLE[trouble]
    spoil(pipelines_api)
    result = results_of(kubeflow.group(plan(host=pipelines_api.url)))[check]
    assert (result.status, message_part in result.sentence) == (status, True), result


@pytest.mark.parametrize(
    ("token", "message_part"),
    [
        ("", "requires a token (401): put one into KFP_TOKEN"),
        ("stale", "does not accept the token in KFP_TOKEN (401): it may have expired"),
        (json_web_token(exp=1.6e9), "it expired on 2020-09-13 12:26 UTC"),
        (
            json_web_token(exp=4e9),
            "is valid until 2096-10-02 07:06 UTC: the Kubernetes API, which reviews it, may be away",
        ),
        (json_web_token(exp=4e9, aud=["https://kubernetes.default.svc"]), "not for 'pipelines.kubeflow.org'"),
    ],
)
def test_a_rejected_token_is_reported(
    token: str, message_part: str, pipelines_api: PipelinesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines_api.token = "the right one"
    monkeypatch.setenv("KFP_TOKEN", token)
    results = results_of(kubeflow.group(plan(host=pipelines_api.url)))
    assert results["the server"].status == "ok" and results["token"].status == "failed"
    assert message_part in results["token"].sentence and "stale" not in results["token"].sentence
    assert results["namespace"].status == results["schedules"].status == "failed"


def test_unresponsive_hosts_are_reported(pipelines_api: PipelinesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cli.doctor.http_probe.TIMEOUT_SECONDS", (0.3, 0.3))
    pipelines_api.silent = True
    for host, message_part in (
        (pipelines_api.url, "did not answer in time"),
        (f"http://127.0.0.1:{free_port()}", "cannot be reached: check the address, and the VPN or port-forward"),
        (f"https://127.0.0.1:{pipelines_api.port}", "certificate"),
        ("http://no-such-host.invalid", "cannot be reached"),
        ("localhost:8888", "is not a URL: write it as https://"),
        ("http://[half", "is not a URL"),
    ):
        results = results_of(kubeflow.group(plan(host=host)))
        assert results["the server"].status == "failed" and message_part in results["the server"].sentence, results
        assert results["token, namespace, pipeline and schedules"].sentence == "they need the server."


# Kubernetes


@pytest.mark.parametrize("profile", ["sample", "gpu", "paper"])
def test_a_healthy_cluster_passes(profile: str, kubernetes_api: KubernetesApi) -> None:
    results = cluster_results(profile=profile)
    assert troubles(results) == {}
    assert "v1.36.1" in results["the API"].sentence and "v0.20.0" in results["KServe"].sentence
    assert results["KServe's mode"].sentence == "Standard." and "on 2 of 2 nodes" in results["train"].sentence


def test_without_a_kubeconfig_the_cluster_checks_are_skipped() -> None:
    results = results_of(cluster.group(cluster.Cluster(plan())))
    assert {result.status for result in results.values()} == {"skipped"} and len(results) == 2
    assert "there is no kubeconfig (KUBECONFIG, ~/.kube/config)" in results["the API"].sentence


def quota(**hard: str) -> list[dict[str, Any]]:
    named = {name.replace("_", "."): value for name, value in hard.items()}
    return [{"metadata": {"name": "team"}, "spec": {"hard": named}, "status": {"hard": named, "used": {}}}]


def put(tail: str, value: Any) -> Callable[[KubernetesApi], None]:
    return lambda api: api.objects.update({api.at(tail): value})


def add(path: str, value: Any) -> Callable[[KubernetesApi], None]:
    return lambda api: api.objects.update({path: value})


def drop(tail: str) -> Callable[[KubernetesApi], None]:
    return lambda api: api.drop(tail)


def without_gpus(api: KubernetesApi) -> None:
    api.objects[api.at("/nodes")].pop()


def _kserve_container(api: KubernetesApi) -> dict[str, Any]:
    containers = api.objects[api.at("kserve-controller-manager")]["spec"]["template"]["spec"]["containers"]
    return next(container for container in containers if "kserve" in container["image"])  # type: ignore[no-any-return]


CLUSTER_TROUBLE: dict[str, tuple[Callable[[KubernetesApi], Any], tuple[str, ...], str, str, str]] = {
    "an expired login": (
        lambda api: setattr(api, "token", "another"),
        (),
        "the API",
        "failed",
        "(401): the token has expired",
    ),
    "no namespace": (drop("/namespaces/mistere"), (), "namespace mistere", "failed", "there is no namespace mistere"),
    "a namespace that ends": (
        put("/namespaces/mistere", {"metadata": {"name": "mistere"}, "status": {"phase": "Terminating"}}),
        (),
        "namespace mistere",
        "failed",
        "is being deleted",
    ),
    "a namespace that is forbidden": (
        lambda api: api.forbidden.append("/namespaces/mistere$"),
        (),
        "namespace mistere",
        "skipped",
        "these credentials may not read the namespace mistere",
    ),
    "no account of the steps": (
        drop("/serviceaccounts/mistere-pipeline"),
        (),
        "account of the steps",
        "failed",
        "there is no service account mistere-pipeline in namespace mistere",
    ),
    "no secret of the store": (
        drop("/secrets/mistere-storage"),
        (),
        "of the store",
        "failed",
        "there is no secret mistere-storage in namespace mistere, so pods cannot open the store: `kubectl",
    ),
    "a secret with a mistyped key": (
        put("/secrets/mistere-storage", KubernetesApi.secret("AWS_ACCESS_KEY_ID", "AWS_SECRET_KEY")),
        (),
        "of the store",
        "failed",
        "lacks AWS_SECRET_ACCESS_KEY (it has AWS_SECRET_KEY, probably for 'AWS_SECRET_ACCESS_KEY')",
    ),
    "an option of the predictor in the store's secret": (
        put(
            "/secrets/mistere-storage",
            KubernetesApi.secret("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MISTERE_PREDICTOR_INT8"),
        ),
        ("deployment.mode=standard", "deployment.storage_secret=mistere-storage"),
        "of the predictor",
        "note",
        "the secret mistere-storage has MISTERE_PREDICTOR_INT8, which reaches no pod",
    ),
    "no webhook": (
        drop("/secrets/mistere-webhook"),
        (),
        "of the webhook",
        "note",
        "no notification is sent when a run ends",
    ),
    "secrets that are forbidden": (
        lambda api: api.forbidden.append("/secrets/"),
        (),
        "of the store",
        "skipped",
        "may not read secrets in namespace mistere",
    ),
    "no pull secret": (
        lambda api: None,
        ("cluster.image_pull_secret=registry",),
        "of the image registry",
        "failed",
        "there is no image pull secret registry in namespace mistere",
    ),
    "no pull secret of the predictor": (
        add("/api/v1/namespaces/serving", {"metadata": {"name": "serving"}}),
        ("deployment.mode=standard", "deployment.namespace=serving", "deployment.image_pull_secret=registry"),
        "of the predictor's registry",
        "failed",
        "there is no image pull secret registry in namespace serving: `kubectl -n serving create secret docker-registry registry …`, or "
        "leave deployment.image_pull_secret empty",
    ),
    "a pull secret of another kind": (
        lambda api: api.objects.update({"/api/v1/namespaces/mistere/secrets/registry": api.secret("password")}),
        ("cluster.image_pull_secret=registry",),
        "of the image registry",
        "failed",
        "is not an image pull secret (its type is Opaque)",
    ),
    "no signing secret": (
        lambda api: None,
        ("cluster.signing_secret=mistere-signing",),
        "of the signatures",
        "failed",
        "there is no secret mistere-signing in namespace mistere, so register_model cannot start: `kubectl -n mistere create",
    ),
    "a signing secret with another key": (
        add("/api/v1/namespaces/mistere/secrets/mistere-signing", KubernetesApi.secret("sining.key")),
        ("cluster.signing_secret=mistere-signing",),
        "of the signatures",
        "failed",
        "lacks signing.key (it has sining.key, probably for 'signing.key')",
    ),
    "a signing secret": (
        add("/api/v1/namespaces/mistere/secrets/mistere-signing", KubernetesApi.secret("signing.key")),
        ("cluster.signing_secret=mistere-signing",),
        "of the signatures",
        "ok",
        "mistere-signing has signing.key",
    ),
    "no secret of a variable": (
        lambda api: None,
        ("cluster.env={HF_TOKEN: {secret: hub, key: token}}",),
        "of HF_TOKEN",
        "failed",
        "there is no secret hub in namespace mistere, so no step's pod can start: create it with the key token, or remove cluster.env.HF_TOKEN",
    ),
    "a variable's ConfigMap with another key": (
        add("/api/v1/namespaces/mistere/configmaps/company", {"data": {"ca.cert": "x"}}),
        ("cluster.env={SSL_CERT_FILE: {config_map: company, key: ca.crt}}",),
        "of SSL_CERT_FILE",
        "failed",
        "the ConfigMap company lacks ca.crt (it has ca.cert, probably for 'ca.crt'): add it",
    ),
    "a variable's secret": (
        add("/api/v1/namespaces/mistere/secrets/hub", KubernetesApi.secret("token")),
        ("cluster.env={HF_TOKEN: {secret: hub, key: token}}",),
        "of HF_TOKEN",
        "ok",
        "the secret hub has token",
    ),
    "no secret of a variable where the predictor is": (
        add("/api/v1/namespaces/mistere/secrets/hub", KubernetesApi.secret("token")),
        (
            "cluster.env={HF_TOKEN: {secret: hub, key: token}}",
            "deployment.mode=standard",
            "deployment.namespace=serving",
        ),
        "of the predictor's HF_TOKEN",
        "failed",
        "there is no secret hub in namespace serving, so no predictor's pod can start: create it with the key token, or remove cluster.env.HF_TOKEN",
    ),
    "no KServe": (
        drop("/apis/serving.kserve.io/v1beta1"),
        ("deployment.mode=standard",),
        "KServe",
        "failed",
        "KServe is not installed (no inferenceservices.serving.kserve.io): install it",
    ),
    "no KServe, where none is needed": (
        drop("/apis/serving.kserve.io/v1beta1"),
        ("deployment.mode=local",),
        "KServe",
        "note",
        "which deployment.mode=local does not need",
    ),
    "an old KServe": (
        lambda api: _kserve_container(api).update(image="kserve/kserve-controller:v0.11.2"),
        ("deployment.mode=standard",),
        "KServe",
        "failed",
        "version v0.11.2 is too old to deploy to: update KServe to 0.16 or later",
    ),
    "a KServe that is down": (
        lambda api: api.objects[api.at("kserve-controller-manager")]["status"].clear(),
        (),
        "KServe",
        "failed",
        "controller is not running",
    ),
    "Knative mode without Knative": (
        lambda api: None,
        ("deployment.mode=knative",),
        "KServe's mode",
        "failed",
        "Knative Serving is not installed",
    ),
    "Knative as the default without Knative": (
        put("/inferenceservice-config", {"data": {"deploy": '{"defaultDeploymentMode": "Serverless"}'}}),
        ("deployment.mode=standard",),
        "KServe's mode",
        "note",
        "the cluster's default is Knative; the deployment overrides it with standard in an annotation",
    ),
    "a profile for GPUs where there is none": (
        without_gpus,
        ("gpu",),
        "GPU nodes",
        "failed",
        "no node has any nvidia.com/gpu, and the profile gpu asks for them in finetune_encoder-speech",
    ),
    "more GPUs than a node has": (
        lambda api: None,
        ("gpu", "cluster.steps.finetune_encoder-text.gpus=8"),
        "GPU nodes",
        "failed",
        "finetune_encoder-text fits on no node (gpu-1 has 4 nvidia.com/gpu, it asks for 8)",
    ),
    "training nodes with more GPUs than a node has": (
        lambda api: None,
        ("text.num_nodes=2", "text.nodes.gpus=8", "text.nodes.tolerations=[{operator: Exists}]"),
        "GPU nodes",
        "failed",
        "a node of the text encoder fits on no node (gpu-1 has 4 nvidia.com/gpu, it asks for 8): change text.nodes",
    ),
    "training nodes that are too large": (
        lambda api: None,
        ("speech.num_nodes=2", "speech.nodes.memory=999Gi"),
        "largest step",
        "failed",
        "a node of the speech encoder fits on no node",
    ),
    "a quota that all training nodes exceed together": (
        put("/resourcequotas", quota(limits_memory="40Gi")),
        ("text.num_nodes=3",),
        "quotas",
        "failed",
        "3 times a node of the text encoder asks for 51539607552 of limits.memory, and the quota team allows 40Gi",
    ),
    "a taint that is not tolerated": (
        lambda api: None,
        ("gpu", "cluster.steps.evaluate_model.tolerations=[]"),
        "GPU nodes",
        "failed",
        "evaluate_model fits on no node (gpu-1 has the taint nvidia.com/gpu",
    ),
    "nodes that are too small": (
        lambda api: None,
        ("cluster.steps.train_moe.memory=999Gi",),
        "largest step",
        "failed",
        "train_moe fits on no node (cpu-1 has 64Gi memory, it asks for 999Gi)",
    ),
    "labels that no node has": (
        lambda api: None,
        ("cluster.steps.train_moe.node_selector={pool: batch}",),
        "largest step",
        "failed",
        "lacks the labels of its node_selector",
    ),
    "nodes that are forbidden": (
        lambda api: api.forbidden.append("/nodes$"),
        (),
        "largest step",
        "skipped",
        "may not list nodes",
    ),
    "a quota that is exceeded": (
        put("/resourcequotas", quota(limits_memory="1Gi")),
        ("cluster.steps.finetune_encoder-speech.memory=6Gi",),
        "quotas",
        "failed",
        "finetune_encoder-speech asks for 6Gi of limits.memory, and the quota team allows 1Gi",
    ),
    "a quota of GPUs": (
        put(
            "/resourcequotas",
            [{"metadata": {"name": "team"}, "spec": {}, "status": {"hard": {"requests.nvidia.com/gpu": "0"}}}],
        ),
        ("gpu",),
        "quotas",
        "failed",
        "asks for 1 of requests.nvidia.com/gpu, and the quota team allows 0",
    ),
    "a quota that others use up": (
        put(
            "/resourcequotas",
            [{"metadata": {"name": "team"}, "spec": {}, "status": {"hard": {"cpu": "8"}, "used": {"cpu": "7950m"}}}],
        ),
        (),
        "quotas",
        "note",
        "will wait: 7950m of 8 cpu",
    ),
    "a limit range that is too low": (
        put(
            "/limitranges",
            [{"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}],
        ),
        (),
        "limits",
        "failed",
        "pull_data has a limit of 2 cpu, and small allows 1",
    ),
    "images that no node has": (
        lambda api: [node["status"].update(images=[]) for node in api.objects[api.at("/nodes")]],
        (),
        "predictor",
        "note",
        "its name contains no registry: load it into the nodes (`kind load docker-image",
    ),
}


@pytest.mark.parametrize("trouble", CLUSTER_TROUBLE)
def test_cluster_failures_are_reported(trouble: str, kubernetes_api: KubernetesApi) -> None:
    spoil, settings, check, status, message_part = CLUSTER_TROUBLE[trouble]
    spoil(kubernetes_api)
    profile, settings = ("gpu", settings[1:]) if settings[:1] == ("gpu",) else ("sample", settings)
    result = cluster_results(*settings, profile=profile)[check]
    assert (result.status, message_part in result.sentence) == (status, True), result


def test_an_unavailable_or_failing_kubernetes_api_is_reported(
    kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.doctor.http_probe.TIMEOUT_SECONDS", (0.3, 0.3))
    kubernetes_api.trouble = Reply(503, {"kind": "Status", "code": 503})
    for message_part in ("answered 503", "did not answer in time", "cannot be reached"):
        assert message_part in results_of(cluster.group(cluster.Cluster(plan())))["the API"].sentence
        if kubernetes_api.silent:
            kubernetes_api.close()
        kubernetes_api.trouble, kubernetes_api.silent = None, True


def test_an_invalid_kubeconfig_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text('{"current-context": "gone"}')
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    result = results_of(cluster.group(cluster.Cluster(plan())))["the API"]
    assert result.status == "failed" and "there is no access to a Kubernetes cluster" in result.sentence
    assert "set KUBECONFIG to a kubeconfig with a current context" in result.sentence


def test_a_workload_identity_needs_no_secret(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.drop("/secrets/mistere-storage")
    for name in ("mistere-pipeline", "mistere-predictor"):
        account = kubernetes_api.objects[kubernetes_api.at(f"/serviceaccounts/{name}")]
        account["metadata"]["annotations"] = {"eks.amazonaws.com/role-arn": f"arn:aws:iam::1:role/{name}"}
    results = cluster_results("deployment.mode=standard")
    assert results["of the store"].status == "ok"
    assert results["of the predictor"].sentence == "none: the service account mistere-predictor has a cloud identity."
    assert cluster_results("cluster.storage_secret=''")["of the store"].status == "ok"


def test_trainer_is_checked_if_a_section_uses_several_nodes(kubernetes_api: KubernetesApi) -> None:
    connection = cluster.Cluster(plan())
    assert "Kubeflow Trainer" not in results_of(serving.group(connection))
    training = CheckGroup(
        "Training", [Check("Kubeflow Trainer", lambda: serving.trainer(connection, ["speech", "text"]))]
    )
    assert results_of(training)["Kubeflow Trainer"].status == "ok"
    kubernetes_api.drop("/apis/trainer.kubeflow.org/v1alpha1")
    result = results_of(training)["Kubeflow Trainer"]
    assert result.status == "failed" and "(no trainjobs.trainer.kubeflow.org)" in result.sentence
    assert "speech.num_nodes and text.num_nodes need it" in result.sentence
    several = cluster.Cluster(plan("sample", "speech.num_nodes=2"))
    assert results_of(serving.group(several))["Kubeflow Trainer"].status == "failed"


def test_permissions_of_the_step_service_account_are_checked(kubernetes_api: KubernetesApi) -> None:
    connection = cluster.Cluster(plan())

    def look() -> CheckResult:
        verbs = ("get", "create", "patch")
        return connection.may("mistere-pipeline", verbs, "serving.kserve.io", "inferenceservices", "mistere")

    group = CheckGroup("Rights", [Check("right", look)])
    assert results_of(group)["right"].status == "ok"
    kubernetes_api.denied_verbs.update({"create", "patch"})
    result = results_of(group)["right"]
    assert result.status == "failed" and "may not create, patch inferenceservices.serving.kserve.io" in result.sentence
    kubernetes_api.forbidden.append("/localsubjectaccessreviews$")
    assert results_of(group)["right"].status == "skipped"


def test_the_deployment_mode_selects_the_checks(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.denied_verbs.add("patch")
    local = plan("sample", "deployment.mode=local", host="https://kfp.example.org")
    assert results_of(cluster.group(cluster.Cluster(local)))["right to deploy"].status == "ok"
    refused = results_of(local_machine.group(local))["deployment"]
    assert refused.status == "failed" and "set deployment.mode=standard or deployment.mode=knative" in refused.sentence
    assert results_of(local_machine.group(plan()))["deployment"].status == "ok", "`mistere run` deploys locally"
    remote = plan(host="https://kfp.example.org")
    assert results_of(local_machine.group(remote))["deployment"].sentence == "deployment.mode=standard."
    long = ("deployment.gateway.name=public", "deployment.canary.window_seconds=3600")
    refused = results_of(local_machine.group(plan("sample", *long, host="https://kfp.example.org")))["deployment"]
    assert "cluster.steps.deploy_model.timeout=3600 ends it before" in refused.sentence and refused.exit_code == 2
    served = cluster_results("deployment.mode=standard", "deployment.storage_secret=serving")
    assert served["right to deploy"].status == "failed" and served["KServe's mode"].status == "ok"
    assert "there is no secret serving in namespace mistere" in served["of the predictor"].sentence
    remote = plan("sample", "deployment.mode=knative", host="https://kfp.example.org")
    cut = results_of(local_machine.group(remote))["deployment"]
    assert cut.status == "note" and "ends each stream of live audio after 300 s" in cut.sentence
    knative = cluster_results("deployment.mode=knative")["KServe's mode"]
    assert knative.status == "failed" and "Knative Serving is not installed" in knative.sentence


# Images in a registry


@pytest.mark.parametrize(
    ("state", "status", "message_part"),
    [
        ("there", "ok", "is in its registry"),
        ("there, with a token for all", "ok", "is in its registry"),
        ("missing", "failed", "does not exist: build and push it"),
        ("private", "skipped", "requires a login: nodes need the image pull secret"),
        ("in trouble", "skipped", "answers with an error (500)"),
        ("away", "skipped", "cannot be reached from here: nodes may still pull it"),
    ],
)
def test_images_are_checked_in_their_registry(
    state: str, status: str, message_part: str, kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Registry()) as registry:
        registry.login, registry.private = "token" in state, state == "private"
        if "there" in state:
            registry.images.add("team/mistere:src-1")
        if state == "in trouble":
            registry.trouble = Reply(500, {})
        port = free_port() if state == "away" else registry.port
        name = f"127.0.0.1:{port}/team/mistere:src-1"
        monkeypatch.setattr(
            "mistere.kubernetes.images._images", lambda: dict.fromkeys(("pipeline", "train", "predictor"), name)
        )
        result = results_of(images.group(cluster.Cluster(plan())))["train"]
    assert (result.status, message_part in result.sentence) == (status, True), result


@pytest.mark.parametrize(
    ("state", "status", "message_part"),
    [
        ("unsigned", "failed", "is not signed by the key of deployment.image_key: it has no signature"),
        ("signed", "ok", "is signed by the key of deployment.image_key"),
        ("away", "skipped", "cannot be reached"),
        ("local", "failed", "names no registry"),
    ],
)
def test_signature_of_the_predictor_is_checked_where_a_key_is_configured(
    state: str,
    status: str,
    message_part: str,
    kubernetes_api: KubernetesApi,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("mistere.kubernetes.image_registry._RETRY_DELAYS", ())
    key = new_key()
    with running(SigningRegistry()) as registry:
        name = str(push(registry.host, "predictor"))
        if state == "signed":
            sign(ImageReference.parse(name, "the test"), key)
        names = {"away": f"127.0.0.1:{free_port()}/mistere/predictor-python:src-0123456789ab"}
        names["local"] = "localhost/mistere/predictor-python:src-0123456789ab"
        monkeypatch.setattr(
            "mistere.kubernetes.images._images",
            lambda: dict.fromkeys(("pipeline", "train", "predictor"), names.get(state, name)),
        )
        results = results_of(images.group(cluster.Cluster(plan("sample", f"deployment.image_key={public(key)}"))))
    result = results["signature of predictor"]
    assert (result.status, message_part in result.sentence) == (status, True), result


# The store


@pytest.fixture
def troubled(s3_store: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TroubledS3, str]]:  # noqa: F811
    with running(TroubledS3(s3_endpoint)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server, s3_store.uri


def test_checking_a_healthy_store_leaves_it_unchanged(troubled: tuple[TroubledS3, str]) -> None:
    server, uri = troubled
    results = results_of(storage.group(plan(store=uri)))
    assert troubles(results) == {} and len(results) == 8
    assert "doctor/" in " ".join(server.received)
    import boto3

    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="mistere-tests", Prefix=uri.split("/")[-1])


@pytest.mark.parametrize(
    ("method", "refusal", "check", "message_part"),
    [
        ("PUT", (403, "AccessDenied"), "put", "these credentials lack s3:PutObject"),
        ("DELETE", (403, "AccessDenied"), "delete", "lack s3:DeleteObject"),
        ("PUT", (403, "RequestTimeTooSkewed"), "put", "refuses this machine's clock: set it from the network"),
        ("PUT", (400, "ExpiredToken"), "put", "have expired: get new ones"),
        ("PUT", (403, "SignatureDoesNotMatch"), "put", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ("PUT", (404, "NoSuchBucket"), "put", "create it, or correct its name"),
    ],
)
def test_store_failures_are_reported(
    method: str, refusal: tuple[int, str], check: str, message_part: str, troubled: tuple[TroubledS3, str]
) -> None:
    server, uri = troubled
    server.refuses[method] = refusal
    results = results_of(storage.group(plan(store=uri)))
    assert results[check].status == "failed" and message_part in results[check].sentence, results
    assert results["list"].status in {"ok", "failed"}


def test_a_store_without_conditional_puts_is_detected(troubled: tuple[TroubledS3, str]) -> None:
    server, uri = troubled
    server.forgets_conditions = True
    results = troubles(results_of(storage.group(plan(store=uri))))
    assert list(results) == ["conditional put"]
    assert "two releases could overwrite each other" in results["conditional put"].sentence


def test_stores_unreachable_from_pods_are_reported(
    troubled: tuple[TroubledS3, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert troubles(results_of(storage.group(plan(store=str(tmp_path / "store"))))) == {}
    result = results_of(storage.group(plan(store=str(tmp_path), host="https://kfp.example.org")))["the store"]
    assert result.status == "failed" and "is a folder of this machine, which pods cannot reach" in result.sentence
    result = results_of(storage.group(plan(host="https://kfp.example.org")))["the store"]
    assert result.status == "failed" and "no store is named" in result.sentence
    assert results_of(storage.group(plan()))["the store"].status == "skipped"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    result = results_of(storage.group(plan(store=troubled[1])))["the store"]
    assert result.status == "failed" and "the S3 server at http://127.0.0.1" in result.sentence


# MLflow


def test_mlflow_addresses_are_checked(pipelines_api: PipelinesApi) -> None:
    kfp = "https://kfp.example.org"
    for uri, host, status, message_part in (
        ("", "", "skipped", "no tracking server is named"),
        ("", kfp, "failed", "no tracking server is named: give MLflow's address with --tracking"),
        (
            "sqlite:///mlflow.db",
            kfp,
            "failed",
            "cannot be reached by pods: name an MLflow server with http:// or https://",
        ),
        ("http://me:hush-hush@mlflow:5000", kfp, "failed", "contains credentials"),
        (f"http://127.0.0.1:{free_port()}", "", "failed", "MLflow at http://127.0.0.1"),
        ("http://mlflow.tracking.svc:5000", kfp, "skipped", "is an address inside the cluster"),
        ("http://mlflow:5000", "", "failed", "cannot be reached"),
        (pipelines_api.url, "", "failed", "does not answer as MLflow does"),
    ):
        result = results_of(tracking.group(plan(host=host, tracking=uri)))["the server"]
        assert (result.status, message_part in result.sentence) == (status, True), result


@pytest.mark.long
def test_a_real_mlflow_server_passes(tmp_path: Path) -> None:
    from tests.local.test_registry import mlflow_server

    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server") as uri:
        examined = plan(tracking=uri)
        results = results_of(tracking.group(examined))
        assert troubles(results) == {} and "created and deleted" in results["writing"].sentence
        assert abs(next(iter(examined.clock.ahead.values()))) < 5
        artifacts = tmp_path / "server" / "artifacts"
        assert not list(artifacts.rglob("doctor.txt"))
        shutil.rmtree(artifacts)
        artifacts.write_text("no folder")
        failed = results_of(tracking.group(plan(tracking=uri)))["writing"]
        assert failed.status == "failed"
        assert re.search(r"cannot be stored \((status 500|connection reset)\): check the artifact", failed.sentence)


class ClosedMlflow(HttpServer):
    """An MLflow server that requires a login, through MLflow's basic-auth app."""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if path == "/health":
            return Reply(200, b"OK", {"Content-Type": "text/html"})
        return Reply(401, b"You are not authenticated.", {"WWW-Authenticate": 'Basic realm="mlflow"'})


@pytest.mark.long
def test_an_mlflow_server_that_requires_a_login_is_reported() -> None:
    with running(ClosedMlflow()) as server:
        result = results_of(tracking.group(plan(tracking=server.url)))["writing"]
    assert result.status == "failed"
    assert "does not allow writing to experiment mistere (401): check MLFLOW_TRACKING_USERNAME" in result.sentence


# The data, this machine, the clock


def test_the_dataset_is_checked_in_its_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(dataset.group(plan()))
    assert troubles(results) == {} and "4 files of" in results["remote"].sentence
    on_cluster = results_of(dataset.group(plan(host="https://kfp.example.org")))["version"]
    assert on_cluster.status == "failed" and "make an s3:// remote the default one" in on_cluster.sentence
    source = Path("data.dvc").read_text()
    digest = yaml.safe_load(source)["outs"][0]["md5"]
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n remote = r\n['remote \"r\"']\n url = ../remote\n")
    (tmp_path / "remote").mkdir()
    (tmp_path / "data.dvc").write_text(source)
    result = results_of(dataset.group(plan()))["remote"]
    assert result.status == "failed" and f"does not hold {digest}: run `dvc push`" in result.sentence
    result = results_of(dataset.group(plan("sample", "data.source=nothing.dvc")))["version"]
    assert result.status == "failed" and "there is no data at nothing.dvc" in result.sentence


def test_the_local_machine_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(local_machine.group(plan()))
    on_cluster = results_of(local_machine.group(plan(host="https://kfp.example.org")))
    assert {results["image lock"].status, on_cluster["image lock"].status} in ({"ok"}, {"note", "failed"})
    assert results["Python"].status == results["disk"].status == "ok"
    monkeypatch.setattr("pipelines.cli.doctor.groups.local_machine._DISK_BYTES", 2**70)
    assert results_of(local_machine.group(plan()))["disk"].status == "failed"


def test_clock_skew_is_reported(pipelines_api: PipelinesApi, kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.clock_offset = -20
    for offset, message_part in ((1500, "is 25 min behind that of"), (-600, "is 10 min ahead of that of"), (30, "")):
        pipelines_api.clock_offset = offset
        examined = plan(host=pipelines_api.url)
        results_of(kubeflow.group(examined), cluster.group(cluster.Cluster(examined)))
        (result,) = results_of(clock.group(examined.clock)).values()
        assert result.status == ("failed" if message_part else "ok") and message_part in result.sentence
        assert pipelines_api.url in result.sentence or not message_part


def test_a_crashing_check_does_not_stop_the_others(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.objects[kubernetes_api.at("/resourcequotas")] = [{"status": {"hard": {"cpu": "hush-hush"}}}]
    results = cluster_results()
    assert "the check itself raised" in results["quotas"].sentence
    assert results["limits"].status == "ok"


# The command


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line]


def test_the_command_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor("sample", ["gate.allow_uncommitted=true"], None, None, None)
    lines = printed(capsys)
    failures = [line for line in lines if line.startswith("  failed ")]
    assert code == int(bool(failures)) and all(line.startswith("  failed  packages: ") for line in failures)
    assert any(re.fullmatch(r"  skipped the API: because there is no kubeconfig .*", line) for line in lines)
    assert any(line.startswith("  ok      remote: 4 files") for line in lines)
    assert re.fullmatch(r"\d+ ok, (\d+ note, )?(1 failed, )?\d+ skipped\.", lines[-1])


def test_the_command_on_a_cluster(
    capsys: pytest.CaptureFixture[str],
    pipelines_api: PipelinesApi,
    kubernetes_api: KubernetesApi,
    troubled: tuple[TroubledS3, str],
) -> None:
    started = time.monotonic()
    without_gpus(kubernetes_api)
    assert doctor("gpu", [], pipelines_api.url, troubled[1], None) == 1
    lines = printed(capsys)
    own = ("  failed  Git", "  failed  image lock", "  failed  packages")  # of the tree that is worked on
    failures = [line for line in lines if line.startswith("  failed ") and not line.startswith(own)]
    assert [line.split(":")[0].removeprefix("  failed  ") for line in failures] == [
        "version",
        "the server",
        "GPU nodes",
    ]
    assert all(line.count(": ") >= 2 for line in failures), "each says how to fix it"
    assert lines[-1].startswith(f"{sum(line.startswith('  ok ') for line in lines)} ok, ")
    assert any(image("train") in line for line in lines) and not any("hush-hush" in line for line in lines)
    assert time.monotonic() - started < 120
