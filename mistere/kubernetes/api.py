"""A small client of the Kubernetes API, with errors that say how to fix their cause.

Inside a cluster it uses the pod's service account, elsewhere the kubeconfig. All of its calls are idempotent, so it retries
transient failures (429, 5xx, a broken connection).
"""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.environment import trusted_authorities
from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import load_json

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import ApiException

FIELD_MANAGER: Final = "mistere"
"""The field manager of this project for server-side apply."""

_INSIDE = "KUBERNETES_SERVICE_HOST"
_KUBECONFIG = "~/.kube/config"
_RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
_TIMEOUT: Final = (10.0, 60.0)
_PAGE: Final = 200
_MAX_LENGTH = 400

MODIFIED: Final = "the object has been modified"
"""In the API server's refusal (409) of an object whose ``resourceVersion`` is not the present one (kubernetes/apiserver
``pkg/registry/generic/registry/store.go``, ``OptimisticLockErrorMsg``). An object without that field replaces any version."""


class KubernetesError(MistereError):
    """The Kubernetes API rejected a call, or does not answer.

    Attributes:
        code: HTTP status code; 0 without an answer.
        reason: the API's own message; empty if it has none.
    """

    def __init__(self, message: str, code: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class KubernetesApi:
    """A client of one cluster with one identity.

    Args:
        configuration: address and credentials.
        inside: whether this process runs in the cluster and can reach its pods.
        timeout: seconds to connect and to wait for the answer of one request.
        retry_delays: seconds to wait before each retry of a request; empty for no retries, None for the default.

    Attributes:
        date: the ``Date`` header of the last answer; empty before the first.
    """

    def __init__(
        self,
        configuration: Configuration,
        inside: bool,
        timeout: tuple[float, float] = _TIMEOUT,
        retry_delays: Sequence[float] | None = None,
    ) -> None:
        from kubernetes.client import ApiClient

        configuration.retries = False
        self.inside = inside
        self.date = ""
        self._timeout = timeout
        self._retry_delays = _RETRY_SECONDS if retry_delays is None else retry_delays
        self._configuration = configuration
        self._client = ApiClient(configuration)

    def get(self, path: str) -> dict[str, Any] | None:
        """Read an object; None if it does not exist.

        Raises:
            KubernetesError: the call was rejected, or the cluster does not know the object's kind.
        """
        try:
            return self._call("GET", path)
        except _MissingObjectError:
            return None

    def list(self, path: str, selector: str = "", fields: str = "") -> tuple[list[dict[str, Any]], str]:
        """Read the objects of a collection, and the version for :meth:`wait_for_change`."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"labelSelector": selector, "fieldSelector": fields, "limit": _PAGE}
        while True:
            try:
                page = self._call("GET", path, {key: value for key, value in query.items() if value})
            except KubernetesError as error:
                if error.code != 410 or "continue" not in query:
                    raise
                items.clear()  # 410: the continue token has expired, start again
                del query["continue"]
                continue
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    def apply(
        self, path: str, manifest: Mapping[str, Any], *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create or update an object by server-side apply.

        Args:
            path: path of the object.
            manifest: the fields to set.
            force: take over fields that other managers own.
            dry_run: validate on the server without changing anything.

        Raises:
            KubernetesError: the call was rejected, for example for a field that the cluster does not know.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        return self._call("PATCH", path, query, dict(manifest))

    def create(self, collection: str, manifest: Mapping[str, Any]) -> bool:
        """Create an object.

        Returns:
            False if an object of that name exists; it is not changed.

        Raises:
            KubernetesError: the call was rejected, for example for a field that the cluster does not know.
        """
        try:
            self._call("POST", collection, {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}, dict(manifest))
        except KubernetesError as error:
            if error.code == 409:
                return False
            raise
        return True

    def review(self, collection: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Post an object that the API answers and does not store, such as an access review; return the answer.

        Raises:
            KubernetesError: the call was rejected.
        """
        return self._call("POST", collection, body=dict(manifest))

    def delete(self, path: str, *, dependents_first: bool = False) -> None:
        """Delete an object if it exists.

        Args:
            path: path of the object.
            dependents_first: delete its dependents first (foreground deletion).
        """
        try:
            self._call("DELETE", path, {"propagationPolicy": "Foreground"} if dependents_first else None)
        except KubernetesError as error:
            if error.code != 404:
                raise

    def text(self, path: str, **query: Any) -> str:
        """Read a response that is not JSON: a log."""
        return self._repeat("GET", path, query, None).decode(errors="replace")

    def wait_for_change(self, path: str, version: str, seconds: float, selector: str = "", fields: str = "") -> None:
        """Wait for a change in a collection after ``version``, at most ``seconds``."""
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        whole = max(1, round(seconds))  # the server takes whole seconds
        read_timeout = seconds if seconds < 1 else whole + 5.0
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": whole}
        query |= {key: value for key, value in (("labelSelector", selector), ("fieldSelector", fields)) if value}
        began = time.monotonic()
        try:
            response = self._send("GET", path, query, None, (self._timeout[0], read_timeout))
            try:
                next(response.stream(None), b"")
            finally:
                response.release_conn()
                response.close()
        except (HTTPError, ApiException) as error:
            code = getattr(error, "status", 0)
            if code in {401, 403} and isinstance(error, ApiException):
                raise self._refusal(error, "GET", path) from error
            if code != 410:  # 410 means that the version has expired; the caller reads the collection again in any case
                time.sleep(max(0.0, min(1.0, began + seconds - time.monotonic())))

    def proxy(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext | bool]:
        """URL, headers and TLS settings for requests through the API server's proxy to ``path`` (a pod and port)."""
        configuration = self._configuration
        context: ssl.SSLContext | bool = True
        if configuration.host.startswith("https"):
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if not configuration.verify_ssl:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if configuration.cert_file:
                context.load_cert_chain(configuration.cert_file, configuration.key_file)
        token = configuration.get_api_key_with_prefix("authorization")
        return f"{configuration.host}{path}/proxy", {"Authorization": token} if token else {}, context

    def _call(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        answer = self._repeat(method, path, query or {}, body)
        try:
            value = load_json(answer)
        except ValueError as error:
            raise KubernetesError(f"{self.host} does not answer like a Kubernetes API: check its address.") from error
        return value if isinstance(value, dict) else {}

    def _repeat(self, method: str, path: str, query: Mapping[str, Any], body: dict[str, Any] | None) -> bytes:
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        for wait in (*self._retry_delays, None):
            try:
                response = self._send(method, path, query, body, self._timeout)
                self.date = str(response.headers.get("Date") or "")
                return bytes(response.data)
            except ApiException as error:
                transient = error.status == 429 or (error.status or 0) >= 500
                if wait is None or not transient:
                    raise self._refusal(error, method, path) from error
                time.sleep(max(wait, _retry_after(error)))
            except HTTPError as error:
                if wait is None:
                    raise KubernetesError(_no_answer(error, self.host)) from error
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: dict[str, Any] | None,
        timeout: tuple[float, float],
    ) -> Any:
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        return self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=timeout,
        )

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self._configuration.host)

    def _refusal(self, error: ApiException, method: str, path: str) -> KubernetesError:
        """Convert an error response to an error that says how to fix it."""
        code = int(error.status or 0)
        status = _status(error)
        reason = _one_line(str(status.get("message") or error.reason or ""))
        if code == 401:
            text = (
                f"the Kubernetes API at {self.host} does not accept the credentials (401): the token has expired or belongs to "
                "another cluster; log in again, or in a pod check that a service account's token is mounted."
            )
        elif code == 403 and "exceeded quota" in reason:
            text = f"the namespace's quota is used up ({reason}): raise it, or request less in the deployment section."
        elif code == 403 and "admission webhook" not in reason:
            text = f"the Kubernetes API does not allow it ({reason}): bind that account to a Role that allows it."
        elif code == 404 and not status.get("details", {}).get("name"):
            text = f"the cluster does not serve {path.rpartition('/')[0]}: install KServe there (0.16 or later)."
        elif code == 404:
            text = f"{reason or path}: create it, or correct the deployment section."
            return _MissingObjectError(text, code, reason)
        elif code == 409 and MODIFIED in reason:
            text = f"something else changes the object at the same time ({reason}): try again."
        elif code == 409:
            text = f"other field managers own fields to be changed ({reason}): make them release the fields, or delete the object."
        elif code in {400, 403, 422}:
            text = f"the cluster rejects it ({reason}): correct the deployment section."
        elif code == 0:
            text = f"the Kubernetes API at {self.host} does not match the kubeconfig ({reason}): check its certificate."
        else:
            text = f"the Kubernetes API at {self.host} failed ({method} answered {code}: {reason}): try again later."
        return KubernetesError(text, code, reason)


