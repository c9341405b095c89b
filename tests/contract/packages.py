"""Pipelines of one step for the contract tests. KFP reads the annotations, so they are no strings here."""

from pathlib import Path
from typing import Final

from kfp import dsl, kubernetes
from kfp.compiler import Compiler

from pipelines.pod_settings import USER

COMMANDS: Final = {"works": "true", "fails": "exit 3", "sleeps": "sleep 600", "needs": "true"}
"""What the step of each pipeline does; ``needs`` has the parameters ``settings``, without a default, and ``count``."""


def compiled(name: str, image: str, path: Path) -> str:
    """Compile a pipeline.

    Args:
        name: of the pipeline.
        image: of its step; it needs a shell.
        path: file to write.

    Returns:
        The package's text.
    """

    @dsl.container_component
    def step():  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image=image, command=["sh", "-c", COMMANDS[name]])

    def confined() -> None:
        """The step with what the namespace `mistere` requires: restricted Pod Security, and limits for its quota."""
        task = step()
        task.set_cpu_request("10m").set_cpu_limit("100m").set_memory_request("16Mi").set_memory_limit("64Mi")
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)

    def without_parameters() -> None:
        confined()

    def with_parameters(settings: dict, count: int = 1) -> None:  # type: ignore[type-arg]
        confined()

    function = with_parameters if name == "needs" else without_parameters
    Compiler().compile(dsl.pipeline(name=name)(function), str(path))
    return path.read_text(encoding="utf-8")
