"""Functions that are written once and have an argument for each modality of a run.

Kubeflow Pipelines knows no mapping of artifacts, and takes a component's inputs from the function's source. So a component whose
inputs depend on the modalities is written with the word ``MODALITY``, and its source is made from it when the pipeline is defined.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import re
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, TypeVar

AFFECTS_RESULTS = False

T = TypeVar("T")
_PLACEHOLDER: Final = re.compile(r"MODALITY(?![A-Z])")


def for_modalities(decorate: Callable[[Callable[..., Any]], T]) -> Callable[[Callable[..., Any]], Callable[..., T]]:
    """Decorator that makes a template of a function: each line of its source with ``MODALITY`` stands for one line a modality.

    Args:
        decorate: applied to the function that the template gives for a list of modalities, such as ``dsl.component(…)``.

    Returns:
        A decorator; what it returns takes the names of the modalities, in order.
    """

    def template(function: Callable[..., Any]) -> Callable[..., T]:
        @cache
        def written(modalities: tuple[str, ...]) -> T:
            return decorate(_specialised(function, modalities))

        return lambda modalities: written(tuple(modalities))

    return template


def expand(source: str, modalities: Sequence[str]) -> str:
    """Repeat each line with the placeholder, once with each name in its place."""
    lines: list[str] = []
    for line in source.splitlines():
        if _PLACEHOLDER.search(line):
            lines += [_PLACEHOLDER.sub(name, line) for name in modalities]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _specialised(function: Callable[..., Any], modalities: Sequence[str]) -> Callable[..., Any]:
    """The function that a template gives, with its source where ``inspect`` finds it."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    definition = itertools.dropwhile(lambda line: not line.startswith("def "), lines)
    source = expand("\n".join(definition), modalities)
    name = f"<{function.__module__}.{function.__name__} of {', '.join(modalities)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = dict(function.__globals__)
    exec(compile(source, name, "exec", dont_inherit=True), scope)  # noqa: S102 (the source is that of a function of this project)
    made: Callable[..., Any] = scope[function.__name__]
    return made