class _MissingObjectError(KubernetesError):
    """The kind is known, but the object does not exist."""


def is_configured() -> bool:
    """Whether this process runs in a cluster, or a kubeconfig exists."""
    files = (os.environ.get("KUBECONFIG") or _KUBECONFIG).split(os.pathsep)
    return bool(os.environ.get(_INSIDE)) or any(Path(file).expanduser().is_file() for file in files if file)


def connect(timeout: tuple[float, float] = _TIMEOUT, retry_delays: Sequence[float] | None = None) -> KubernetesApi:
    """Connect to the cluster in which this process runs, or to the one of the kubeconfig.

    Args:
        timeout: seconds to connect and to wait for the answer of one request.
        retry_delays: seconds to wait before each retry of a request; empty for no retries, None for the default.

    Raises:
        UsageError: there is neither.
    """
    from kubernetes import config
    from kubernetes.client import Configuration

    inside = bool(os.environ.get(_INSIDE))
    configuration = Configuration()
    try:
        if inside:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except config.ConfigException as error:
        fix = (
            "mount the service account's token in the pod"
            if inside
            else "run it in the cluster, or set KUBECONFIG to a kubeconfig with a current context"
        )
        raise UsageError(f"there is no access to a Kubernetes cluster ({_one_line(str(error))}): {fix}.") from error
    configuration.ssl_ca_cert = configuration.ssl_ca_cert or trusted_authorities()
    return KubernetesApi(configuration, inside, timeout, retry_delays)


def _status(error: ApiException) -> dict[str, Any]:
    """The ``Status`` object of an error response; empty if it has none."""
    with suppress(ValueError, TypeError, AttributeError):
        value = load_json(error.body)
        if isinstance(value, dict) and value.get("kind") == "Status":
            return value
    return {}


def _no_answer(error: Exception, host: str) -> str:
    from urllib3.exceptions import NewConnectionError, TimeoutError

    late = isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError)
    what = "did not answer in time" if late else f"cannot be reached ({type(error).__name__})"
    return f"the Kubernetes API at {host} {what}: check the network, a VPN or port-forward, and the address in the kubeconfig."


def _retry_after(error: ApiException) -> float:
    with suppress(ValueError, TypeError, AttributeError):
        return min(30.0, float(error.headers.get("Retry-After")))
    return 0.0


def _one_line(text: str) -> str:
    line = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}…"
