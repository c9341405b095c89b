"""KServe's controller, Knative's, the Deployment controller and a kubelet, as far as an InferenceService shows them.

A pod's containers are started by ``start``: with the container and the pod's address, a loopback address of its own.
``behaviours`` holds what a bundle's pods do instead of serving, by the bundle's label, or ``SERVICE/LABEL`` for one
service's pods alone.

Sources of the answers, by repository and file: the status of an InferenceService is that of kserve/kserve
``pkg/apis/serving/v1beta1/inference_service_status.go`` and, in Standard mode,
``pkg/controller/v1beta1/inferenceservice/reconcilers/ingress/kube_ingress_reconciler.go``; a Deployment's conditions are those of
kubernetes/kubernetes ``pkg/controller/deployment/util/deployment_util.go``; a container's states are those of
``pkg/kubelet/kubelet_pods.go`` and ``pkg/kubelet/kuberuntime``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, Protocol

from mistere.serving import protocol
from tests.stand_ins.kubernetes_api import KubernetesApi

NAMESPACE = "mistere"
DOMAIN = "example.com"
"""KServe's default ``ingressDomain``."""
QUOTA = (
    'pods "mistere-predictor-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: '
    "requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"
)
"""As the quota admission of an API server refuses a pod (kubernetes/apiserver pkg/admission/plugin/resourcequota)."""
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
CONTAINER = "kserve-container"
STAMP = "2026-01-01T00:00:00Z"
NOWHERE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
ENDS: dict[str, dict[str, Any]] = {
    "crash": {"reason": "Error", "exitCode": 1, "startedAt": STAMP, "finishedAt": STAMP},
    "memory": {"reason": "OOMKilled", "exitCode": 137, "startedAt": STAMP, "finishedAt": STAMP},
}
"""How a container's last process ended, by the pod's behaviour. The kernel kills one over its memory limit with SIGKILL."""
LOGS = {"crash": "loading\nthe bundle's manifest does not match mixture.safetensors\n", "memory": "loading\n"}
_addresses = itertools.count(1)


class Started(Protocol):
    """A running container."""

    def stop(self) -> None: ...


Start = Callable[[dict[str, Any], str], Started]


