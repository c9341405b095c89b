"""How a command ends: an expected error is one line and an exit code, and only a defect of the program shows a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mistere.common.errors import MistereError, UsageError
from mistere.common.names import terminal_text
from mistere.common.os_errors import disk_error


@contextmanager
def expected_errors(*, verbose: bool) -> Iterator[None]:
    """Print an expected error as one line and exit with its code.

    Args:
        verbose: show the traceback of an expected error, too.
    """
    try:
        yield
    except Exception as error:
        expected = _as_expected_error(error)
        if verbose or expected is None:
            raise
        lines = "\n".join(map(terminal_text, str(expected).split("\n")))  # what others wrote may be quoted in it
        print(f"mistere: {lines}", file=sys.stderr)
        raise SystemExit(int(expected.exit_code)) from None


def _as_expected_error(error: Exception) -> MistereError | None:
    """The error as one that the user can resolve; None for a defect of the program."""
    if isinstance(error, MistereError):
        return error
    if failure := disk_error(error):
        return failure
    if isinstance(error, OSError):
        return MistereError(
            f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}; check the path and its "
            "permissions."
        )
    if hasattr(error, "format_message"):  # the command line parser's usage errors
        return UsageError(" ".join(str(error.format_message()).split()))
    return None
