"""nginx as the proxy of a Gateway: its configuration follows the HTTPRoute and the ready pods of the services that the route names.

It passes WebSocket upgrades on, as Envoy Gateway does for every HTTPRoute whose backend does not speak HTTP/2 (envoyproxy/gateway,
``internal/xds/translator/route.go``: ``UpgradeConfigs``). The Gateway API leaves the choice to the controller (kubernetes-sigs/gateway-api,
``geps/gep-1911``).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mistere.serving import protocol
from tests.stand_ins.kserve_controller import SERVICE
from tests.stand_ins.kubernetes_api import KubernetesApi

_HEAD = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
"""
_PASS_ON = (
    "proxy_pass http://$backend; proxy_http_version 1.1; proxy_set_header Host $http_host; "
    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
)
_LISTEN_SECONDS = 20.0


def nginx_program() -> str:
    """The path of nginx; the test is skipped without it."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    return program


def ready_pods(cluster: KubernetesApi) -> Callable[[str], list[str]]:
    """The addresses of a backend's ready pods, ``host:port``."""

    def addresses(backend: str) -> list[str]:
        pods: list[dict[str, Any]] = cluster.all("pods")
        service = backend.removesuffix("-predictor")
        return [
            f"{pod['status']['podIP']}:{protocol.HTTP_PORT}"
            for pod in pods
            if pod["metadata"]["labels"][SERVICE] == service
            and {"type": "Ready", "status": "True"} in pod["status"]["conditions"]
        ]

    return addresses


class NginxGateway:
    """Runs nginx on a local port; each backend of the route is an upstream, and ``split_clients`` draws one by its weight.

    Args:
        program: nginx.
        folder: an empty one for its files.
        addresses: the present addresses of a backend, ``host:port``.

    Attributes:
        url: where clients call it.
    """

    def __init__(self, program: str, folder: Path, addresses: Callable[[str], list[str]]) -> None:
        self._program, self._folder, self._addresses = program, folder, addresses
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._lock, self._over = threading.Lock(), threading.Event()
        self._weights: dict[str, int] = {}
        self._written = ""
        self._failures: list[BaseException] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._follow_pods, daemon=True)
        self._thread.start()

    def apply(self, weights: dict[str, int]) -> None:
        """Take over the weights of a route; nginx has them when this returns."""
        with self._lock:
            self._weights = weights
            self._write()

    def stop(self) -> None:
        """End nginx.

        Raises:
            BaseException: what has kept it from following the pods.
        """
        self._over.set()
        self._thread.join()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        if self._failures:
            raise self._failures[0]

    def _follow_pods(self) -> None:
        try:
            while not self._over.wait(0.02):
                with self._lock:
                    self._write()
        except BaseException as error:
            self._failures.append(error)

    def _write(self) -> None:
        text = self._configuration()
        if not text or text == self._written:
            return
        path = self._folder / "nginx.conf"
        path.write_text(text, encoding="utf-8")
        self._written = text
        command = [self._program, "-p", str(self._folder), "-e", str(self._folder / "error.log"), "-c", str(path)]
        if self._process is None:
            self._process = subprocess.Popen(command)
            self._wait_until_open()
        else:
            before = self._workers()
            subprocess.run([*command, "-s", "reload"], check=True, timeout=20)
            deadline = time.monotonic() + _LISTEN_SECONDS
            while self._workers() & before and time.monotonic() < deadline:
                time.sleep(0.01)

    def _workers(self) -> set[str]:
        """The processes that take connections: the children that are not shutting down."""
        assert self._process is not None
        pid = self._process.pid
        taking = set()
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
                if b"shutting down" not in Path(f"/proc/{child}/cmdline").read_bytes():
                    taking.add(child)
        return taking

    def _configuration(self) -> str:
        drawn = {name: weight for name, weight in self._weights.items() if weight}
        upstreams = {name: self._addresses(name) for name in drawn}
        if not drawn or not all(upstreams.values()):
            return ""
        lines = [_HEAD.format(folder=self._folder)]
        for name, addresses in upstreams.items():
            servers = " ".join(f"server {address} max_fails=0;" for address in addresses)
            lines.append(f"  upstream {name} {{ {servers} }}")
        *first, last = drawn.items()
        total = sum(drawn.values())
        parts = " ".join(f"{100 * weight / total:.2f}% {name};" for name, weight in first)
        lines += [
            f"  split_clients $request_id $backend {{ {parts} * {last[0]}; }}",
            f"  server {{ listen 127.0.0.1:{self._port}; location / {{ {_PASS_ON} }} }}",
            "}",
        ]
        return "\n".join(lines)

    def _wait_until_open(self) -> None:
        deadline = time.monotonic() + _LISTEN_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self._folder / "error.log").read_text(encoding="utf-8"))
