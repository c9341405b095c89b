"""The errors a person is meant to read, and the exit codes of every command.

A :class:`MistereError` carries one sentence with what is wrong, where, and how to mend it. Whoever catches it prints the
sentence and exits with its code; anything else that escapes is a defect of ours and keeps its stack trace.
"""

from __future__ import annotations

from enum import IntEnum

AFFECTS_RESULTS = False
"""How an error is worded changes no result (see :mod:`mistere.common.code_digest`)."""


class ExitCode(IntEnum):
    """Exit codes of the ``mistere`` command."""

    DEPLOYED = 0
    ERROR = 1
    USAGE = 2
    NOT_PROMOTED = 3
    DATA_REJECTED = 4
    DIFFERENT = 5


class MistereError(Exception):
    """Something went wrong that a person can mend. Exit code 1."""

    exit_code: ExitCode = ExitCode.ERROR


class UsageError(MistereError):
    """What was typed or configured is wrong. Exit code 2."""

    exit_code = ExitCode.USAGE


class DataError(MistereError):
    """The dataset itself is wrong. Exit code 4."""

    exit_code = ExitCode.DATA_REJECTED


class ArtifactError(MistereError):
    """An artifact is missing, half-written or damaged. Exit code 1."""
