"""The connection to a shadow: what it serves, and its answer to a copy."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import numpy as np
import orjson

from mistere.predictor.shadow.copy import DialogueCopy
from mistere.serving import protocol
from mistere.serving.shadow.figures import MOST_LABELS

_MOST_BYTES: Final = 16 << 20
_PROBE_SECONDS: Final = 2.0
_CHUNK: Final = 1 << 16
_OUTCOMES: Final = {413: "unsendable", 429: "busy", 503: "busy"}
"""By status: what limits the number of comparisons, and is no error of the shadow."""


class CopyError(Exception):
    """A copy without a comparable answer.

    Attributes:
        outcome: of :data:`mistere.serving.shadow.figures.OUTCOMES`.
    """

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class AnotherBundleError(Exception):
    """The shadow serves another bundle than before."""


@dataclass(frozen=True)
class Identity:
    """What a shadow serves."""

    digest: str
    labels: tuple[str, ...]


class Peer:
    """A shadow at one address. It is used by one thread.

    Args:
        url: ``http://host:port``, which redirects lead nowhere from and proxies are not used for.
        model_name: the model's name in its paths.
        timeout: time limit of an answer, seconds.
    """

    def __init__(self, url: str, model_name: str, timeout: float) -> None:
        self.url = url
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._open = lambda seconds: kind(parts.hostname or "", parts.port, timeout=seconds)
        self._path = f"{parts.path.rstrip('/')}/v2/models/{quote(model_name, safe='')}"
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def identify(self) -> Identity | None:
        """What it serves; None if it is not ready, or answers something else."""
        connection = self._open(_PROBE_SECONDS)
        try:
            code, body = _exchange(connection, "GET", self._path, b"", {}, _PROBE_SECONDS)
        except (OSError, http.client.HTTPException, CopyError, ValueError):
            return None
        finally:
            connection.close()
        properties = _properties(body) if code == 200 else None
        if properties is None:
            return None
        digest, labels = properties.get(protocol.BUNDLE_DIGEST), properties.get(protocol.LABELS)
        if not (isinstance(digest, str) and digest.isalnum() and len(digest) <= 64 and isinstance(labels, str)):
            return None
        names = tuple(protocol.split_names(labels))
        usable = 0 < len(names) <= MOST_LABELS and len(set(names)) == len(names)
        return Identity(digest, names) if usable else None

    def ask(self, copy: DialogueCopy, identity: Identity) -> tuple[np.ndarray, float]:
        """Its probabilities ``[n, D]`` for a dialogue, and the seconds that they took.

        Args:
            copy: the dialogue.
            identity: what it served when it was asked first.

        Raises:
            CopyError: there is no answer to compare.
            AnotherBundleError: another bundle answered.
        """
        body, headers = copy.request()
        start = time.perf_counter()
        code, content = self._post(body, headers)
        seconds = time.perf_counter() - start
        if code != 200:
            raise CopyError(_OUTCOMES.get(code, "refused" if 400 <= code < 500 else "failed"))
        return _probabilities(content, len(copy.dialogue), identity), seconds

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Post on the kept connection, or on a new one if the shadow has closed that meanwhile."""
        for attempt in range(2):
            kept = self._connection is not None
            connection = self._connection or self._open(self._timeout)
            self._connection = connection
            try:
                return _exchange(connection, "POST", f"{self._path}/infer", body, headers, self._timeout)
            except TimeoutError as error:
                self.close()
                raise CopyError("slow") from error
            except CopyError:
                self.close()
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                if not kept or attempt:
                    raise CopyError("unreachable") from error
        raise AssertionError

    def interrupt(self) -> None:
        """End the wait for an answer; called by another thread."""
        connection = self._connection
        waiting = connection.sock if connection is not None else None
        if waiting is not None:
            with contextlib.suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next copy opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    seconds: float,
) -> tuple[int, bytes]:
    """One request; the connection stays open.

    Raises:
        TimeoutError: the whole answer is not here in time.
        CopyError: it is too large.
        OSError, HTTPException: there is no connection, or no HTTP.
    """
    deadline = time.monotonic() + seconds
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > _MOST_BYTES:
            raise CopyError("malformed")
        if time.monotonic() > deadline:
            raise TimeoutError
        chunks.append(chunk)
    return response.status, b"".join(chunks)


def _properties(body: bytes) -> dict[str, Any] | None:
    try:
        properties = orjson.loads(body)["properties"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return properties if isinstance(properties, dict) else None


def _probabilities(content: bytes, turns: int, identity: Identity) -> np.ndarray:
    try:
        answer = orjson.loads(content)
        (output,) = answer["outputs"]
        digest = answer["parameters"][protocol.BUNDLE_DIGEST]
        values = np.array(output["data"], dtype=np.float64)
        shape = [turns, len(identity.labels)]
        valid = (
            output["name"] == protocol.PROBABILITIES and output["shape"] == shape and values.size == turns * shape[1]
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CopyError("malformed") from error
    if digest != identity.digest:
        raise AnotherBundleError
    if not valid or not bool((values >= 0).all() and (values <= 1.001).all()):
        raise CopyError("malformed")
    return values.reshape(shape)
