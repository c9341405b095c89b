"""KServe, its mode and version, the Gateway of a release's shares, and Kubeflow Trainer if a step needs it."""

from __future__ import annotations

import re
from typing import Any

from mistere.common.errors import MistereError
from mistere.common.parsing.documents import load_json
from pipelines.cli.doctor import gateway
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, note, ok

_NAMESPACE, _CONTROLLER, _SETTINGS = "kserve", "kserve-controller-manager", "inferenceservice-config"
_OLDEST = (0, 16)
_MODES = {"rawdeployment": "Standard", "standard": "Standard", "serverless": "Knative", "knative": "Knative"}


def group(cluster: Cluster) -> CheckGroup:
    """The checks of KServe and Kubeflow Trainer."""
    checks = [Check("KServe", lambda: _kserve(cluster)), Check("KServe's mode", lambda: _mode(cluster))]
    if cluster.mode == "standard":
        checks.append(Check("shares of a release", lambda: gateway.shares(cluster)))
    sections = _trainjob_sections(cluster)
    if sections:
        checks.append(Check("Kubeflow Trainer", lambda: trainer(cluster, sections)))
    return CheckGroup("Serving and training", checks)


def _kserve(cluster: Cluster) -> CheckResult:
    if not cluster.serves("serving.kserve.io", "v1beta1", "inferenceservices"):
        missing = "KServe is not installed (no inferenceservices.serving.kserve.io)"
        if cluster.mode == "local":
            return note(f"{missing}, which deployment.mode=local does not need.")
        return failed(f"{missing}: install it to deploy models.")
    try:
        path = f"/apis/apps/v1/namespaces/{_NAMESPACE}/deployments/{_CONTROLLER}"
        controller = cluster.get(path, "read KServe's controller")
    except (AbsentError, SkippedError):
        return ok("installed; its version cannot be read.")
    if not controller.get("status", {}).get("availableReplicas"):
        return failed(
            f"KServe's controller is not running: `kubectl -n {_NAMESPACE} describe deployment {_CONTROLLER}` shows why."
        )
    tag = _tag(controller)
    version = re.match(r"v?(\d+)\.(\d+)", tag)
    if version and tuple(map(int, version.groups())) < _OLDEST and cluster.mode != "local":
        return failed(f"version {tag} is too old to deploy to: update KServe to {_OLDEST[0]}.{_OLDEST[1]} or later.")
    return ok(f"version {tag}.")


def _tag(deployment: dict[str, Any]) -> str:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    images = [container["image"] for container in containers if "kserve" in container["image"]]
    return images[0].partition("@")[0].rpartition(":")[2] if images else "unknown"


def _mode(cluster: Cluster) -> CheckResult:
    """Compare the cluster's default mode with the mode of the deployment, which an annotation of the service names."""
    mode_setting = cluster.mode
    try:
        path = f"/api/v1/namespaces/{_NAMESPACE}/configmaps/{_SETTINGS}"
        settings = cluster.get(path, "read KServe's settings")
        default = load_json((settings.get("data") or {}).get("deploy", "{}")).get("defaultDeploymentMode", "")
    except AbsentError:
        default = ""
    except ValueError as error:
        raise MistereError(f"KServe's settings ({_NAMESPACE}/{_SETTINGS}) are not JSON: fix them.") from error
    mode = _MODES.get(str(default).lower(), "unknown")
    if mode_setting == "knative" and not cluster.serves("serving.knative.dev", "v1", "services"):
        return failed(
            "the deployment uses Knative mode, and Knative Serving is not installed (no services.serving.knative.dev): install it, or set "
            "deployment.mode=standard."
        )
    if mode_setting in {"local", mode.lower()}:
        return ok(f"{mode}.")
    return note(f"the cluster's default is {mode}; the deployment overrides it with {mode_setting} in an annotation.")


def _trainjob_sections(cluster: Cluster) -> list[str]:
    """The configuration sections that train in a TrainJob."""
    return [name for name, encoder in cluster.plan.config.encoders().items() if encoder.uses_trainjob]


def trainer(cluster: Cluster, sections: list[str]) -> CheckResult:
    """Whether Kubeflow Trainer is installed for the sections that train in a TrainJob."""
    if not cluster.serves("trainer.kubeflow.org", "v1alpha1", "trainjobs"):
        configs = [getattr(cluster.plan.config, name) for name in sections]
        several = [config.num_nodes > 1 or not config.nodes.trainjob for config in configs]
        settings = " and ".join(
            f"{name}.{'num_nodes' if many else 'nodes.trainjob'}" for name, many in zip(sections, several, strict=True)
        )
        return failed(
            f"Kubeflow Trainer is not installed (no trainjobs.trainer.kubeflow.org), and {settings} need it: install it, or set "
            f"{'num_nodes to 1' if all(several) else 'num_nodes to 1 and nodes.trainjob to false'}."
        )
    return ok("trainjobs.trainer.kubeflow.org is installed.")
