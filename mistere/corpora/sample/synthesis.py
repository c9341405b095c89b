"""Client of the synthesizer process (:mod:`mistere.corpora.sample.speak`); does not load the synthesizer itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mistere.common.errors import MissingPackageError, MistereError
from mistere.common.processes.child_environment import child_environment

_WORKER = "mistere.corpora.sample.speak"
_IN_FLIGHT = 8
"""Requests in flight, so that synthesizer and caller work in parallel. Few enough to fit the buffer of any pipe."""


def require_synthesizer() -> None:
    """Check that espeak-ng is installed.

    Raises:
        MissingPackageError: it is not installed.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise MissingPackageError(
            "making the sample needs the speech synthesizer espeak-ng, which is not installed: "
            "run `pip install -e .[sample]`."
        )


def synthesize(requests: Iterable[Mapping[str, str | int]]) -> Iterator[tuple[NDArray[np.int16], int]]:
    """Speak utterances one after another in a separate process.

    Args:
        requests: the arguments of :meth:`mistere.corpora.sample.speak.Synthesizer.speak` for each utterance.

    Yields:
        For each request, in order, mono samples ``[N]`` and their rate in Hz.

    Raises:
        MissingPackageError: espeak-ng is not installed.
        MistereError: its process failed.
    """
    require_synthesizer()
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert worker.stdin is not None and worker.stdout is not None
        try:
            yield from _exchange(requests, worker.stdin, worker.stdout)
        except (EOFError, BrokenPipeError) as error:
            worker.wait()
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {worker.returncode}"
            raise MistereError(
                f"the speech synthesizer stopped: {reason}; install espeakng-loader again (`pip install -e .[sample]`)."
            ) from error
        finally:
            worker.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
            worker.terminate()
            worker.wait()


def _exchange(
    requests: Iterable[Mapping[str, str | int]], send: IO[bytes], receive: IO[bytes]
) -> Iterator[tuple[NDArray[np.int16], int]]:
    rate = _read_count(receive)
    waiting: deque[None] = deque()
    for request in requests:
        send.write(json.dumps(dict(request)).encode() + b"\n")
        send.flush()
        waiting.append(None)
        if len(waiting) >= _IN_FLIGHT:
            waiting.popleft()
            yield _read_speech(receive), rate
    for _ in waiting:
        yield _read_speech(receive), rate


def _read_speech(receive: IO[bytes]) -> NDArray[np.int16]:
    return np.frombuffer(_read_exactly(receive, _read_count(receive)), dtype="<i2")


def _read_count(receive: IO[bytes]) -> int:
    count: tuple[Any, ...] = struct.unpack("<I", _read_exactly(receive, 4))
    return int(count[0])


def _read_exactly(receive: IO[bytes], count: int) -> bytes:
    data = receive.read(count)
    if len(data) < count:
        raise EOFError
    return data
