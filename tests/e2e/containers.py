"""Calls of podman."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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


def podman(
    *arguments: str,
    check: bool = True,
    both: bool = False,
    variables: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Call podman.

    Args:
        arguments: of the command line.
        check: raise an error if it fails.
        both: return the standard error after the standard output.
        variables: environment of podman, from which ``--env NAME`` takes the values that no command line should show.
        timeout: seconds after which ``subprocess.TimeoutExpired`` is raised; None for no limit.

    Returns:
        Its output.
    """
    environment = {**engine_environment(), **(variables or {})}
    done = subprocess.run(
        ["podman", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments[:2])} failed: {done.stderr.strip()[-500:]}")
    return (done.stdout + done.stderr if both else done.stdout).strip()


@contextmanager
def no_container_left(label: str) -> Iterator[None]:
    """Remove all containers with the label on exit, also after an error."""
    try:
        yield
    finally:
        left = podman("ps", "--all", "--quiet", "--filter", f"label=mistere.e2e={label}", check=False).split()
        if left:
            podman("rm", "--force", "--time", "5", *left, check=False)
