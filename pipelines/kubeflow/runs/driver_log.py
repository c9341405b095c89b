"""Why a driver of Kubeflow Pipelines failed. Its reason is only in the log of its pod: neither API nor pod status name it."""

from __future__ import annotations

import re
from typing import Any, Final

from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi

_POD: Final = re.compile(r"-system-(?:container|dag)-driver-\d+$")
"""Argo names a pod by workflow, template and hash; KFP's templates (argocompiler) end in ``-driver``."""
_CONTAINER: Final = "main"
_FAILED: Final = re.compile(r"KFP driver: driver\.\w+\((?P<arguments>.*?)\) failed: (?P<reason>.*)")
_TASK: Final = re.compile(r'task(?:DisplayName|Name)?="([^"]+)"')
_FATAL: Final = re.compile(r"^F\d{4} \S+ +\d+ \S+\] (?P<reason>.*)")
"""The last line of glog's ``Exitf``."""
_LINES, _LONGEST = 100, 400


def is_driver(pod: dict[str, Any]) -> bool:
    """Whether a pod is a driver's."""
    return _POD.search(pod["metadata"]["name"]) is not None


def driver_failure(api: KubernetesApi, pod: dict[str, Any]) -> tuple[str, str]:
    """Why a failed driver failed.

    Args:
        api: the cluster.
        pod: of the driver.

    Returns:
        An identity that the attempts of one driver with the same reason share, and a sentence.

    Raises:
        KubernetesError: the log cannot be read.
    """
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    log = api.text(f"/api/v1/namespaces/{namespace}/pods/{name}/log", container=_CONTAINER, tailLines=_LINES)
    step, reason = _parse(log)
    if not reason:
        return name, f"driver pod {name} failed without a reason in its log: see {log_command(pod)}."
    shown = redact_url(reason)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
    driver = f"the driver of {step}" if step else "a driver"
    return f"{step}: {shown}", f"{driver} failed: {shown.rstrip('.')} (pod {name})."


def log_command(pod: dict[str, Any]) -> str:
    """The command that prints a driver's log."""
    metadata = pod["metadata"]
    return f"`kubectl --namespace {metadata['namespace']} logs {metadata['name']} --container {_CONTAINER}`"


def _parse(log: str) -> tuple[str, str]:
    """The step and the reason; the last match counts."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if match := _FAILED.search(line):
            task = _TASK.search(match["arguments"])
            return (task[1] if task else ""), match["reason"]
    for line in reversed(lines):
        if match := _FATAL.match(line):
            return "", match["reason"]
    return "", ""