class Controller:
    """Reconciles every InferenceService in a loop.

    Attributes:
        behaviours: what pods do instead of serving: ``crash``, ``memory``, ``image``, ``nowhere``, ``quota``, ``restarts``.
        creates_ingress: False for KServe with ``disableIngressCreation``.
        reports_progress: whether Standard mode reports a Deployment's progress as Ready=Unknown, as KServe's later versions do;
            0.20 reports Ready=True as long as any pod serves.
    """

    def __init__(self, cluster: KubernetesApi, start: Start) -> None:
        self.cluster = cluster
        self.behaviours: dict[str, str] = {}
        self.creates_ingress, self.reports_progress = True, False
        self.most_at_once: dict[str, int] = {}
        self._launch, self._running = start, dict[str, Started]()
        self._templates: dict[str, str] = {}
        self._refused: set[str] = set()
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
            new += [self._make(service, template, name, {}) for _ in range(replicas - len(new))]
        elif len(new) < replicas:
            self._refuse(f"{name}-{_hash(template)}")
        new = [self._run(pod) for pod in new]
        ready = [pod for pod in new if _ready(pod)]
        for pod in old[: max(0, len(old) + len(ready) - replicas)]:  # maxUnavailable: 0
            self._end(pod["metadata"]["name"])
        left = [pod for pod in self._pods(service) if _ready(pod)]
        complete = len(ready) >= replicas and len(self._pods(service)) == len(new)
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(self._pods(service)),
            "updatedReplicas": len(new),
            "readyReplicas": len(left),
            "availableReplicas": len(left),
            "unavailableReplicas": max(0, len(self._pods(service)) - len(left)),
            "conditions": _deployment_conditions(len(left) >= replicas, complete, refused),
        }
        self.cluster.write("deployments", deployment)
        self._write_status(service, self._standard_status(service, deployment))

    def _standard_status(self, service: dict[str, Any], deployment: dict[str, Any]) -> dict[str, Any]:
        """The status in Standard mode. ``url`` is rendered from the ingress domain whether there is an ingress or not."""
        name, before = service["metadata"]["name"], service.get("status", {})
        predictor = _predictor_ready(deployment, self.reports_progress)
        ready = predictor["status"] == "True"
        local = service["metadata"].get("labels", {}).get("networking.kserve.io/visibility") == "cluster-local"
        addressed = ready or local or not self.creates_ingress
        ingress = {"status": "True"} if addressed else {"status": "False", "reason": "Predictor ingress not created"}
        status: dict[str, Any] = {
            "observedGeneration": deployment["status"]["observedGeneration"],
            "deploymentMode": "Standard",
            "components": {"predictor": before.get("components", {}).get("predictor", {})},
            "conditions": _living({"PredictorReady": predictor, "IngressReady": ingress}),
            **{field: before[field] for field in ("url", "address") if field in before},
        }
        if ready:
            status["components"]["predictor"] = {"url": f"http://{name}-predictor-{NAMESPACE}.{DOMAIN}"}
        if addressed:
            status["url"] = f"http://{name}-{NAMESPACE}.{DOMAIN}"
            status["address"] = {"url": f"http://{name}-predictor.{NAMESPACE}.svc.cluster.local"}
        return status

    def _refuse(self, replica_set: str) -> None:
        """The event of a ReplicaSet whose pod the quota refuses."""
        if replica_set not in self._refused:
            self._refused.add(replica_set)
            self.cluster.event(replica_set, "FailedCreate", f"Error creating: {QUOTA}", kind="ReplicaSet")

    def _knative(self, service: dict[str, Any]) -> None:
        template = _template(service)
        before = service.get("status", {}).get("components", {}).get("predictor", {})
        pods = self._pods(service)
        latest, ready = before.get("latestCreatedRevision", ""), before.get("latestReadyRevision", "")
        of_latest = [pod for pod in pods if _revision(pod) == latest]
        if self._templates.get(latest) != _digest(template):
            latest = f"{service['metadata']['name']}-predictor-{next(self._names):05d}"
            self._templates[latest] = _digest(template)
            of_latest = []
            if self._behaviour(template) == "quota":
                self._refuse(f"{latest}-deployment-{_hash(template)}")
            else:
                labels = {"serving.knative.dev/revision": latest}
                of_latest = [self._make(service, template, f"{latest}-deployment", labels)]
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
        name = service["metadata"]["name"]
        failing = any(_is_crashing(pod) for pod in of_latest)
        configuration = {"status": "True"}
        if latest != ready:  # Knative reports the latest revision, whichever one serves
            reason = {
                "reason": "RevisionFailed",
                "message": f'Revision "{latest}" failed with message: Container failed.',
            }
            configuration = {"status": "False", **reason} if failing else {"status": "Unknown"}
        route = {"status": "True" if ready else "Unknown"}
        failed = next(
            (condition for condition in (configuration, route) if condition["status"] != "True"), {"status": "True"}
        )
        self._write_status(
            service,
            {
                "observedGeneration": service["metadata"]["generation"],
                "deploymentMode": "Knative",
                "url": f"http://{name}.{NAMESPACE}.{DOMAIN}",
                "address": {"url": f"http://{name}.{NAMESPACE}.svc.cluster.local"},
                "components": {"predictor": status},
                "conditions": _living(
                    {"PredictorReady": failed, "IngressReady": route},
                    PredictorConfigurationReady=configuration,
                    LatestDeploymentReady=configuration,
                    PredictorRouteReady=route,
                    RoutesReady=route,
                ),
            },
        )

    def _write_status(self, service: dict[str, Any], status: dict[str, Any]) -> None:
        """Write only the status."""
        live = self.cluster.find("inferenceservices", service["metadata"]["name"])
        if live is not None:
            self.cluster.write_status("inferenceservices", {**live, "status": status})

    def _pods(self, service: dict[str, Any]) -> list[dict[str, Any]]:
        name = service["metadata"]["name"]
        return [pod for pod in self.cluster.all("pods") if pod["metadata"]["labels"][SERVICE] == name]

    def _make(
        self, service: dict[str, Any], template: dict[str, Any], workload: str, labels: dict[str, str]
    ) -> dict[str, Any]:
        """A pod of a Deployment's ReplicaSet, which names it."""
        digest = _hash(template)
        name = f"{workload}-{digest}-{next(self._names):05d}"
        labels = {**labels, "pod-template-hash": digest, "component": "predictor"}
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
        container = pod["spec"]["containers"][0]
        noted = bool(pod["status"]["conditions"])
        ready = False
        phase, statuses = "Running", [_status("running", {"startedAt": _now()})]
        if behaviour in ENDS:
            waiting = f"back-off 40s restarting failed container={CONTAINER} pod={name}_{NAMESPACE}({pod['metadata'].get('uid', '')})"
            statuses = [_status("waiting", {"reason": "CrashLoopBackOff", "message": waiting}, 3, ENDS[behaviour])]
            self.cluster.logs[(name, True)] = LOGS[behaviour]
            self._note(
                name, noted, "BackOff", f"Back-off restarting failed container {CONTAINER} in pod {name}_{NAMESPACE}"
            )
        elif behaviour == "image":
            message = f'Back-off pulling image "{container["image"]}": ErrImagePull: not found'
            phase, statuses = "Pending", [_status("waiting", {"reason": "ImagePullBackOff", "message": message})]
            self._note(name, noted, "Failed", f'Failed to pull image "{container["image"]}": not found')
        elif behaviour == "nowhere":
            phase, statuses = "Pending", []  # a pod without a node has no container statuses
            self._note(name, noted, "FailedScheduling", NOWHERE)
        else:
            if name not in self._running:
                self._running[name] = self._launch(container, pod["status"]["podIP"])
            statuses[0]["restartCount"] = 1 if behaviour == "restarts" else 0
            ready = _answers(pod["status"]["podIP"])
        statuses = [{**status, "ready": ready} for status in statuses]
        conditions = _pod_conditions(ready, scheduled=behaviour != "nowhere")
        status = {"phase": phase, "conditions": conditions, "containerStatuses": statuses}
        pod["status"] = {**pod["status"], **status}
        self.cluster.write("pods", pod)
        return pod

    def _note(self, pod: str, noted: bool, reason: str, message: str) -> None:
        if not noted:
            self.cluster.event(pod, reason, message)

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


