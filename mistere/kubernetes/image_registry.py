"""A container registry's API (OCI distribution), as far as signatures beside an image need it.

What a registry answers is not trusted: every answer has a size limit, and content is compared with its digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from mistere.common.environment import trusted_authorities
from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import ParseError, load_json, read_json

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

AFFECTS_RESULTS = False

CREDENTIALS_VARIABLE: Final = "REGISTRY_AUTH_FILE"
"""Path of the credentials of registries, as Podman and skopeo read it; without it, Docker's and Podman's own files are read."""
IMAGE_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX: Final = "application/vnd.oci.image.index.v1+json"

_MANIFESTS: Final = (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MANIFEST_BYTES: Final = 4 * 2**20
"""Size limit of a manifest, as in the distribution specification."""
_TOKEN_BYTES: Final = 2**16
_TIMEOUT: Final = (10.0, 30.0)
_RETRY_DELAYS: Final = (1.0, 3.0)
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+")
_DOCKER_HUB: Final = "docker.io"
_DOCKER_HUB_LOGIN: Final = "index.docker.io"
"""The name of Docker Hub in the logins of `docker login`."""
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(MistereError):
    """A registry cannot be reached, refuses, or does not answer like one."""


class ImageRegistry:
    """One repository of a registry.

    Plain HTTP is used for a registry on this machine only (``localhost:5000/…``).

    Args:
        repository: registry and path, as in an image's name: ``registry.example.org/mistere/predictor-python``.

    Raises:
        UsageError: the repository is on no registry, because the image was only built locally.
    """

    def __init__(self, repository: str) -> None:
        import requests

        host, path = _split(repository)
        if host == "localhost":
            raise UsageError(
                f"{repository} names no registry, so the image has no signature: push the images and name their registry with "
                "`python -m pipelines.images --registry REGISTRY/PATH`."
            )
        self.repository, self._host = repository, host
        server = "registry-1.docker.io" if host == _DOCKER_HUB else host
        self._url = f"{'http' if _LOOPBACK.fullmatch(host) else 'https'}://{server}/v2/{path}/"
        self._login = _credentials(repository, host)
        self._session = requests.Session()
        self._session.auth = self._authorize
        self._authorization = ""

    def manifest(self, reference: str) -> tuple[dict[str, Any], str] | None:
        """A manifest by tag or digest.

        Returns:
            The manifest and its digest; None if there is none.

        Raises:
            RegistryError: the registry fails, or the content has not the requested digest.
        """
        with self._request("GET", f"manifests/{reference}", headers={"Accept": ", ".join(_MANIFESTS)}) as response:
            if response.status_code == 404:
                return None
            content = self._read(self._expect(response, 200), _MANIFEST_BYTES)
        digest = digest_of(content)
        if reference.startswith("sha256:") and digest != reference:
            raise RegistryError(
                f"the registry {self._host} answers with other content than {reference}: do not use it."
            )
        return self._parse(content), digest

    def blob(self, digest: str, limit: int) -> bytes:
        """A blob of at most ``limit`` bytes.

        Raises:
            RegistryError: it is missing or longer, has another digest, or the registry fails.
        """
        with self._request("GET", f"blobs/{digest}") as response:
            content = self._read(self._expect(response, 200), limit)
        if digest_of(content) != digest:
            raise RegistryError(f"the registry {self._host} answers with other content than {digest}: do not use it.")
        return content

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to one: by the referrers API, or by its tag where the registry has none."""
        with self._request("GET", f"referrers/{digest}", headers={"Accept": IMAGE_INDEX}) as response:
            if response.status_code == 200 and response.headers.get("Content-Type", "").startswith(IMAGE_INDEX):
                index = self._parse(self._read(response, _MANIFEST_BYTES))
            else:
                tagged = self.manifest(digest.replace(":", "-"))
                index = tagged[0] if tagged else {}
        manifests = index.get("manifests")
        return [one for one in manifests if isinstance(one, dict)] if isinstance(manifests, list) else []

    def put_blob(self, content: bytes) -> str:
        """Upload a blob; returns its digest."""
        digest = digest_of(content)
        with self._request("HEAD", f"blobs/{digest}") as response:
            if response.status_code == 200:
                return digest
        with self._request("POST", "blobs/uploads/") as response:
            location = self._expect(response, 202).headers.get("Location", "")
        url = urljoin(self._url, location)
        headers = {"Content-Type": "application/octet-stream"}
        upload = f"{url}{'&' if urlsplit(url).query else '?'}digest={digest}"
        with self._request("PUT", upload, headers=headers, data=content) as response:
            self._expect(response, 201)
        return digest

    def put_manifest(self, tag: str, content: Mapping[str, Any]) -> str:
        """Store a manifest under a tag; returns its digest."""
        data = json.dumps(content).encode()
        with self._request(
            "PUT", f"manifests/{tag}", headers={"Content-Type": str(content["mediaType"])}, data=data
        ) as response:
            self._expect(response, 201)
        return digest_of(data)

    @contextmanager
    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Iterator[Response]:
        """One request, after a login where the registry asks for it; retries what may pass."""
        url = urljoin(self._url, path)
        response = self._send(method, url, headers, data)
        if response.status_code == 401 and self._log_in(response.headers.get("WWW-Authenticate", "")):
            response.close()
            response = self._send(method, url, headers, data)
        try:
            yield response
        finally:
            response.close()

    def _send(self, method: str, url: str, headers: Mapping[str, str] | None, data: bytes | None) -> Response:
        import requests

        for delay in (*_RETRY_DELAYS, None):
            try:
                response = self._session.request(
                    method,
                    url,
                    headers=dict(headers or {}),
                    data=data,
                    timeout=_TIMEOUT,
                    stream=True,
                    verify=trusted_authorities() or True,
                )
            except requests.RequestException as error:
                if delay is None or isinstance(error, requests.exceptions.SSLError):
                    raise RegistryError(self._unreachable(url, error)) from error
            else:
                if delay is None or not (response.status_code == 429 or response.status_code >= 500):
                    return response
                response.close()
            time.sleep(delay)
        raise AssertionError("unreachable")

    def _log_in(self, challenge: str) -> bool:
        """Get what the registry asks for; returns whether there is something to try."""
        scheme, _, rest = challenge.partition(" ")
        login = f"Basic {base64.b64encode(self._login.encode()).decode()}" if self._login else ""
        if scheme.lower() == "basic":
            self._authorization = login
            return bool(login)
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.get("realm", "")
        if scheme.lower() != "bearer" or not realm.startswith(("https://", self._url.partition("/v2/")[0] + "/")):
            return False  # the login is sent over TLS only, or to the registry on this machine
        query = "&".join(f"{name}={fields[name]}" for name in ("service", "scope") if name in fields)
        self._authorization = login
        response = self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", None, None)
        with response:
            answer = self._parse(self._read(self._expect(response, 200), _TOKEN_BYTES))
        token = answer.get("token") or answer.get("access_token")
        self._authorization = f"Bearer {token}" if token else ""
        return bool(token)

    def _authorize(self, request: PreparedRequest) -> PreparedRequest:
        if self._authorization:
            request.headers["Authorization"] = self._authorization
        return request

    def _expect(self, response: Response, status: int) -> Response:
        if response.status_code == status:
            return response
        code = response.status_code
        if code in {401, 403}:
            raise RegistryError(
                f"the registry {self._host} does not give access to {self.repository} ({code}): name the registry's pull secret in "
                f"cluster.image_pull_secret, or log in on this machine (`docker login {self._host}`)."
            )
        raise RegistryError(
            f"the registry {self._host} answered {code} for {self.repository}: check the image's name, and that the registry works."
        )

    def _read(self, response: Response, limit: int) -> bytes:
        import requests

        content = bytearray()
        try:
            for chunk in response.iter_content(2**16):
                content += chunk
                if len(content) > limit:
                    raise RegistryError(
                        f"the registry {self._host} answers with more than {limit} bytes where a signature is expected: "
                        f"check what is beside the images in {self.repository}."
                    )
        except requests.RequestException as error:
            raise RegistryError(self._unreachable(response.url, error)) from error
        return bytes(content)

    def _parse(self, content: bytes) -> dict[str, Any]:
        try:
            value = load_json(content)
        except ParseError:
            value = None
        if not isinstance(value, dict):
            raise RegistryError(f"{self._host} does not answer like a container registry: check the image's name.")
        return value

    def _unreachable(self, url: str, error: Exception) -> str:
        return (
            f"the registry {urlsplit(url).netloc} cannot be reached ({type(error).__name__}), so the signatures of "
            f"{self.repository} cannot be read: check the name, the network and its policies, and the certificate."
        )


