"""The cluster that ``mistere doctor`` checks, as real HTTP servers: Kubeflow Pipelines, and Kubernetes with what runs on it.

They answer in the form of the real ones, errors too, and only the requests of doctor; a test breaks what it expects a message on.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from mistere.common.paths import PROJECT_ROOT
from mistere.kubernetes.images import image
from tests.stand_ins.http_server import HttpServer, Reply

NAMESPACE = "mistere"
MANIFESTS = PROJECT_ROOT / "manifests"
AGENT = "TTL_SECONDS_AFTER_WORKFLOW_FINISH"


def workflow_settings(retry: dict[str, str]) -> dict[str, Any]:
    """KFP 2.17's ``workflow-controller-configmap``, with another retry strategy; as stock it holds an hour after each end."""
    hour = dict.fromkeys(("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure"), 3600)
    spec = {"ttlStrategy": hour, "templateDefaults": {"retryStrategy": retry}}
    executor = "imagePullPolicy: IfNotPresent\n"
    return {
        "metadata": {"name": "workflow-controller-configmap"},
        "data": {"executor": executor, "workflowDefaults": yaml.safe_dump({"spec": spec})},
    }


def persistence_agent(seconds: str) -> dict[str, Any]:
    """KFP's persistence agent, whose Deployment sets this variable to 86400 as stock (base/pipeline/ of KFP's manifests)."""
    container = {"name": "ml-pipeline-persistenceagent", "env": [{"name": AGENT, "value": seconds}]}
    return {"metadata": {"name": container["name"]}, "spec": {"template": {"spec": {"containers": [container]}}}}


def settings_map(**data: str) -> dict[str, Any]:
    """The ConfigMap that completes the runs of other clients; the API leaves out ``data`` if it is empty."""
    return {"metadata": {"name": "mistere-settings", "namespace": NAMESPACE}, **({"data": data} if data else {})}


