"""An S3 server over a socket: moto's, whose requests for objects are atomic like those of S3."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.local.servers import free_port


@contextmanager
def running_s3() -> Iterator[str]:
    """Serve S3 until the block ends.

    moto compares ``If-Match`` with the object and writes it in two steps, so that two threads can both pass the comparison; S3
    answers 412 to all conditional writes of an object but the first that finishes (Amazon S3 User Guide, "Add preconditions to S3
    operations with conditional requests"). The lock is taken when a request's body has been read: a slow client delays nobody.

    Yields:
        The server's URL.
    """
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    lock = threading.RLock()
    answer = S3Response._key_response

    def answer_alone(self: S3Response, request: Any, full_url: str) -> Any:
        with lock:
            return answer(self, request, full_url)

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    with mock.patch.object(S3Response, "_key_response", answer_alone):
        server.start()
        try:
            # The first request imports the rest of moto, which outlasts a client's timeout where the machine is busy.
            with socket.create_connection(("127.0.0.1", port), timeout=600) as first:
                first.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                assert first.recv(12).startswith(b"HTTP/1.1")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop()
