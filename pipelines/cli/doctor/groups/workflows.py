"""Argo Workflows as Kubeflow Pipelines configures it: what is retried, and how long finished workflows stay."""

from __future__ import annotations

from typing import Any, Final

from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.common.parsing.documents import ParseError, load_yaml
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, note, ok

CONFIGURATION: Final = "workflow-controller-configmap"
EXPRESSION: Final = "lastRetry.status == 'Error' || asInt(lastRetry.exitCode) > 0"
"""Repeats failed pods, but not the levels above them, which have no exit code (manifests/kubeflow-pipelines)."""

_AGENT, _AGENT_VARIABLE = "ml-pipeline-persistenceagent", "TTL_SECONDS_AFTER_WORKFLOW_FINISH"
_PATCH = "apply manifests/kubeflow-pipelines/workflow-defaults.yaml (docs/guides/cluster.md, Retries)"
_OTHER_POLICIES = {
    "OnError": (
        "only a pod that Kubernetes deleted is retried (retryPolicy OnError{limit}); a process that fails or is killed, for example for its "
        "memory, ends the run"
    ),
    "OnFailure": (
        "a process that fails or is killed is retried (retryPolicy OnFailure{limit}); a pod that Kubernetes deleted ends the run"
    ),
    "OnTransientError": (
        "only errors that Argo takes for transient are retried (retryPolicy OnTransientError{limit}); a killed process ends the run"
    ),
}


def group(cluster: Cluster) -> CheckGroup:
    """The checks of Argo Workflows."""
    return CheckGroup(
        "Argo Workflows",
        [Check("retries", lambda: _retries(cluster)), Check("lifetime", lambda: _lifetime(cluster))],
    )


def _retries(cluster: Cluster) -> CheckResult:
    """What the default retry strategy retries; a step names its own limit and takes policy and expression from it."""
    strategy = (_defaults(cluster).get("templateDefaults") or {}).get("retryStrategy") or {}
    expression = " ".join(str(strategy.get("expression") or "").split()).replace('"', "'")
    # Argo 4.0: without a policy, OnFailure; with an expression, Always.
    policy = str(strategy.get("retryPolicy") or ("Always" if expression else "OnFailure"))
    limit = str(strategy.get("limit", ""))
    if policy in _OTHER_POLICIES:
        shown = f", limit {limit} where a step has no `retries`" if limit else ""
        return note(f"{_OTHER_POLICIES[policy].format(limit=shown)}: {_PATCH}.")
    if expression == EXPRESSION:
        drivers = {"": "without a limit", "0": "never", "1": "once"}.get(limit, f"up to {limit} times")
        return ok(
            "deleted pods and failed processes are retried: a step as often as its `retries`, a driver "
            f"{drivers}; the levels above them are not repeated."
        )
    if expression:
        return note(
            f"the expression {expression!r} decides what is retried, which this command does not know: {_PATCH}."
        )
    if limit == "0":
        return note(
            "a step is retried as often as its `retries`, and a driver never (limit 0, retryPolicy Always), so an object store that "
            f"does not answer for a minute ends the run: {_PATCH}."
        )
    times = f"up to {limit} times" if limit else "without a limit"
    return note(
        f"deleted pods and failed processes are retried, and so is each level above a step, {times} (retryPolicy Always): a step that "
        f"cannot work is tried many times: {_PATCH}."
    )


def _defaults(cluster: Cluster) -> dict[str, Any]:
    """The ``spec`` that Argo adds to every workflow."""
    namespace = cluster.kubeflow_namespace
    path = f"/api/v1/namespaces/{namespace}/configmaps/{CONFIGURATION}"
    try:
        data = cluster.get(path, f"read ConfigMaps in namespace {namespace}").get("data") or {}
    except AbsentError as error:
        raise SkippedError(
            f"there is no ConfigMap {CONFIGURATION} in namespace {namespace}: set cluster.kubeflow_namespace to the namespace of "
            "Kubeflow Pipelines."
        ) from error
    try:
        # Argo reads a key for each setting, or all settings from the key `config`.
        settings = {**(load_yaml(data.get("config", "")) or {})}
        if "workflowDefaults" in data:
            settings["workflowDefaults"] = load_yaml(data["workflowDefaults"])
        return dict((settings.get("workflowDefaults") or {}).get("spec") or {})
    except (ParseError, AttributeError, TypeError, ValueError) as error:
        raise MistereError(
            f"workflowDefaults in the ConfigMap {namespace}/{CONFIGURATION} are not valid: fix them."
        ) from error


def _lifetime(cluster: Cluster) -> CheckResult:
    """How long the objects of a finished run stay: a run sets its own limits, and the persistence agent has another."""
    own, agent = cluster.plan.config.cluster.run_ttl, _agent_seconds(cluster)
    if agent is None:
        return ok(
            f"a finished workflow stays for {_duration(own)} (cluster.run_ttl), or for less if the persistence agent deletes it first, "
            "whose settings cannot be read (stock: after 1 day)."
        )
    if agent < own:
        return note(
            f"a finished workflow stays for {_duration(agent)}: cluster.run_ttl is {_duration(own)}, but the persistence agent deletes "
            f"earlier; raise {_AGENT_VARIABLE} of the Deployment {cluster.kubeflow_namespace}/{_AGENT}, or lower "
            "cluster.run_ttl."
        )
    return ok(f"a finished workflow stays for {_duration(own)} (cluster.run_ttl).")


def _agent_seconds(cluster: Cluster) -> int | None:
    """After how many seconds the persistence agent lets the API server delete a finished workflow; None if unknown."""
    namespace = cluster.kubeflow_namespace
    try:
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{_AGENT}"
        agent = cluster.get(path, f"read Deployments in namespace {namespace}")
    except (AbsentError, SkippedError):
        return None
    variables = [
        variable
        for container in agent["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env") or []
    ]
    values = [str(one.get("value", "")) for one in variables if one["name"] == _AGENT_VARIABLE]
    return int(values[0]) if values and values[0].isdigit() else None


def _duration(seconds: int) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return counted(count, unit)
    return f"{seconds} s"