def api_endpoints(address: str, port: int) -> dict[str, Any]:
    """The EndpointSlice of the Service ``kubernetes``, which the API server keeps under this name (Kubernetes 1.36)."""
    return {
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


def running_pod(node: str, cpu: str, memory: str, **more: Any) -> dict[str, Any]:
    """A pod on a node; ``owner`` is the kind of its owner, ``phase`` its phase."""
    container = {"name": "main", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    owner = {"apiVersion": "v1", "kind": more.get("owner", "ReplicaSet"), "name": "o", "uid": "u"}
    return {
        "metadata": {"name": "p", "namespace": "default", "ownerReferences": [owner]},
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"phase": more.get("phase", "Running")},
    }


def base_policies(*components: str) -> list[dict[str, Any]]:
    """The NetworkPolicies of the manifests' base, and those of components."""
    files = [MANIFESTS / "base", *(MANIFESTS / "components" / name for name in components)]
    return [
        policy
        for folder in files
        for file in folder.glob("network-polic*.yaml")
        for content in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        for policy in content.get("items", [content])
    ]


class PipelinesApi(HttpServer):
    """Kubeflow Pipelines, v2beta1, multi-user; errors have the form of grpc-gateway; the first ``slow`` answers of each path come late."""

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.namespaces = {NAMESPACE}
        self.health: dict[str, Any] = {"multi_user": True, "tag_name": "2.17.0", "commit_sha": "abc"}
        self.versions = {("p1", "v1")}
        self.pipelines = [{"pipeline_id": "p1", "display_name": "mistere-retraining", "name": "mistere-retraining"}]
        self.schedules: list[dict[str, Any]] = []
        self.page = 2
        self.slow = 0
        self.seen: Counter[str] = Counter()

    def schedule(self, name: str, version: str) -> None:
        reference = {"pipeline_id": "p1", "pipeline_version_id": version}
        self.schedules.append(
            {"recurring_run_id": name, "display_name": name, "pipeline_version_reference": reference, "mode": "ENABLE"}
        )

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        parts = urlsplit(path)
        self.seen[parts.path] += 1
        if self.seen[parts.path] <= self.slow:
            time.sleep(0.4)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return self._refused(401, 16, "Request header error: there is no user identity header.")
        if parts.path == "/apis/v2beta1/healthz":
            return Reply(200, self.health)
        if self.health.get("multi_user") and "/versions/" not in parts.path:
            namespace = query.get("namespace", "")
            if namespace not in self.namespaces:
                return self._refused(403, 7, f"User is not authorized to list resources in namespace {namespace}")
        elif "namespace" in query:
            return self._refused(400, 3, "In single-user mode, the namespace must be empty")
        if parts.path == "/apis/v2beta1/experiments":
            return Reply(200, {"experiments": [], "total_size": 0})
        if parts.path == "/apis/v2beta1/runs":
            return Reply(200, {"runs": [], "total_size": 0})
        if parts.path == "/apis/v2beta1/pipelines":
            predicate = json.loads(query["filter"])["predicates"][0]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            named = [item for item in self.pipelines if item["display_name"] == predicate["stringValue"]]
            return Reply(200, {"pipelines": named, "total_size": len(named)} if named else {})
        if parts.path == "/apis/v2beta1/recurringruns":
            start = int(query.get("page_token") or 0)
            shown, end = self.schedules[start : start + self.page], start + self.page
            more = {"next_page_token": str(end)} if end < len(self.schedules) else {}
            return Reply(200, {"recurringRuns": shown, "total_size": len(self.schedules), **more})
        pinned = re.fullmatch(r"/apis/v2beta1/pipelines/(\w+)/versions/(\w+)", parts.path)
        if pinned and (pinned[1], pinned[2]) in self.versions:
            return Reply(200, {"pipeline_id": pinned[1], "pipeline_version_id": pinned[2], "display_name": "v"})
        return self._refused(404, 5, "ResourceNotFoundError")

    @staticmethod
    def _refused(status: int, code: int, message: str) -> Reply:
        return Reply(status, {"error": message, "code": code, "message": message, "details": []})


def _node(
    name: str, labels: dict[str, str], taints: list[dict[str, str]], allocatable: dict[str, str]
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [
                {"names": [f"registry.example/{image(role)}"], "sizeBytes": 1}
                for role in ("pipeline", "train", "predictor")
            ],
        },
    }


