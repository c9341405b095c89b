"""The few calls of the Kubernetes API that a deployment needs, and what its refusals mean in words.

Inside a cluster the pod's service account speaks, elsewhere the kubeconfig. Only calls that may be repeated are made, so what
fails for the moment (429, 5xx, a connection that breaks) is tried again.
"""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import ApiException

FIELD_MANAGER: Final = "mistere"
"""Under which this project's fields of an object are known."""

_INSIDE = "KUBERNETES_SERVICE_HOST"
_KUBECONFIG = "~/.kube/config"
_PATIENCE: Final = (0.5, 1.0, 2.0, 4.0)
_TIMEOUT: Final = (10.0, 60.0)
_PAGE: Final = 200
_LONGEST = 400


class KubernetesError(MistereError):
    """The Kubernetes API refused a call, or does not answer.

    Attributes:
        code: of HTTP; 0 where there was no answer.
        said: what the API itself says; empty where it says nothing.
    """

    def __init__(self, message: str, code: int = 0, said: str = "") -> None:
        super().__init__(message)
        self.code, self.said = code, said


class KubernetesApi:
    """One cluster, as one identity.

    Args:
        configuration: address and credentials.
        inside: whether this process runs in the cluster, and so reaches its pods.
        timeout: seconds to connect and to wait for the answer of one request.
        retry_delays: seconds to wait before each retry of a request; empty for no retries.

    Attributes:
        date: the ``Date`` header of the last answer; empty before the first.
    """

    def __init__(
        self,
        configuration: Configuration,
        inside: bool,
        timeout: tuple[float, float] = _TIMEOUT,
        retry_delays: Sequence[float] = _PATIENCE,
    ) -> None:
        from kubernetes.client import ApiClient

        configuration.retries = False
        self.inside = inside
        self.date = ""
        self._timeout, self._retry_delays = timeout, retry_delays
        self._configuration = configuration
        self._client = ApiClient(configuration)

    def get(self, path: str) -> dict[str, Any] | None:
        """An object; None where there is none of that name.

        Raises:
            KubernetesError: refused, or its kind is not known to the cluster.
        """
        try:
            return self._call("GET", path)
        except _MissingObjectError:
            return None

    def list(self, path: str, selector: str = "", fields: str = "") -> tuple[list[dict[str, Any]], str]:
        """The objects of a collection, and the version that :meth:`wait_for_change` goes on from."""
        items: list[dict[str, Any]] = []
        query: dict[str, Any] = {"labelSelector": selector, "fieldSelector": fields, "limit": _PAGE}
        while True:
            try:
                page = self._call("GET", path, {key: value for key, value in query.items() if value})
            except KubernetesError as error:
                if error.code != 410 or "continue" not in query:
                    raise
                items.clear()  # the list changed too much between two pages
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
        """Make an object what the manifest says, in the fields that it names (server-side apply).

        Args:
            path: the object's.
            manifest: the fields.
            force: take fields over that others manage.
            dry_run: let the server check everything, and change nothing.

        Raises:
            KubernetesError: refused; a field that the cluster does not know is refused too.
        """
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        return self._call("PATCH", path, query, dict(manifest))

    def create(self, collection: str, manifest: Mapping[str, Any]) -> bool:
        """Make an object; False where there is one of that name, which stays as it is.

        Raises:
            KubernetesError: refused; a field that the cluster does not know is refused too.
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
            KubernetesError: the request is refused.
        """
        return self._call("POST", collection, body=dict(manifest))

    def delete(self, path: str, *, dependents_first: bool = False) -> None:
        """Delete an object, if it is there.

        Args:
            path: the object's.
            dependents_first: it stays, marked, until what belongs to it is gone.
        """
        try:
            self._call("DELETE", path, {"propagationPolicy": "Foreground"} if dependents_first else None)
        except KubernetesError as error:
            if error.code != 404:
                raise

    def text(self, path: str, **query: Any) -> str:
        """What is no JSON: a log."""
        return self._repeat("GET", path, query, None).decode(errors="replace")

    def wait_for_change(self, path: str, version: str, seconds: float, selector: str = "", fields: str = "") -> None:
        """Return when something in a collection changed after ``version``, or after ``seconds``."""
        from kubernetes.client.rest import ApiException
        from urllib3.exceptions import HTTPError

        whole = max(1, round(seconds))  # what the server counts in
        patience = seconds if seconds < 1 else whole + 5.0
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": whole}
        query |= {key: value for key, value in (("labelSelector", selector), ("fieldSelector", fields)) if value}
        began = time.monotonic()
        try:
            response = self._send("GET", path, query, None, (self._timeout[0], patience))
            try:
                next(response.stream(None), b"")
            finally:
                response.release_conn()
                response.close()
        except (HTTPError, ApiException) as error:
            code = getattr(error, "status", 0)
            if code in {401, 403} and isinstance(error, ApiException):
                raise self._refusal(error, "GET", path) from error
            if code != 410:  # gone: the caller reads anew, which is what it does in any case
                time.sleep(max(0.0, min(1.0, began + seconds - time.monotonic())))

    def proxy(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext | bool]:
        """URL, headers and TLS settings for talking through the API server to what ``path`` names (a pod and port)."""
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
            value = json.loads(answer)
        except ValueError as error:
            raise KubernetesError(
                f"{self.host} does not answer as a Kubernetes API does: check its address."
            ) from error
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
                passing = error.status == 429 or (error.status or 0) >= 500
                if wait is None or not passing:
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
        """The API's answer as a sentence."""
        code = int(error.status or 0)
        status = _status(error)
        said = _one_line(str(status.get("message") or error.reason or ""))
        if code == 401:
            text = (
                f"the Kubernetes API at {self.host} does not know who asks (401): the token has expired or is of another "
                "cluster; log in anew, or in a pod see that a service account's token is mounted."
            )
        elif code == 403 and "exceeded quota" in said:
            text = f"the namespace's quota is used up ({said}): raise it, or ask for less in the deployment section."
        elif code == 403 and "admission webhook" not in said:
            text = f"the Kubernetes API does not allow it ({said}): bind that account to a Role which does."
        elif code == 404 and not status.get("details", {}).get("name"):
            text = f"the cluster knows nothing at {path.rpartition('/')[0]}: install KServe there (0.16 or later)."
        elif code == 404:
            text = f"{said or path}: make it, or correct the deployment section."
            return _MissingObjectError(text, code, said)
        elif code == 409:
            text = f"others manage what is to be changed ({said}): let them give these fields up, or delete the object."
        elif code in {400, 403, 422}:
            text = f"the cluster refuses it ({said}): correct the deployment section."
        elif code == 0:
            text = (
                f"the Kubernetes API at {self.host} is not who the kubeconfig expects ({said}): check its certificate."
            )
        else:
            text = f"the Kubernetes API at {self.host} has trouble ({method} answered {code}: {said}): try again later."
        return KubernetesError(text, code, said)


