"""What serves and trains on the cluster: KServe with its mode and version, and Kubeflow Trainer where it is needed."""

from __future__ import annotations

import json
import re
from typing import Any

from mistere.common.errors import MistereError
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, note, ok

_NAMESPACE, _CONTROLLER, _SETTINGS = "kserve", "kserve-controller-manager", "inferenceservice-config"
_OLDEST = (0, 16)
_MODES = {"rawdeployment": "Standard", "standard": "Standard", "serverless": "Knative", "knative": "Knative"}


def subject(cluster: Cluster) -> Subject:
    """The checks of KServe and Kubeflow Trainer."""
    checks = [Check("KServe", lambda: _kserve(cluster)), Check("KServe's mode", lambda: _mode(cluster))]
    wanting = _several_nodes(cluster)
    if wanting:
        checks.append(Check("Kubeflow Trainer", lambda: trainer(cluster, wanting)))
    return Subject("Serving and training", checks)


def _serves(cluster: Cluster, group: str, version: str, plural: str) -> bool:
    """Whether the API serves a kind of custom resource; discovery needs no right of its own."""
    try:
        found = cluster.ask(
            lambda **k: cluster.api("CustomObjectsApi").get_api_resources(group, version, **k), f"discover {group}"
        )
    except AbsentError:
        return False
    return any(resource.name == plural for resource in found.resources)


def _kserve(cluster: Cluster) -> CheckResult:
    if not _serves(cluster, "serving.kserve.io", "v1beta1", "inferenceservices"):
        missing = "KServe is not installed (no inferenceservices.serving.kserve.io)"
        if cluster.mode in {"", "local"}:
            return note(f"{missing}, which deployment.mode=local does without.")
        return failed(f"{missing}: install it as the README says, or no model can be deployed.")
    try:
        controller = cluster.ask(
            lambda **k: cluster.api("AppsV1Api").read_namespaced_deployment(_CONTROLLER, _NAMESPACE, **k),
            "read KServe's controller",
        )
    except (AbsentError, SkippedError):
        return ok("installed; its version cannot be read.")
    if not controller.status.available_replicas:
        return failed(
            f"KServe's controller is not running: `kubectl -n {_NAMESPACE} describe deployment {_CONTROLLER}` says why."
        )
    tag = _tag(controller)
    version = re.match(r"v?(\d+)\.(\d+)", tag)
    if version and tuple(map(int, version.groups())) < _OLDEST and cluster.mode not in {"", "local"}:
        return failed(f"version {tag} is too old to deploy to: update KServe to {_OLDEST[0]}.{_OLDEST[1]} or later.")
    return ok(f"version {tag}.")


def _tag(deployment: Any) -> str:
    images = [one.image for one in deployment.spec.template.spec.containers if "kserve" in one.image]
    return images[0].partition("@")[0].rpartition(":")[2] if images else "not told"


def _mode(cluster: Cluster) -> CheckResult:
    """The mode that the cluster is made for, against the one that the deployment asks for."""
    wanted = cluster.mode
    try:
        settings = cluster.ask(
            lambda **k: cluster.api("CoreV1Api").read_namespaced_config_map(_SETTINGS, _NAMESPACE, **k),
            "read KServe's settings",
        )
        default = json.loads((settings.data or {}).get("deploy", "{}")).get("defaultDeploymentMode", "")
    except AbsentError:
        default = ""
    except ValueError as error:
        raise MistereError(f"KServe's settings ({_NAMESPACE}/{_SETTINGS}) are no JSON: mend them.") from error
    mode = _MODES.get(str(default).lower(), "not told")
    if "knative" in {wanted, mode.lower()} and not _serves(cluster, "serving.knative.dev", "v1", "services"):
        return failed(
            "Knative mode is asked for, and Knative Serving is not installed (no services.serving.knative.dev): install it, or set "
            "deployment.mode=standard."
        )
    if wanted == "local" and cluster.plan.on_a_cluster:
        return note(
            f"{mode}, but deployment.mode is local, so that a run moves a pointer in the store and no service: set it to "
            "standard or knative."
        )
    if wanted in {"", "local", mode.lower()}:
        return ok(f"{mode}.")
    return note(
        f"the cluster's default is {mode}, and the deployment asks for {wanted} in its own annotation, which goes first."
    )


def _several_nodes(cluster: Cluster) -> list[str]:
    """The sections whose training is spread over nodes."""
    config = cluster.plan.config
    return [name for name in ("speech", "text") if int(config.section(name).get("num_nodes", 1)) > 1]


def trainer(cluster: Cluster, wanting: list[str]) -> CheckResult:
    """Whether Kubeflow Trainer is there for the sections that want several nodes."""
    if not _serves(cluster, "trainer.kubeflow.org", "v1alpha1", "trainjobs"):
        asked = " and ".join(f"{name}.num_nodes" for name in wanting)
        return failed(
            f"Kubeflow Trainer is not installed (no trainjobs.trainer.kubeflow.org), and {asked} ask for several nodes: install it, or "
            "set num_nodes to 1."
        )
    return ok("trainjobs.trainer.kubeflow.org is there.")
