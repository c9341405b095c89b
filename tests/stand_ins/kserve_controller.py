"""KServe's controller, Knative's, the Deployment controller and a kubelet, as far as an InferenceService shows them.

A pod's containers are started by ``start``: with the container and the pod's address, a loopback address of its own. What a
bundle's pods do instead of serving is said in ``behaviours``, by the bundle's label, or
``SERVICE/LABEL`` for one service's pods alone.
"""

from __future__ import annotations

import itertools
import json
import threading
import urllib.request
from collections.abc import Callable
from typing import Any, Protocol

from mistere.serving import protocol
from tests.stand_ins.kubernetes_api import KubernetesApi

NAMESPACE = "mistere"
_EXTENSION = {
    "annotations",
    "canaryTrafficPercent",
    "containerConcurrency",
    "deploymentStrategy",
    "labels",
    "maxReplicas",
    "minReplicas",
    "scaleMetric",
    "scaleTarget",
    "timeout",
}
"""Fields of a predictor that are KServe's; all others are those of a pod (``ComponentExtensionSpec`` and ``PodSpec``, KServe 0.20)."""
SERVICE = "serving.kserve.io/inferenceservice"
_addresses = itertools.count(1)


class Started(Protocol):
    """A running container."""

    def stop(self) -> None: ...


Start = Callable[[dict[str, Any], str], Started]


