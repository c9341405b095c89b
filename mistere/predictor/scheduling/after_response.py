"""Work that a request causes and its response need not wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_STEPS: Final = 3
"""Steps of the event loop until REST has written a response: those who await it resume one after another."""


def call_after_response(call: Callable[..., object], *values: object) -> None:
    """Call a function once the response that the current task returns is on its way."""
    _call_after(_STEPS, call, *values)


def _call_after(steps: int, call: Callable[..., object], *values: object) -> None:
    if steps:
        asyncio.get_running_loop().call_soon(_call_after, steps - 1, call, *values)
    else:
        call(*values)