class KubernetesApi(HttpServer):
    """A healthy cluster; ``objects`` by path, lists as lists."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "a-token"
        self.forbidden: list[str] = []
        self.denied_verbs: set[str] = set()
        core, apps = "/api/v1", "/apis/apps/v1"
        own = f"{core}/namespaces/{NAMESPACE}"
        taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
        self.objects: dict[str, Any] = {
            "/version": {
                "major": "1",
                "minor": "36",
                "gitVersion": "v1.36.1",
                "gitCommit": "c",
                "gitTreeState": "clean",
            }
            | {"buildDate": "d", "goVersion": "g", "compiler": "gc", "platform": "linux/amd64"},
            "/apis": {"kind": "APIGroupList", "groups": []},
            own: {"metadata": {"name": NAMESPACE}, "spec": {}, "status": {"phase": "Active"}},
            f"{own}/serviceaccounts/mistere-pipeline": {"metadata": {"name": "mistere-pipeline"}},
            f"{own}/serviceaccounts/mistere-predictor": {"metadata": {"name": "mistere-predictor"}},
            f"{own}/secrets/mistere-storage": self.secret(
                "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"
            ),
            f"{own}/secrets/mistere-tracking": self.secret("MLFLOW_TRACKING_TOKEN"),
            f"{own}/secrets/mistere-webhook": self.secret("MISTERE_WEBHOOK_URL"),
            f"{own}/configmaps/mistere-settings": settings_map(
                MISTERE_STORE="s3://models/mistere", MLFLOW_TRACKING_URI="https://mlflow.example.org"
            ),
            f"{own}/resourcequotas": [],
            f"{own}/limitranges": [],
            f"{core}/nodes": [
                _node("cpu-1", {}, [], {"cpu": "15500m", "memory": "64Gi"}),
                _node("gpu-1", {"pool": "gpu"}, [taint], {"cpu": "31", "memory": "240Gi", "nvidia.com/gpu": "4"}),
            ],
            f"{core}/pods": [],
            f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies": base_policies(),
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes": api_endpoints("10.0.0.5", 6443),
            # With the patch of the manifests, and an agent that keeps workflows as long as cluster.run_ttl.
            f"{core}/namespaces/kubeflow/configmaps/workflow-controller-configmap": yaml.safe_load(
                (MANIFESTS / "kubeflow-pipelines" / "workflow-defaults.yaml").read_text(encoding="utf-8")
            ),
            f"{apps}/namespaces/kubeflow/deployments/ml-pipeline-persistenceagent": persistence_agent("604800"),
            "/apis/serving.kserve.io/v1beta1": self.resources("inferenceservices"),
            "/apis/trainer.kubeflow.org/v1alpha1": self.resources("trainjobs"),
            f"{apps}/namespaces/kserve/deployments/kserve-controller-manager": {
                "metadata": {"name": "kserve-controller-manager"},
                "spec": {
                    "selector": {},
                    "template": {
                        "spec": {
                            "containers": [
                                {"name": "manager", "image": "registry.example/kserve/kserve-controller:v0.20.0"}
                            ]
                        }
                    },
                },
                "status": {"availableReplicas": 1},
            },
            f"{core}/namespaces/kserve/configmaps/inferenceservice-config": {
                "metadata": {"name": "inferenceservice-config"},
                "data": {"deploy": '{"defaultDeploymentMode": "Standard"}'},
            },
        }

    @staticmethod
    def secret(*keys: str, kind: str = "Opaque") -> dict[str, Any]:
        value = base64.b64encode(b"hush-hush").decode()
        return {"metadata": {"name": "s"}, "type": kind, "data": dict.fromkeys(keys, value)}

    @staticmethod
    def resources(*plurals: str) -> dict[str, Any]:
        listed = [
            {"name": item, "singularName": item[:-1], "namespaced": True, "kind": item, "verbs": ["get"]}
            for item in plurals
        ]
        return {"kind": "APIResourceList", "groupVersion": "g/v", "resources": listed}

    def at(self, tail: str) -> str:
        """The path of the only object with this path suffix."""
        (path,) = [path for path in self.objects if path.endswith(tail)]
        return path

    def drop(self, tail: str) -> None:
        del self.objects[self.at(tail)]

    def kubeconfig(self) -> str:
        """The response to a request, as ``kubectl`` would receive it."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [{"name": "here", "cluster": {"server": self.url}}],
                "users": [{"name": "me", "user": {"token": "a-token"}}],
            }
        )

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        query = parse_qs(urlsplit(path).query)
        path = urlsplit(path).path.rstrip("/")
        if headers.get("authorization") != f"Bearer {self.token}":
            return self._status(401, "Unauthorized", "Unauthorized")
        if any(re.search(pattern, path) for pattern in self.forbidden):
            return self._status(403, "Forbidden", f'User "me" cannot get resource at {path}')
        if method == "POST" and path.endswith("/localsubjectaccessreviews"):
            review = json.loads(body)
            verb = review["spec"]["resourceAttributes"]["verb"]
            assert review["spec"]["user"] == "system:serviceaccount:mistere:mistere-pipeline"
            return Reply(201, {**review, "status": {"allowed": verb not in self.denied_verbs}})
        if path not in self.objects:
            return self._status(404, "NotFound", f"{path} not found")
        value = self.objects[path]
        if not isinstance(value, list):
            return Reply(200, value)
        for term in query.get("fieldSelector", [""])[0].split(","):
            if term:  # the only selector that doctor uses: kube-apiserver knows status.phase of pods
                field, phase = term.split("!=")
                assert field == "status.phase"
                value = [item for item in value if item["status"]["phase"] != phase]
        return Reply(200, {"kind": "List", "metadata": {}, "items": value})

    @staticmethod
    def _status(code: int, reason: str, message: str) -> Reply:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return Reply(code, {**body, "message": message, "reason": reason, "code": code})
