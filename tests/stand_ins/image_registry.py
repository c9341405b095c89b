"""A container registry in memory that answers as CNCF distribution 2.8.2 does, with logins and faults on request.

Statuses, headers and bodies are those of its ``registry/handlers`` and ``registry/api/errcode``; the same tests run against
the real program where it is installed. The referrers API, which 2.8 does not have, answers as the OCI distribution
specification 1.1 says ("Listing Referrers").
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stand_ins.http_server import HttpServer, Reply

INDEX = "application/vnd.oci.image.index.v1+json"
TOKEN = "short-lived"


def error(status: int, code: str, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, {"errors": [{"code": code, "message": code.lower(), "detail": None}]}, headers or {})


class Registry(HttpServer):
    """The registry.

    Attributes:
        login: ``user:password`` that it requires; empty for anonymous access.
        scheme: how it asks for the login: ``Bearer`` or ``Basic``.
        realm: address of the token server; its own if empty.
        referrers_api: whether it has the referrers API.
        replaced: content by digest that it answers with instead of the true one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.login, self.scheme, self.realm = "", "Bearer", ""
        self.referrers_api = False
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.replaced: dict[str, bytes] = {}

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/token":
            return self._token(query, headers.get("authorization", ""))
        if self.login and not self._is_allowed(headers.get("authorization", "")):
            return error(401, "UNAUTHORIZED", {"Www-Authenticate": self._challenge(url.path)})
        match = re.fullmatch(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers)/(?P<reference>.*)", url.path)
        if match is None:
            return error(404, "NAME_UNKNOWN")
        kind, reference = match["kind"], match["reference"]
        if kind == "manifests":
            return self._manifest(method, reference, headers.get("content-type", ""), body)
        if kind == "referrers":
            return self._referrers(reference)
        if method == "POST":
            location = f"{self.url}/v2/{match['name']}/blobs/uploads/1?_state=s"
            return Reply(202, b"", {"Location": location, "Docker-Upload-Uuid": "1"})
        if method == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if query.get("digest") != digest:
                return error(400, "DIGEST_INVALID")
            self.blobs[digest] = body
            return Reply(201, b"", {"Docker-Content-Digest": digest})
        content = self.replaced.get(reference, self.blobs.get(reference))
        return error(404, "BLOB_UNKNOWN") if content is None else Reply(200, content)

    def _manifest(self, method: str, reference: str, kind: str, body: bytes) -> Reply:
        if method == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            named = json.loads(body)
            parts = [*named.get("layers", []), *([named["config"]] if "config" in named else [])]
            if any(part["digest"] not in self.blobs for part in parts):
                return error(400, "MANIFEST_BLOB_UNKNOWN")
            self.manifests[digest] = self.manifests[reference] = (body, kind)
            return Reply(201, b"", {"Docker-Content-Digest": digest})
        if reference not in self.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        content, kind = self.manifests[reference]
        return Reply(200, self.replaced.get(reference, content), {"Content-Type": kind})

    def _referrers(self, digest: str) -> Reply:
        if not self.referrers_api:
            return Reply(404, b"404 page not found\n", {"Content-Type": "text/plain; charset=utf-8"})
        descriptors: list[dict[str, Any]] = []
        for reference, (content, kind) in self.manifests.items():
            manifest = json.loads(content)
            if reference.startswith("sha256:") and manifest.get("subject", {}).get("digest") == digest:
                descriptor = {"mediaType": kind, "size": len(content), "digest": reference}
                descriptors.append({**descriptor, "artifactType": manifest.get("artifactType", "")})
        return Reply(200, {"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}, {"Content-Type": INDEX})

    def _challenge(self, path: str) -> str:
        if self.scheme == "Basic":
            return 'Basic realm="registry"'
        name = path.removeprefix("/v2/").partition("/manifests")[0]
        realm = self.realm or f"{self.url}/token"
        return f'Bearer realm="{realm}",service="registry",scope="repository:{name}:pull"'

    def _is_allowed(self, authorization: str) -> bool:
        return authorization == (f"Bearer {TOKEN}" if self.scheme == "Bearer" else self._basic())

    def _basic(self) -> str:
        return f"Basic {base64.b64encode(self.login.encode()).decode()}"

    def _token(self, query: dict[str, str], authorization: str) -> Reply:
        if authorization != self._basic():
            return error(401, "UNAUTHORIZED")
        assert query["service"] == "registry" and query["scope"].startswith("repository:")
        return Reply(200, {"token": TOKEN, "expires_in": 300})
