"""A TCP proxy in front of a real HTTP server, which fails at given requests: the client's connection is cut, or gets no answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_METHODS = (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"DELETE ")


class FailingProxy:
    """Forwards connections to a server.

    Args:
        server: host and port.
        fails: whether the request of a number, counted from 0 since the last :meth:`restart`, fails.
        arrives: whether the server gets a request that fails, so that only its answer is lost.
        hangs: seconds without any answer before the connection of a request that fails is cut.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.fails: Callable[[int], bool] = lambda _: False
        self.arrives = False
        self.hangs = 0.0
        self.requests = 0
        self._paused_at, self._pause = b"", 0.0
        self._runs = threading.Event()
        self._runs.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def restart(self, fails: Callable[[int], bool], *, arrives: bool = False, hangs: float = 0.0) -> None:
        """Count requests anew, with other failures."""
        self.requests, self.fails, self.arrives, self.hangs = 0, fails, arrives, hangs

    def pause_at(self, request: bytes, seconds: float = 0.0) -> None:
        """From the next request that contains ``request`` on, pass nothing on, as when the server's process is stopped (SIGSTOP).

        Args:
            request: a part of the request, such as its path.
            seconds: until it goes on; 0 for never, until :meth:`resume`.
        """
        self._paused_at, self._pause = request, seconds

    @property
    def paused(self) -> bool:
        """Whether nothing is passed on."""
        return not self._runs.is_set()

    def resume(self) -> None:
        """Pass on what has arrived in a pause, and all that follows."""
        self._runs.set()

    def _stop_before(self, data: bytes) -> None:
        if self._paused_at and self._paused_at in data:
            self._paused_at = b""
            self._runs.clear()
            if self._pause:
                threading.Timer(self._pause, self.resume).start()
        self._runs.wait()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as upstream, suppress(OSError):
            cut = threading.Event()
            threading.Thread(target=self._answers, args=(upstream, client, cut), daemon=True).start()
            while data := client.recv(1 << 16):
                if data.startswith(_METHODS):
                    number, self.requests = self.requests, self.requests + 1
                    if self.fails(number):
                        if not self.arrives:
                            time.sleep(self.hangs)
                            break
                        cut.set()
                self._stop_before(data)
                upstream.sendall(data)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _answers(self, upstream: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while data := upstream.recv(1 << 16):
                if cut.is_set():
                    client.shutdown(socket.SHUT_RDWR)
                    return
                self._runs.wait()
                client.sendall(data)