class _MissingObjectError(KubernetesError):
    """The kind is known, the object is not there."""


def is_configured() -> bool:
    """Whether this process runs in a cluster, or a kubeconfig exists."""
    files = (os.environ.get("KUBECONFIG") or _KUBECONFIG).split(os.pathsep)
    return bool(os.environ.get(_INSIDE)) or any(Path(file).expanduser().is_file() for file in files if file)


def connect(timeout: tuple[float, float] = _TIMEOUT, retry_delays: Sequence[float] = _PATIENCE) -> KubernetesApi:
    """The cluster that this process runs in, or else the one of the kubeconfig.

    Args:
        timeout: seconds to connect and to wait for the answer of one request.
        retry_delays: seconds to wait before each retry of a request; empty for no retries.

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
        mend = (
            "let the pod mount its service account's token"
            if inside
            else "run it in the cluster, or point KUBECONFIG to a kubeconfig with a current context"
        )
        raise UsageError(f"there is no access to a Kubernetes cluster ({_one_line(str(error))}): {mend}.") from error
    configuration.ssl_ca_cert = configuration.ssl_ca_cert or trusted_authorities()
    return KubernetesApi(configuration, inside, timeout, retry_delays)


def _status(error: ApiException) -> dict[str, Any]:
    """The ``Status`` object in an answer; empty where there is none."""
    with suppress(ValueError, TypeError, AttributeError):
        value = json.loads(error.body)
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
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
