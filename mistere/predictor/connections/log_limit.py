"""Limit repeated log lines: an attack that fails in the same way thousands of times must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mistere.common.counting import counted, plural

_LINES: Final = 10
"""Lines of one kind in a window."""
_WINDOW_SECONDS: Final = 60.0
_KINDS: Final = 256
"""The most kinds that are told apart; all further ones of a logger count as one."""
_MARK: Final = "_mistere_passes"


@dataclass
class _Window:
    began: float
    lines: int = 0
    left_out: int = 0


class RepeatLimit(logging.Filter):
    """Passes at most ten warnings or errors of a kind in a minute, and says how many it left out.

    A kind is a logger, a level and the first line of the message before its arguments. Lines below a warning, such as those of
    answered requests, always pass.

    Args:
        clock: seconds that increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, int, str], _Window] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide once for a record, however many handlers it reaches."""
        if record.levelno < logging.WARNING:
            return True
        passes: bool | None = getattr(record, _MARK, None)
        if passes is None:
            passes = self._passes(record)
            setattr(record, _MARK, passes)
        return passes

    def _passes(self, record: logging.LogRecord) -> bool:
        kind = (record.name, record.levelno, str(record.msg).partition("\n")[0][:120])
        with self._lock:
            if kind not in self._windows and len(self._windows) >= _KINDS:
                kind = (record.name, record.levelno, "")
            now = self._clock()
            window = self._windows.setdefault(kind, _Window(now))
            before = 0
            if now - window.began >= _WINDOW_SECONDS:
                before = window.left_out
                window.began, window.lines, window.left_out = now, 0, 0
            window.lines += 1
            if window.lines > _LINES:
                window.left_out += 1
                return False
        if before:
            _append(record, f"{counted(before, 'line')} like this {plural(before, 'was', 'were')} left out before it")
        if window.lines == _LINES:
            _append(record, f"further lines like this are left out for up to {_WINDOW_SECONDS:g} s")
        return True


def _append(record: logging.LogRecord, note: str) -> None:
    record.msg, record.args = f"{record.getMessage()} ({note})", None


def limit_repeated_lines() -> None:
    """Add one limit to every handler of the process; call it once all libraries have configured their logging."""
    limit = RepeatLimit()
    for handler in set(_handlers()):
        handler.addFilter(limit)


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    if logging.lastResort is not None:
        yield logging.lastResort
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