class Controller:
    """Reconciles every InferenceService in a loop."""

    def __init__(self, cluster: KubernetesApi, start: Start) -> None:
        self.cluster = cluster
        self.behaviours: dict[str, str] = {}
        self.most_at_once: dict[str, int] = {}
        self._launch, self._running = start, dict[str, Started]()
        self._templates: dict[str, str] = {}
        self._names, self._over = itertools.count(1), threading.Event()
        self.start()

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        while self._running:
            self._running.popitem()[1].stop()

    def _loop(self) -> None:
        while not self._over.wait(0.02):
            services = [service for service in self.cluster.all("inferenceservices") if self._admit(service)]
            for service in services:
                knative = (
                    service["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode") == "Knative"
                )
                (self._knative if knative else self._standard)(service)
            names = {service["metadata"]["name"] for service in services}
            for pod in self.cluster.all("pods"):
                if pod["metadata"]["labels"][SERVICE] not in names:
                    self._end(pod["metadata"]["name"])
            for deployment in self.cluster.all("deployments"):
                if deployment["metadata"]["labels"][SERVICE] not in names:
                    self.cluster.remove("deployments", deployment["metadata"]["name"])

    def _admit(self, service: dict[str, Any]) -> bool:
        """Whether the service needs work; add a finalizer, and remove it on deletion."""
        name, finalizers = service["metadata"]["name"], ["inferenceservice.finalizers"]
        if service["metadata"].get("deletionTimestamp"):
            self.cluster.remove("inferenceservices", name)
            return False
        if service["metadata"].get("finalizers") != finalizers:
            self.cluster.edit("inferenceservices", name, {"metadata": {"finalizers": finalizers}}, "kserve")
        return True

    def _standard(self, service: dict[str, Any]) -> None:
        name = f"{service['metadata']['name']}-predictor"
        template, replicas = _template(service), service["spec"]["predictor"].get("minReplicas", 1)
        live = self.cluster.find("deployments", name) or {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {SERVICE: service["metadata"]["name"]}},
            "status": {},
        }
        live["spec"] = {"replicas": replicas, "template": template}
        self.cluster.write("deployments", live)
        deployment = self.cluster.find("deployments", name) or live
        pods = self._pods(service)
        new = [pod for pod in pods if _digest(pod) == _digest(template)]
        old = [pod for pod in pods if _digest(pod) != _digest(template)]
        refused = self._behaviour(template) == "quota"
        if not refused:
            new += [self._make(service, template, {}) for _ in range(replicas - len(new))]
        new = [self._run(pod) for pod in new]
        ready = [pod for pod in new if _ready(pod)]
        for pod in old[: max(0, len(old) + len(ready) - replicas)]:  # maxUnavailable: 0
            self._end(pod["metadata"]["name"])
        left = [pod for pod in self._pods(service) if _ready(pod)]
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(self._pods(service)),
            "updatedReplicas": len(new),
            "availableReplicas": len(left),
            "conditions": [
                {"type": "Available", "status": "True" if left else "False"},
                *(
                    [
                        {
                            "type": "ReplicaFailure",
                            "status": "True",
                            "message": 'pods "x" is forbidden: exceeded quota: gpus',
                        }
                    ]
                    if refused
                    else []
                ),
            ],
        }
        self.cluster.write("deployments", deployment)
        self._tell(service, bool(left), {"url": f"http://{name}-{NAMESPACE}.example.com"})

    def _knative(self, service: dict[str, Any]) -> None:
        template = _template(service)
        before = service.get("status", {}).get("components", {}).get("predictor", {})
        pods = self._pods(service)
        latest, ready = before.get("latestCreatedRevision", ""), before.get("latestReadyRevision", "")
        of_latest = [pod for pod in pods if _revision(pod) == latest]
        if self._templates.get(latest) != _digest(template):
            latest = f"{service['metadata']['name']}-predictor-{next(self._names):05d}"
            self._templates[latest] = _digest(template)
            of_latest = [self._make(service, template, {"serving.knative.dev/revision": latest})]
        of_latest = [self._run(pod) for pod in of_latest]
        if any(_ready(pod) for pod in of_latest):
            ready = latest
        rolled, previous = before.get("latestRolledoutRevision", ""), before.get("previousRolledoutRevision", "")
        share = service["spec"]["predictor"].get("canaryTrafficPercent")
        rest = previous if rolled == ready and share is not None and share < 100 else rolled
        traffic = [{"latestRevision": True, "revisionName": ready, "percent": 100}]
        if share is not None and rest:
            traffic[0]["percent"] = share
            traffic.append({"latestRevision": False, "revisionName": rest, "percent": 100 - share, "tag": "prev"})
        if ready and traffic[0]["percent"] == 100 and rolled != ready:
            rolled, previous = ready, rolled
        used = {latest, ready, *(target["revisionName"] for target in traffic if target["percent"])}
        for pod in pods:
            if _revision(pod) not in used:
                self._end(pod["metadata"]["name"])
        status = {
            "latestCreatedRevision": latest,
            "latestReadyRevision": ready,
            "latestRolledoutRevision": rolled,
            "previousRolledoutRevision": previous,
            "traffic": traffic if ready else [],
        }
        url = f"http://{service['metadata']['name']}.{NAMESPACE}.example.com"
        self._tell(service, bool(ready), {"url": url, "components": {"predictor": status}})

    def _tell(self, service: dict[str, Any], ready: bool, status: dict[str, Any]) -> None:
        """Write only the status; Ready stays True while any revision serves, even if the new one fails."""
        live = self.cluster.find("inferenceservices", service["metadata"]["name"])
        if live is None:
            return
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        live["status"] = {**status, "conditions": [condition]}
        self.cluster.write_status("inferenceservices", live)

    def _pods(self, service: dict[str, Any]) -> list[dict[str, Any]]:
        name = service["metadata"]["name"]
        return [pod for pod in self.cluster.all("pods") if pod["metadata"]["labels"][SERVICE] == name]

    def _make(self, service: dict[str, Any], template: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
        name = f"{service['metadata']['name']}-predictor-{next(self._names):05d}"
        number = next(_addresses)
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {**template["metadata"]["labels"], **labels},
            "annotations": {"template": _digest(template)},
        }
        address = f"127.{64 + threading.get_native_id() % 150}.{number // 250}.{number % 250 + 1}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template["spec"],
            "status": {"podIP": address, "conditions": [], "containerStatuses": []},
        }
        self.cluster.write("pods", pod)
        now = len(self._pods(service))
        self.most_at_once[service["metadata"]["name"]] = max(now, self.most_at_once.get(service["metadata"]["name"], 0))
        return pod

    def _run(self, pod: dict[str, Any]) -> dict[str, Any]:
        """One kubelet iteration."""
        name, behaviour = pod["metadata"]["name"], self._behaviour(pod)
        state: dict[str, Any] = {"name": "kserve-container", "restartCount": 0, "state": {"running": {}}}
        conditions = [{"type": "PodScheduled", "status": "True"}]
        if behaviour == "crash":
            state |= {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
            self.cluster.logs[(name, True)] = "loading\nthe bundle's manifest does not match mixture.safetensors\n"
        elif behaviour == "image":
            state["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        elif behaviour == "nowhere":
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            conditions = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
            ]
            state["state"] = {}
        else:
            if name not in self._running:
                self._running[name] = self._launch(pod["spec"]["containers"][0], pod["status"]["podIP"])
            state["restartCount"] = 1 if behaviour == "restarts" else 0
            conditions.append({"type": "Ready", "status": "True" if _answers(pod["status"]["podIP"]) else "False"})
        if behaviour in {"crash", "image", "nowhere"} and not pod["status"]["containerStatuses"]:
            self.cluster.event(
                name, {"crash": "BackOff", "image": "Failed", "nowhere": "FailedScheduling"}[behaviour], "it"
            )
        pod["status"] = {**pod["status"], "conditions": conditions, "containerStatuses": [state]}
        self.cluster.write("pods", pod)
        return pod

    def _end(self, name: str) -> None:
        self.cluster.remove("pods", name)
        if started := self._running.pop(name, None):
            started.stop()

    def _behaviour(self, pod: dict[str, Any]) -> str:
        labels = pod["metadata"]["labels"]
        bundle = labels.get("mistere/bundle", "")
        return self.behaviours.get(f"{labels[SERVICE]}/{bundle}") or self.behaviours.get(bundle, "")


def _template(service: dict[str, Any]) -> dict[str, Any]:
    """The pod template as KServe builds it, with the labels and annotations of the service."""
    metadata, predictor = service["metadata"], service["spec"]["predictor"]
    labels = {**metadata.get("labels", {}), **predictor.get("labels", {}), SERVICE: metadata["name"]}
    annotations = {**metadata.get("annotations", {}), **predictor.get("annotations", {})}
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {name: value for name, value in predictor.items() if name not in _EXTENSION},
    }


def _digest(value: dict[str, Any]) -> str:
    """Digest of a template; each pod records its own."""
    remembered: str | None = value["metadata"].get("annotations", {}).get("template")
    return remembered or json.dumps(value, sort_keys=True)


def _revision(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"].get("serving.knative.dev/revision", ""))


def _ready(pod: dict[str, Any]) -> bool:
    return {"type": "Ready", "status": "True"} in pod["status"]["conditions"]


def _answers(address: str) -> bool:
    try:
        url = f"http://{address}:{protocol.HTTP_PORT}{protocol.READY_PATH}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False
