"""The Kubernetes API of one cluster: objects with versions and field managers, rights, watches, logs, the proxy to pods.

A call is answered in the order of an API server: credentials (401), permissions (403), the kind and the object (404), fields of other
managers (409), an expired version (410). :mod:`tests.stand_ins.kubernetes_server` puts it on a socket.

Sources of the answers: kubernetes/apimachinery ``pkg/api/errors/errors.go`` (reasons, messages and details),
kubernetes/apiserver ``pkg/endpoints/handlers/responsewriters/errors.go`` (403), ``pkg/admission/plugin/webhook/errors/statuserror.go``
(webhooks), ``pkg/storage/etcd3`` (410), and kubernetes/kubernetes ``pkg/registry/core/pod/strategy.go`` (logs).
"""

from __future__ import annotations

import copy
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stand_ins.server_side_apply import ConflictsError, apply, same, update

KINDS = {
    "inferenceservices": ("/apis/serving.kserve.io/v1beta1", "InferenceService", "serving.kserve.io"),
    "deployments": ("/apis/apps/v1", "Deployment", "apps"),
    "pods": ("/api/v1", "Pod", ""),
    "events": ("/api/v1", "Event", ""),
    "workflows": ("/apis/argoproj.io/v1alpha1", "Workflow", "argoproj.io"),
    "trainjobs": ("/apis/trainer.kubeflow.org/v1alpha1", "TrainJob", "trainer.kubeflow.org"),
    "httproutes": ("/apis/gateway.networking.k8s.io/v1", "HTTPRoute", "gateway.networking.k8s.io"),
}
WEBHOOKS = {
    "inferenceservices": "inferenceservice.kserve-webhook-server.validator",
    "trainjobs": "validator.trainjob.trainer.kubeflow.org",
}
"""Names of the validating webhooks (kserve/kserve ``config/webhook/manifests.yaml``, kubeflow/trainer ``manifests/base/webhook``)."""
ALL = frozenset({("*", "*")})
Key = tuple[str, str, str]


