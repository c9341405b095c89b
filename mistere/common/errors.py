"""Errors with a message for the user, and the exit codes of every command.

The message of a :class:`MistereError` is one sentence with what is wrong, where, and how to fix it, without secrets. The
command prints it and exits with its code. Any other exception is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

from enum import IntEnum

from mistere.common.secrets.redaction import redact

AFFECTS_RESULTS = False
"""How an error is worded changes no result (see :mod:`mistere.common.digests.code`)."""


class ExitCode(IntEnum):
    """Exit codes of the ``mistere`` command."""

    DEPLOYED = 0
    ERROR = 1
    USAGE = 2
    NOT_PROMOTED = 3
    DATA_REJECTED = 4
    DIFFERENT = 5
    WAITING = 6
    INTERRUPTED = 130


class MistereError(Exception):
    """An error that the user can resolve. Exit code 1."""

    exit_code: ExitCode = ExitCode.ERROR

    def __init__(self, message: object = "") -> None:
        """Mask the secrets in the message, which often quotes a library, a setting or a URL."""
        super().__init__(redact(str(message)))


class Interrupted(MistereError):  # noqa: N818  (not every interruption is an error)
    """Ctrl-C, or a signal to stop, ended the command. Exit code 130."""

    exit_code = ExitCode.INTERRUPTED


class UsageError(MistereError):
    """A wrong argument or setting. Exit code 2."""

    exit_code = ExitCode.USAGE


class MissingPackageError(UsageError):
    """What was asked for needs an optional package, or a program such as ffmpeg, that is not installed here. Exit code 2.

    It is a usage error, because the same command fails again until the user installs the package or asks for something else.
    """


class DataError(MistereError):
    """An invalid dataset. Exit code 4."""

    exit_code = ExitCode.DATA_REJECTED


class ArtifactError(MistereError):
    """An artifact is missing, incomplete or damaged. Exit code 1.

    Attributes:
        finding: what is wrong and where, as a clause without a full stop.
    """

    def __init__(self, finding: str, remedy: str = "") -> None:
        """Compose the message from the finding and, if there is one, the remedy for the user."""
        self.finding = finding.removesuffix(".")
        super().__init__(f"{self.finding}; {remedy}." if remedy else finding)


def why(error: BaseException) -> str:
    """Why something ended early, as a sentence for a log or for the message of the error that follows from it."""
    if isinstance(error, MistereError):
        sentence = str(error)
        return sentence[:1].upper() + sentence[1:]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "The process was stopped."
    first = (str(error).splitlines() or [""])[0]
    return f"An unexpected error ({type(error).__name__}{f': {first}' if first else ''})."
