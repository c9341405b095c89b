"""Emotion recognition in conversations: the library behind the command ``mistere``, and its public Python API.

``load`` opens a bundle and predicts in this process, ``connect`` queries an endpoint, and ``read_dataset`` reads a dataset
in the dataset form. ``import mistere`` is cheap: each function is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistere.common.errors import MistereError as MistereError
    from mistere.data.local_dataset import read_dataset as read_dataset
    from mistere.predictor.in_process import load as load
    from mistere.serving.endpoint import connect as connect

_API = {
    "load": "mistere.predictor.in_process",
    "connect": "mistere.serving.endpoint",
    "read_dataset": "mistere.data.local_dataset",
    "MistereError": "mistere.common.errors",
}
"""Where each public name is defined. Strings, not imports: every module of the library imports this package, so an import
here would make each of them depend on all that it reaches (see :mod:`mistere.common.digests.code`)."""

__all__ = ["MistereError", "connect", "load", "read_dataset"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_API[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names of the module, the public ones included."""
    return sorted({*globals(), *__all__})
