"""Stand-ins for ``mistere doctor``: a container registry, and an S3 server with injectable errors."""

from __future__ import annotations

import http.client
from urllib.parse import parse_qs, urlsplit

from tests.stand_ins.http_server import HttpServer, Reply


class Registry(HttpServer):
    """A container registry; with ``login`` it issues anonymous tokens first, as public ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.images: set[str] = set()
        self.login = False
        self.private = False

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if path.startswith("/token"):
            assert parse_qs(urlsplit(path).query)["scope"] == ["repository:team/mistere:pull"]
            return Reply(200, {"token": "for-all"})
        authorized = headers.get("authorization") == "Bearer for-all"
        if self.private or (self.login and not authorized):
            challenge = f'Bearer realm="{self.url}/token",service="registry",scope="repository:team/mistere:pull"'
            return Reply(401, {"errors": [{"code": "UNAUTHORIZED"}]}, {"WWW-Authenticate": challenge})
        assert "application/vnd.oci.image.index.v1+json" in headers["accept"]
        name, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        return (
            Reply(200, {}) if f"{name}:{tag}" in self.images else Reply(404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]})
        )


class TroubledS3(HttpServer):
    """A proxy of a real S3 server: rejects single methods, or drops the conditions of conditional puts."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._behind = urlsplit(endpoint).netloc
        self.refuses: dict[str, tuple[int, str]] = {}
        self.forgets_conditions = False

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if method in self.refuses:
            status, code = self.refuses[method]
            error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>"
            return Reply(status, error.encode(), {"Content-Type": "application/xml"})
        if self.forgets_conditions:
            headers = {name: value for name, value in headers.items() if not name.startswith("if-")}
        connection = http.client.HTTPConnection(self._behind, timeout=10)
        connection.request(method, path, body, {**headers, "host": self._behind})
        answer = connection.getresponse()
        data = answer.read()
        dropped = {"date", "server", "connection", "transfer-encoding"}
        return Reply(
            answer.status, data, {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
        )
