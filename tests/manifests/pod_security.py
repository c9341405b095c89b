"""The Pod Security Standard `restricted`: lists the violations of a pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = ("RuntimeDefault", "Localhost")


def broken_rules(pod: dict[str, Any]) -> Iterator[str]:
    """Yield the ``restricted`` rules that a pod's spec violates; nothing if an API server admits the pod."""
    pod_context = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        if unknown := set(volume) - {"name"} - VOLUMES:
            yield f"volume {unknown}"
    for forbidden in ("sysctls", "seLinuxOptions", "windowsOptions"):
        if forbidden in pod_context:
            yield forbidden
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if context.get("privileged"):
            yield "privileged"
        capabilities = context.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "capabilities"
        if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
            yield "runAsNonRoot"
        if context.get("runAsUser", pod_context.get("runAsUser", 1)) == 0:
            yield "runAsUser"
        if context.get("seccompProfile", pod_context.get("seccompProfile", {})).get("type") not in PROFILES:
            yield "seccompProfile"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield "hostPort"
        if context.get("procMount", "Default") != "Default":
            yield "procMount"
