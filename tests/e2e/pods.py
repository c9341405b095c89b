"""Pods of a cluster as containers of podman, from what the compiled pipeline and the InferenceService say of them.

The user, the command, the limits of CPU and memory, the secrets, the volumes and the service account's token are those of the
specification. Two things differ from a kubelet: the pods share the host's network, and the size limit of an ``emptyDir`` is not
enforced.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Final

from mistere.kubernetes.secret_keys import STORAGE_KEYS
from tests.e2e.containers import podman

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
POD_NAME: Final = "mistere-step"
_PLATFORM_SETTINGS: Final = frozenset(
    {
        "activeDeadlineSeconds",
        "configMapAsEnv",
        "emptyDirMounts",
        "imagePullPolicy",  # the images are on this machine
        "podMetadata",  # labels for network policies and queues
        "secretAsEnv",
        "securityContext",
    }
)
"""The settings of a step for Kubernetes that its container gets, or that make no difference here."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Namespace:
    """What a namespace gives to its pods.

    Attributes:
        label: marks the containers, so that none is left behind.
        folder: for the pods' volumes.
        secrets: name → key → value.
        config_maps: name → key → value.
        account: folder with the service account's token, the cluster's certificate and the namespace's name.
        api_port: port of the Kubernetes API on this machine.
    """

    label: str
    folder: Path
    secrets: Mapping[str, Mapping[str, str]]
    config_maps: Mapping[str, Mapping[str, str]]
    account: Path
    api_port: int

    def volume(self) -> Path:
        """An empty directory that every user may write to."""
        path = Path(tempfile.mkdtemp(prefix="volume-", dir=self.folder))
        path.chmod(0o1777)
        return path


