"""Containers as a restricted cluster runs them: not root, only ``/tmp`` writable, no capabilities."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.parent_death import die_with_parent
from tests.local.servers import free_port

USER: Final = "10001:10001"
CONFINEMENT: Final = """\
import os
capabilities = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff"))
try:
    open("/app/probe", "w")
    root = "writable"
except OSError:
    root = "read-only"
print(os.getuid(), int(capabilities, 16), root)
"""
"""Run by Python in a container, it prints the user, the effective capabilities, and whether the root can be written to."""
CONFINED: Final = "10001 0 read-only"
_SETTINGS = Path(__file__).resolve().parents[2] / "docker" / "containers.conf"


def engine_environment() -> dict[str, str]:
    """The environment for podman: settings that need no systemd, unless others are given."""
    return {"CONTAINERS_CONF": str(_SETTINGS), **os.environ}


def podman(*arguments: str, check: bool = True) -> str:
    """Call podman and return its output."""
    done = subprocess.run(["podman", *arguments], env=engine_environment(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments[:2])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def restrictions(label: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Restrictions that kfp's ``DockerRunner`` applies to every step's container.

    Args:
        label: marks the containers, so that none is left behind.
        environment: secrets and addresses; they reach a step by no other way.
    """
    return {
        "user": USER,
        "read_only": True,
        "tmpfs": {"/tmp": "size=4g,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "host",
        "labels": {"mistere.e2e": label},
        "environment": dict(environment),
    }


@contextmanager
def docker_api(folder: Path) -> Iterator[str]:
    """Run podman's Docker-compatible API service for kfp; yields its address."""
    socket = folder / "podman.sock"
    with (folder / "podman.log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{socket}"],
            env=engine_environment(),
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"podman's service did not start: {(folder / 'podman.log').read_text()[-500:]}")
            time.sleep(0.1)
        yield f"unix://{socket}"
    finally:
        service.terminate()
        service.wait(20)


def check_confinement(docker_host: str, image: str, label: str) -> None:
    """Check that the engine applies :func:`restrictions` to a step's container.

    Raises:
        MistereError: it does not.
    """
    import docker

    client = docker.DockerClient(base_url=docker_host)
    said = client.containers.run(image, ["python3", "-c", CONFINEMENT], remove=True, **restrictions(label, {}))
    client.close()
    if (found := said.decode().strip()) != CONFINED:
        raise MistereError(f"a container of {image} is not confined: user, capabilities and root are {found}.")


@contextmanager
def no_container_left(label: str) -> Iterator[None]:
    """Remove all containers with the label on exit, also after an error."""
    try:
        yield
    finally:
        left = podman("ps", "--all", "--quiet", "--filter", f"label=mistere.e2e={label}", check=False).split()
        if left:
            podman("rm", "--force", "--time", "5", *left, check=False)


@contextmanager
def predictor_container(
    image: str, bundle: str, service: str, label: str, environment: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """The predictor's container on a bundle in the store.

    Yields:
        Its name, and the addresses of REST and gRPC.
    """
    http, grpc, name = free_port(), free_port(), f"mistere-predictor-{label}"
    options = ["--read-only", "--user", USER, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    options += [
        "--tmpfs",
        "/tmp:size=4g,mode=1777",
        "--network",
        "host",
        "--no-healthcheck",
        "--label",
        f"mistere.e2e={label}",
    ]
    options += [word for key in environment for word in ("--env", key)]
    ports = ["--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)]
    command = ["podman", "run", "--detach", "--name", name, *options, image, bundle, *ports, "--model-name", service]
    subprocess.run(command, env={**engine_environment(), **environment}, check=True, capture_output=True)
    try:
        yield name, f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}"
    finally:
        podman("rm", "--force", "--time", "10", name, check=False)
