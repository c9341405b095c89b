"""Pipelines of one step for the contract tests. KFP reads the annotations, so they are no strings here."""

from pathlib import Path
from typing import Final

from kfp import dsl
from kfp.compiler import Compiler

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

    def without_parameters() -> None:
        step()

    def with_parameters(settings: dict, count: int = 1) -> None:  # type: ignore[type-arg]
        step()

    function = with_parameters if name == "needs" else without_parameters
    Compiler().compile(dsl.pipeline(name=name)(function), str(path))
    return path.read_text(encoding="utf-8")
