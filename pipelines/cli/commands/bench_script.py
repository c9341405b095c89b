"""The process of a benchmark: ``python -m pipelines.cli.commands.bench_script [--verbose] SCRIPT [ARGUMENT …]``.

It ends as a command of ``mistere`` does: an expected error of the script is one line and an exit code. When it is asked to stop, it
stops the servers that it started.
"""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from typing import NoReturn

from mistere.common.errors import ExitCode, MistereError
from pipelines.cli.expected_errors import expected_errors

VERBOSE = "--verbose"


def main() -> NoReturn:
    """Run the script as a main program."""
    verbose = sys.argv[1] == VERBOSE
    sys.argv = sys.argv[2 if verbose else 1 :]
    signal.signal(signal.SIGTERM, _stop)
    try:
        with expected_errors(verbose=verbose):
            _run(sys.argv[0])
    except KeyboardInterrupt:
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    raise SystemExit(0)


def _stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _run(script: str) -> None:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):  # a sentence of the script
            raise MistereError(end.code) from end
        raise
    except subprocess.CalledProcessError as error:  # an arm in a process of its own
        last_line = (error.stderr or "").strip().splitlines()[-1:]
        raise MistereError(": ".join([f"an arm ended with exit code {error.returncode}", *last_line])) from error


if __name__ == "__main__":
    main()