def digest_of(content: bytes) -> str:
    """The digest of content: ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _split(repository: str) -> tuple[str, str]:
    """Registry and path; names without a registry are on Docker Hub."""
    first, _, rest = repository.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return _DOCKER_HUB, repository if rest else f"library/{repository}"


def _credentials(repository: str, host: str) -> str:
    """``user:password`` for a repository; empty for anonymous access.

    Raises:
        UsageError: the file of credentials is not readable.
    """
    named = os.environ.get(CREDENTIALS_VARIABLE)
    folder = os.environ.get("DOCKER_CONFIG")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    files = [
        *([Path(named)] if named else []),
        *([Path(runtime) / "containers" / "auth.json"] if runtime else []),
        (Path(folder) if folder else Path.home() / ".docker") / "config.json",
    ]
    names = {host, _DOCKER_HUB_LOGIN} if host == _DOCKER_HUB else {host}
    for file in files:
        best = (-1, "")
        for server, entry in _logins(file).items():
            name = _server_name(server)
            if name in names or f"{repository}/".startswith(f"{name}/"):
                best = max(best, (len(name), _login(entry)))
        if best[1]:
            return best[1]
    return ""


def _server_name(server: str) -> str:
    """Host and path of a server as logins name it: ``https://registry.example.org/v1/`` is ``registry.example.org``.

    Kubernetes reads a pull secret in the same way (pkg/credentialprovider/keyring.go, ``Add``).
    """
    host, _, path = server.rpartition("://")[2].partition("/")
    path = f"/{path}".removeprefix("/v1/").removeprefix("/v2/")
    return f"{host}/{path.strip('/')}".rstrip("/")


def _logins(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            return {}
        logins = read_json(file).get("auths") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{file} does not hold credentials of registries: log in again, or recreate the pull secret."
        ) from error
    return dict(logins) if isinstance(logins, dict) else {}


def _login(entry: object) -> str:
    if not isinstance(entry, dict):
        return ""
    if entry.get("username"):
        return f"{entry['username']}:{entry.get('password', '')}"
    try:
        return base64.b64decode(str(entry.get("auth", "")), validate=True).decode()
    except ValueError:
        return ""
