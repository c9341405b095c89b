"""Where the shadow is: at a fixed address, or a process of this machine that serves what the store names."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Protocol

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import MistereError
from mistere.common.processes.child_environment import child_environment
from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import VARIABLE_PREFIX, rendered
from mistere.serving.local_predictor import free_ports, last_line, stop
from mistere.serving.shadow.pointer import find_shadow, shadow_pointer_key

logger = logging.getLogger("kserve.predictor")

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0
_GONE_SECONDS: Final = 600.0
"""Time without an answer after which a shadow that no record is known of is taken for removed."""


class Target(Protocol):
    """Where the shadow is."""

    def url(self) -> str:
        """Its address now; empty if there is none."""

    def found(self) -> None:
        """Called when a shadow answers, or another one than before."""

    def is_removed(self, seconds: float) -> bool:
        """Whether a shadow that does not answer is gone on purpose, so that its silence is no error.

        Args:
            seconds: since when it has not answered.
        """

    def close(self) -> None:
        """End what was started for it."""


class FixedTarget:
    """A shadow at one address, whether it runs or not. It is used by one thread.

    Args:
        url: ``http://host:port``.
        store: with the record of the shadow, unless somebody runs it without one.
        service: the service that is shadowed.
    """

    def __init__(self, url: str, store: ObjectStore, service: str) -> None:
        self._url, self._store, self._service = url, store, service
        self._was_recorded = False

    def url(self) -> str:
        """The address."""
        return self._url

    def is_removed(self, seconds: float) -> bool:
        """Whether its record is gone; where there never was one, or the store does not say, whether it has been silent for long."""
        recorded = self._is_recorded()
        if recorded:
            self._was_recorded = True
            return False
        return (self._was_recorded and recorded is False) or seconds >= _GONE_SECONDS

    def found(self) -> None:
        """Note whether the shadow that answers has a record."""
        self._was_recorded = bool(self._is_recorded())

    def _is_recorded(self) -> bool | None:
        """Whether there is a record, damaged or not; None if the store does not say."""
        try:
            self._store.read(shadow_pointer_key(self._service))
        except MissingObjectError:
            return False
        except (MistereError, OSError):
            return None
        return True

    def close(self) -> None:
        """Do nothing: others run it."""


class LocalTarget:
    """A shadow that runs on this machine while the store says so. It is used by one thread, which the process ends with.

    Args:
        store: with the record of the shadow.
        service: the service that is shadowed.
        options: of the predictor in front, which the shadow gets too.
    """

    def __init__(self, store: ObjectStore, service: str, options: PredictorConfig) -> None:
        self._store, self._service, self._options = store, service, options
        self._folder = tempfile.TemporaryDirectory(prefix="mistere-shadow-")
        self._process: subprocess.Popen[bytes] | None = None
        self._location = self._url = ""
        self._pause, self._not_before = _FIRST_PAUSE, 0.0

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    def url(self) -> str:
        """The address of the process, which is started or ended first as the store says."""
        try:
            shadow = find_shadow(self._store, self._service)
        except MistereError as error:  # damaged, or the store does not answer: what runs goes on
            logger.warning("the shadow stays as it is: %s", error)
            return self._url
        location = shadow.deployment.bundle_location if shadow is not None else ""
        if location != self._location:
            self._end()
            self._location, self._pause, self._not_before = location, _FIRST_PAUSE, 0.0
        if not location:
            return ""
        if self._process is not None and (code := self._process.poll()) is not None:
            reason = last_line(self._log)
            logger.warning("the shadow ended with exit code %d, and starts again in %g s.%s", code, self._pause, reason)
            self._process = None
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._process is None and time.monotonic() >= self._not_before:
            self._start()
        return self._url

    def found(self) -> None:
        """Do nothing: the record is read at every look."""

    def is_removed(self, seconds: float) -> bool:
        """Never: without a record there is no address."""
        return False

    def _start(self) -> None:
        http, grpc = free_ports(2)
        place = ["--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)]
        command = [sys.executable, "-m", "mistere.predictor.shadow", str(os.getpid()), self._location, *place]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--model-name", self._service, *shadow_arguments(self._options)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=shadow_environment(),
            )
        self._url = f"http://127.0.0.1:{http}"

    def _end(self) -> None:
        if self._process is not None:
            stop(self._process)
        self._process, self._url = None, ""

    def close(self) -> None:
        """End the process."""
        self._end()
        self._folder.cleanup()


def shadow_arguments(options: PredictorConfig) -> list[str]:
    """The arguments of a shadow on this machine, which differ from those of the predictor in front only where a shadow must."""
    idle = "--shadow-idle" if options.shadow_idle else "--no-shadow-idle"
    return [*rendered(options.for_shadow().model_copy(update={"drain_seconds": 0.0})), idle]


def shadow_environment() -> dict[str, str]:
    """Its environment, without the variables of options: the arguments set those that the predictor in front has."""
    return {name: value for name, value in child_environment().items() if not name.startswith(VARIABLE_PREFIX)}