class RefusalError(Exception):
    """A response other than 2xx."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details or {},
            "code": code,
        }


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class KubernetesApi:
    """One cluster."""

    def __init__(self, namespaces: tuple[str, ...] = ("mistere",), kinds: tuple[str, ...] = tuple(KINDS)) -> None:
        self.namespaces, self.kinds = set(namespaces), set(kinds)
        self.tokens: dict[str, frozenset[tuple[str, str]]] = {"admin": ALL}
        self.logs: dict[tuple[str, bool], str] = {}
        self.lines: dict[str, list[tuple[str, str]]] = {}
        self.admit: Callable[[dict[str, Any]], str] = lambda _: ""
        self.changed = threading.Condition()
        self._objects: dict[Key, dict[str, Any]] = {}
        self._history: list[tuple[int, str, Key, dict[str, Any]]] = []
        self._version, self._forgotten = 100, 0

    def find(self, kind: str, name: str, namespace: str = "mistere") -> dict[str, Any] | None:
        with self.changed:
            return copy.deepcopy(self._objects.get((kind, namespace, name)))

    def all(self, kind: str, namespace: str = "mistere") -> list[dict[str, Any]]:
        with self.changed:
            return [
                copy.deepcopy(value) for key, value in sorted(self._objects.items()) if key[:2] == (kind, namespace)
            ]

    def write(self, kind: str, value: dict[str, Any]) -> None:
        """Write a whole object as a controller does; only a changed spec increments the generation."""
        with self.changed:
            self._store((kind, value["metadata"]["namespace"], value["metadata"]["name"]), copy.deepcopy(value))

    def write_status(self, kind: str, value: dict[str, Any]) -> None:
        """Write the status subresource as a controller does; other fields are ignored."""
        with self.changed:
            key = (kind, value["metadata"]["namespace"], value["metadata"]["name"])
            if key in self._objects:
                self._store(key, {**copy.deepcopy(self._objects[key]), "status": copy.deepcopy(value["status"])})

    def edit(self, kind: str, name: str, changed: dict[str, Any], manager: str = "kubectl-edit") -> None:
        """Change an object as ``kubectl edit`` does."""
        with self.changed:
            live = self._objects[(kind, "mistere", name)]
            self._store((kind, "mistere", name), update(live, changed, manager))

    def remove(self, kind: str, name: str, namespace: str = "mistere") -> bool:
        with self.changed:
            removed = self._objects.pop((kind, namespace, name), None)
            if removed is not None:
                self._note("DELETED", (kind, namespace, name), removed)
            return removed is not None

    def say(self, pod: str, line: str) -> None:
        """Append a log line of a pod's container, with the kubelet's timestamp."""
        nanoseconds = time.time_ns()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9))
        with self.changed:
            self.lines.setdefault(pod, []).append((f"{seconds}.{nanoseconds % 10**9:09d}Z", line))

    def _delete(self, key: Key, foreground: bool = False) -> bool:
        """Delete an object, or mark it for deletion while a finalizer or foreground deletion is pending."""
        with self.changed:
            live = self._objects.get(key)
            if live is None or not (foreground or live["metadata"].get("finalizers")):
                return self.remove(key[0], key[2], key[1])
            marked = copy.deepcopy(live)
            if foreground:
                marked["metadata"].setdefault("finalizers", []).append("foregroundDeletion")
            marked["metadata"].setdefault("deletionTimestamp", _now())
            self._store(key, marked)
            return True

    def event(self, name: str, reason: str, message: str, kind: str = "Pod", stamp: str = "") -> None:
        stamp = stamp or _now()
        self.write(
            "events",
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": "mistere"},
                "involvedObject": {"kind": kind, "name": name, "namespace": "mistere"},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 1,
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
            },
        )

    def forget(self) -> None:
        """Compact: expire all versions so far, for watches and for continued lists."""
        with self.changed:
            self._forgotten = self._version

    def _store(self, key: Key, value: dict[str, Any]) -> None:
        before = self._objects.get(key)
        metadata = value["metadata"]
        if before is None:
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata["creationTimestamp"] = _now()
            metadata["generation"] = 1
        else:
            metadata |= {name: before["metadata"][name] for name in ("uid", "creationTimestamp")}
            metadata["generation"] = before["metadata"]["generation"] + (before.get("spec") != value.get("spec"))
            if same(before, value):
                return
        self._objects[key] = value
        self._note("ADDED" if before is None else "MODIFIED", key, value)

    def _note(self, what: str, key: Key, value: dict[str, Any]) -> None:
        self._version += 1
        value["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, what, key, copy.deepcopy(value)))
        self.changed.notify_all()

    def answer(self, method: str, target: str, token: str, body: bytes) -> tuple[int, Any]:
        """Handle one call other than a watch."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind, namespace, name, sub = self._parse(url.path)
        verb = {"PATCH": "patch", "DELETE": "delete", "POST": "create", "PUT": "update"}.get(method)
        verb = verb or ("get" if name else "watch" if query.get("watch") else "list")
        self._authorise(token, verb, kind, sub, name)
        if method == "PATCH":
            return self._apply(token, kind, namespace, name, query, json.loads(body))
        if method == "DELETE":
            if not self._delete((kind, namespace, name), query.get("propagationPolicy") == "Foreground"):
                raise self._missing(kind, name)
            if (marked := self.find(kind, name, namespace)) is not None:
                return 200, marked  # the deletion waits for a finalizer
            details = {"name": name, "group": KINDS[kind][2], "kind": kind}
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}
        if method == "POST":
            return self._create(kind, namespace, json.loads(body))
        if sub == "log":
            return 200, self._log(name, query)
        if name:
            live = self.find(kind, name, namespace)
            if live is None:
                raise self._missing(kind, name)
            return 200, live
        return 200, self._list(kind, namespace, query)

    def _parse(self, path: str) -> tuple[str, str, str, str]:
        for kind, (root, _, _) in KINDS.items():
            prefix, parts = f"{root}/namespaces/", path.split("/")
            depth = len(prefix.split("/"))
            if path.startswith(prefix) and len(parts) > depth and parts[depth] == kind and kind in self.kinds:
                rest = [*parts[depth + 1 : depth + 3], "", ""]
                return kind, parts[depth - 1], rest[0], rest[1]
        raise RefusalError(404, "", "404 page not found")

    def _authorise(self, token: str, verb: str, kind: str, sub: str, name: str = "") -> None:
        if token not in self.tokens:
            raise RefusalError(401, "Unauthorized", "Unauthorized")
        rules, resource = self.tokens[token], f"{kind}/{sub}" if sub else kind
        needed = [verb]
        if verb == "patch":  # server-side apply of a missing object also creates it
            needed.append("create")
        for each in needed:
            if ("*", "*") not in rules and (each, resource) not in rules:
                group, named = KINDS[kind][2], f' "{name}"' if name else ""
                raise RefusalError(
                    403,
                    "Forbidden",
                    f'{_qualified(kind)}{named} is forbidden: User "system:serviceaccount:mistere:{token}" cannot {each} '
                    f'resource "{resource}" in API group "{group}" in the namespace "mistere"',
                    {"kind": kind, **({"name": name} if name else {}), **({"group": group} if group else {})},
                )

    def _missing(self, kind: str, name: str) -> RefusalError:
        details = {"name": name, "kind": kind, **({"group": KINDS[kind][2]} if KINDS[kind][2] else {})}
        return RefusalError(404, "NotFound", f'{_qualified(kind)} "{name}" not found', details)

    def _apply(
        self, token: str, kind: str, namespace: str, name: str, query: dict[str, str], manifest: dict[str, Any]
    ) -> tuple[int, Any]:
        if namespace not in self.namespaces:
            details = {"name": namespace, "kind": "namespaces"}
            raise RefusalError(404, "NotFound", f'namespaces "{namespace}" not found', details)
        if reason := self.admit(manifest):
            raise _denied(kind, reason)
        with self.changed:
            live = self._objects.get((kind, namespace, name))
            start = live or {key: manifest[key] for key in ("apiVersion", "kind")} | {
                "metadata": {"name": name, "namespace": namespace}
            }
            try:
                result = apply(start, manifest, query["fieldManager"], query.get("force") == "true")
            except ConflictsError as clash:
                details = {"name": name, "group": KINDS[kind][2], "kind": kind, "causes": clash.causes}
                raise RefusalError(409, "Conflict", clash.message, details) from None
            wanted = manifest["metadata"].get("resourceVersion")
            if live and wanted and wanted != live["metadata"]["resourceVersion"]:
                # As for an update: kubernetes/apiserver pkg/registry/generic/registry/store.go, OptimisticLockErrorMsg.
                details = {"name": name, "group": KINDS[kind][2], "kind": kind}
                message = f'Operation cannot be fulfilled on {_qualified(kind)} "{name}": {MODIFIED}'
                raise RefusalError(409, "Conflict", message, details)
            if query.get("dryRun"):
                return (200 if live else 201), result
            self._store((kind, namespace, name), result)
            return (200 if live else 201), copy.deepcopy(self._objects[(kind, namespace, name)])

    def _create(self, kind: str, namespace: str, value: dict[str, Any]) -> tuple[int, Any]:
        name = value["metadata"]["name"]
        if reason := self.admit(value):
            raise _denied(kind, reason)
        with self.changed:
            if (kind, namespace, name) in self._objects:
                details = {"name": name, "group": KINDS[kind][2], "kind": kind}
                raise RefusalError(409, "AlreadyExists", f'{_qualified(kind)} "{name}" already exists', details)
            self._store((kind, namespace, name), value)
            return 201, copy.deepcopy(value)

    def _log(self, name: str, query: dict[str, str]) -> str:
        if name in self.lines:
            stamped = query.get("timestamps") == "true"
            lines = [entry for entry in list(self.lines[name]) if entry[0] >= query.get("sinceTime", "")]
            return "".join(f"{stamp} {line}\n" if stamped else f"{line}\n" for stamp, line in lines)
        container, previous = query.get("container"), query.get("previous") == "true"
        text = self.logs.get((name, previous))
        if text is None:
            why = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            if previous:
                why = f'previous terminated container "{container}" in pod "{name}" not found'
            raise RefusalError(400, "BadRequest", why)
        return "\n".join(text.splitlines()[-int(query.get("tailLines", "1000")) :]) + "\n"

    def _list(self, kind: str, namespace: str, query: dict[str, str]) -> dict[str, Any]:
        start, version = 0, self._version
        if "continue" in query:
            start, version = (int(part) for part in query["continue"].split("-"))
            if version < self._forgotten:
                raise RefusalError(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                    "without the continue parameter.",
                )
        matches = [value for value in self.all(kind, namespace) if selected(value, query)]
        limit = int(query.get("limit", "0")) or len(matches) or 1
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(matches):
            metadata["continue"] = f"{start + limit}-{version}"
        root, name, _ = KINDS[kind]
        api = root.rpartition("/")[2] if root == "/api/v1" else root.removeprefix("/apis/")
        return {"apiVersion": api, "kind": f"{name}List", "metadata": metadata, "items": matches[start : start + limit]}

    def watch(self, target: str, token: str) -> Iterator[dict[str, Any]]:
        """Yield every change after a version, until the timeout."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind, namespace, _, _ = self._parse(url.path)
        self._authorise(token, "watch", kind, "")
        return self._changes(kind, namespace, query)

    def _changes(self, kind: str, namespace: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
        seen, deadline = int(query.get("resourceVersion") or "0"), time.monotonic() + float(query["timeoutSeconds"])
        if seen < self._forgotten:
            message = f"too old resource version: {seen} ({self._forgotten})"
            yield {"type": "ERROR", "object": RefusalError(410, "Expired", message).body}
            return
        while True:
            with self.changed:
                news = [entry for entry in self._history if entry[0] > seen]
                if not news and not self.changed.wait(max(0.0, deadline - time.monotonic())):
                    return
            for version, what, key, value in news:
                seen = version
                if key[:2] == (kind, namespace) and selected(value, query):
                    yield {"type": what, "object": value}

    def proxy(self, method: str, target: str, token: str, body: bytes) -> tuple[int, bytes]:
        """Forward a call to a pod."""
        self._authorise(token, "create" if method == "POST" else "get", "pods", "proxy")
        before, _, rest = target.partition("/proxy")
        name, _, port = before.rpartition("/")[2].partition(":")
        pod = self.find("pods", name)
        if pod is None:
            raise self._missing("pods", name)
        connection = http.client.HTTPConnection(pod["status"]["podIP"], int(port), timeout=30)
        try:
            connection.request(method, rest or "/", body or None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except OSError as error:
            raise RefusalError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None
        finally:
            connection.close()


def _now() -> str:
    """Kubernetes writes times with a resolution of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _qualified(kind: str) -> str:
    """A resource with its API group; the core group has no name."""
    group = KINDS[kind][2]
    return f"{kind}.{group}" if group else kind


def _denied(kind: str, reason: str) -> RefusalError:
    """The refusal of a validating webhook that is written with controller-runtime, as KServe's and Kubeflow Trainer's are."""
    return RefusalError(403, "Forbidden", f'admission webhook "{WEBHOOKS[kind]}" denied the request: {reason}')


def selected(value: dict[str, Any], query: dict[str, str]) -> bool:
    """Whether an object matches label and field selectors."""
    labels = value["metadata"].get("labels") or {}
    for part in filter(None, query.get("labelSelector", "").split(",")):
        name, _, wanted = part.partition("=")
        if labels.get(name) != wanted:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = part.partition("=")
        field: Any = value
        for step in path.split("."):
            field = field.get(step, {}) if isinstance(field, dict) else {}
        if field != wanted:
            return False
    return True