def resolve(objects: Mapping[str, Mapping[str, str]], references: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Resolve variables that refer to keys; a key that is missing is left out, as for ``optional: true``.

    Args:
        objects: Secrets or ConfigMaps: name → key → value.
        references: name of the variable, of the object and of its key.
    """
    return {variable: objects[name][key] for variable, name, key in references if key in objects.get(name, {})}


@dataclass(frozen=True)
class Container:
    """One container to run."""

    image: str
    command: list[str]
    environment: dict[str, str]
    volumes: dict[str, tuple[Path, str]] = field(default_factory=dict)
    user: str = ""
    cpus: str = ""
    memory: str = ""

    def start(self, name: str, label: str) -> None:
        """Start the container with a read-only root and without capabilities, as the restricted Pod Security Standard requires."""
        options = ["--name", name, "--label", f"mistere.e2e={label}", "--network", "host", "--no-healthcheck"]
        options += [
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
        ]
        options += ["--user", self.user] if self.user else []
        options += ["--cpus", _number(self.cpus)] if self.cpus else []
        options += ["--memory", _number(self.memory), "--memory-swap", _number(self.memory)] if self.memory else []
        for target, (source, mode) in self.volumes.items():
            options += ["--volume", f"{source}:{target}:{mode}"]
        for variable in self.environment:
            options += ["--env", variable]
        entrypoint, *arguments = self.command
        podman(
            "run", "--detach", *options, "--entrypoint", entrypoint, self.image, *arguments, variables=self.environment
        )


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    out_of_memory: bool
    log: str


def wait_for(name: str, deadline: float | None) -> Ended:
    """Wait for a container and remove it.

    Args:
        name: the container.
        deadline: seconds after which it is killed, as ``activeDeadlineSeconds`` does; None for no limit.
    """
    try:
        podman("wait", name, timeout=deadline)
    except subprocess.TimeoutExpired:
        podman("kill", name, check=False)
    code, killed = podman("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", name).split()
    log = podman("logs", name, both=True)
    podman("rm", "--force", name, check=False)
    return Ended(int(code), killed == "true", log)


def step_container(
    image: str, command: list[str], executor: Mapping[str, Any], platform: Mapping[str, Any], namespace: Namespace
) -> Container:
    """The container of a pipeline's step.

    Args:
        image: of the executor.
        command: command and arguments, with KFP's placeholders replaced.
        executor: the executor's container in the compiled pipeline's first document.
        platform: the executor in its second document, the settings for Kubernetes.
        namespace: of the run.

    Raises:
        NotImplementedError: the pipeline has a setting that would not reach the container.
    """
    unknown = set(platform) - _PLATFORM_SETTINGS
    if unknown:
        raise NotImplementedError(f"this test does not apply {', '.join(sorted(unknown))} to a step's container.")
    resources = executor.get("resources", {})
    from_secrets = [
        (entry["envVar"], secret["secretName"], entry["secretKey"])
        for secret in platform.get("secretAsEnv", ())
        for entry in secret["keyToEnv"]
    ]
    from_maps = [
        (entry["envVar"], config_map["configMapName"], entry["configMapKey"])
        for config_map in platform.get("configMapAsEnv", ())
        for entry in config_map["keyToEnv"]
    ]
    security = platform["securityContext"]
    volumes = {mount["mountPath"]: (namespace.volume(), "rw") for mount in platform.get("emptyDirMounts", ())}
    return Container(
        image=image,
        command=command,
        environment={
            **{entry["name"]: entry["value"] for entry in executor.get("env", ())},
            **resolve(namespace.config_maps, from_maps),
            **resolve(namespace.secrets, from_secrets),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(namespace.api_port),
            "KFP_POD_NAME": POD_NAME,
        },
        volumes={**volumes, SERVICE_ACCOUNT: (namespace.account, "ro")},
        user=f"{security['runAsUser']}:{security['runAsGroup']}",
        cpus=resources.get("resourceCpuLimit", ""),
        memory=resources.get("resourceMemoryLimit", ""),
    )


class PredictorPod:
    """A pod of an InferenceService, on a loopback address of its own."""

    ended: Final[list[Ended]] = []
    """How the stopped pods of this process ended."""

    def __init__(self, pod: Mapping[str, Any], namespace: Namespace) -> None:
        (spec,) = pod["spec"]["containers"]
        self.name = f"mistere-predictor-{namespace.label}-{next(_numbers)}"
        limits, security = spec["resources"]["limits"], pod["spec"]["securityContext"]
        values = {entry["name"]: entry["value"] for entry in spec["env"] if "value" in entry}
        references = [
            (entry["name"], entry["valueFrom"]["secretKeyRef"]["name"], entry["valueFrom"]["secretKeyRef"]["key"])
            for entry in spec["env"]
            if "valueFrom" in entry
        ]
        # On a cluster, each pod has its own network and listens on every address of it.
        listen = ["--host", pod["status"]["podIP"]]
        Container(
            image=spec["image"],
            command=[*spec["command"], *spec["args"], *listen],
            environment={**values, **resolve(namespace.secrets, references)},
            volumes={mount["mountPath"]: (namespace.volume(), "rw") for mount in spec["volumeMounts"]},
            user=f"{security['runAsUser']}:{security['runAsGroup']}",
            cpus=limits["cpu"],
            memory=limits["memory"],
        ).start(self.name, namespace.label)
        self._grace = pod["spec"]["terminationGracePeriodSeconds"]

    def stop(self) -> None:
        """Stop the container as a kubelet does: SIGTERM, and SIGKILL after the grace period."""
        podman("stop", "--time", str(self._grace), self.name)
        self.ended.append(wait_for(self.name, None))


def storage_secret(access_key: str, secret_key: str, endpoint: str) -> dict[str, str]:
    """The content of the Secret that the cluster guide makes, with the keys it names."""
    content = {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    assert set(content) <= set(STORAGE_KEYS)
    return content


def _number(quantity: str) -> str:
    """A Kubernetes quantity as podman reads it: a decimal number of cores, or of bytes."""
    from kubernetes.utils import parse_quantity

    value = Decimal(parse_quantity(quantity))
    return str(value if value < 1024 else value.to_integral_value(ROUND_CEILING))
