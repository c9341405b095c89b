"""The Pod Security Standard `restricted`: lists the violations of a pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
PROFILES = ("RuntimeDefault", "Localhost")


def broken_rules(pod: dict[str, Any]) -> Iterator[str]:
    """What of ``restricted`` a pod's spec does not hold; nothing where an API server would admit it."""
    whole = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        if unknown := set(volume) - {"name"} - VOLUMES:
            yield f"volume {unknown}"
    for forbidden in ("sysctls", "seLinuxOptions", "windowsOptions"):
        if forbidden in whole:
            yield forbidden
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if own.get("privileged"):
            yield "privileged"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield "capabilities"
        if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
            yield "runAsNonRoot"
        if own.get("runAsUser", whole.get("runAsUser", 1)) == 0:
            yield "runAsUser"
        if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in PROFILES:
            yield "seccompProfile"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield "hostPort"
        if own.get("procMount", "Default") != "Default":
            yield "procMount"