def _hash(template: dict[str, Any]) -> str:
    return hashlib.sha256(_digest(template).encode()).hexdigest()[:10]


def _revision(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"].get("serving.knative.dev/revision", ""))


def _ready(pod: dict[str, Any]) -> bool:
    return any(
        (condition["type"], condition["status"]) == ("Ready", "True") for condition in pod["status"]["conditions"]
    )


def _is_crashing(pod: dict[str, Any]) -> bool:
    return any("waiting" in status["state"] for status in pod["status"]["containerStatuses"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _status(
    state: str, content: dict[str, Any], restarts: int = 0, last: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A container's status. ``lastState`` says how the process before ended; ``state`` then only says that it waits."""
    return {
        "name": CONTAINER,
        "restartCount": restarts,
        "state": {state: content},
        "lastState": {"terminated": last} if last else {},
    }


def _pod_conditions(ready: bool, *, scheduled: bool) -> list[dict[str, Any]]:
    if not scheduled:
        return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NOWHERE}]
    unready = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{CONTAINER}]"}
    return [
        {"type": "Initialized", "status": "True"},
        *(
            {"type": kind, "status": "True" if ready else "False", **({} if ready else unready)}
            for kind in ("Ready", "ContainersReady")
        ),
        {"type": "PodScheduled", "status": "True"},
    ]


def _deployment_conditions(available: bool, complete: bool, refused: bool) -> list[dict[str, Any]]:
    conditions = [
        {
            "type": "Available",
            "status": "True" if available else "False",
            "reason": "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            "message": f"Deployment {'has' if available else 'does not have'} minimum availability.",
        },
        {
            "type": "Progressing",
            "status": "True",
            "reason": "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            "message": f'ReplicaSet "x" {"has successfully progressed" if complete else "is progressing"}.',
        },
    ]
    if refused:
        conditions.append({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA})
    return conditions


def _predictor_ready(deployment: dict[str, Any], reports_progress: bool) -> dict[str, Any]:
    """The condition PredictorReady, as ``PropagateRawStatus`` derives it from the Deployment's conditions."""
    conditions = {condition["type"]: condition for condition in deployment["status"]["conditions"]}
    chosen = conditions["Available"]
    if reports_progress and conditions["Progressing"]["reason"] != "NewReplicaSetAvailable":
        chosen = {**conditions["Progressing"], "status": "Unknown"}
    if conditions["Available"]["status"] == "False":
        chosen = conditions["Available"]
    if "ReplicaFailure" in conditions:
        chosen = {**conditions["ReplicaFailure"], "status": "False"}
    return {field: chosen[field] for field in ("status", "reason", "message")}


def _living(dependents: dict[str, dict[str, Any]], **independent: dict[str, Any]) -> list[dict[str, Any]]:
    """Conditions as Knative's living condition set writes them: sorted by type, with Ready derived from the dependents.

    A true condition has neither reason nor message.
    """
    for status in ("False", "Unknown"):
        if worst := next((condition for condition in dependents.values() if condition["status"] == status), None):
            break
    conditions = {**dependents, **independent, "Ready": worst or {"status": "True"}}
    return [
        {
            "type": kind,
            "lastTransitionTime": STAMP,
            **({"status": "True"} if condition["status"] == "True" else condition),
        }
        for kind, condition in sorted(conditions.items())
    ]


def _answers(address: str) -> bool:
    try:
        url = f"http://{address}:{protocol.HTTP_PORT}{protocol.READY_PATH}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except OSError:
        return False
