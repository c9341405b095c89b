"""Kubernetes checks, within the caller's permissions: namespaces, service accounts and their rights."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar

from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.kubernetes.api import KubernetesApi, KubernetesError, connect, is_configured
from mistere.serving.kserve.inference_service import SERVICE_ACCOUNT, candidate_name
from pipelines.cli.doctor import http_probe
from pipelines.cli.doctor.node_usage import UNFINISHED
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, ok

_Value = TypeVar("_Value")

_BY_NAME = frozenset({"get", "patch", "delete"})
"""The rights that RBAC grants by an object's name; `create` and `list` it cannot."""


class AbsentError(MistereError):
    """The object, or its kind, does not exist in the cluster."""


class Cluster:
    """The cluster of the kubeconfig, or the one that this pod runs in; requests are never retried."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @property
    def mode(self) -> str:
        """How models are deployed: ``local``, or one of KServe's modes."""
        return self.plan.config.deployment.mode

    @property
    def kubeflow_namespace(self) -> str:
        """The namespace of Kubeflow Pipelines itself."""
        return self.plan.config.cluster.kubeflow_namespace

    @cached_property
    def api(self) -> KubernetesApi:
        """The Kubernetes API.

        Raises:
            SkippedError: neither a kubeconfig nor a surrounding cluster exists.
            MistereError: the kubeconfig is invalid.
        """
        if not is_configured():
            raise SkippedError("there is no kubeconfig (KUBECONFIG, ~/.kube/config): log in to a cluster to check it.")
        return connect(http_probe.TIMEOUT_SECONDS, retry_delays=())

    def get(self, path: str, action: str) -> dict[str, Any]:
        """Read an object.

        Args:
            path: of the object in the API.
            action: what a missing permission forbids, after "may not".

        Raises:
            AbsentError: the object does not exist.
            SkippedError: the credentials lack the permission.
            MistereError: the API does not answer, or does not accept the credentials.
        """
        value = self._request(lambda: self.api.get(path), action)
        if value is None:
            raise AbsentError(f"{path} does not exist.")
        return value

    def list_objects(self, path: str, action: str, fields: str = "") -> list[dict[str, Any]]:
        """List a collection, or those objects that a field selector selects; other arguments and errors as for :meth:`get`."""
        return self._request(lambda: self.api.list(path, fields=fields)[0], action)

    def serves(self, group: str, version: str, plural: str) -> bool:
        """Whether the API serves a custom resource; discovery requires no permission."""
        try:
            served = self.get(f"/apis/{group}/{version}", f"discover {group}")
        except AbsentError:
            return False
        return any(resource["name"] == plural for resource in served.get("resources", []))

    def _request(self, request: Callable[[], _Value], action: str) -> _Value:
        try:
            return request()
        except KubernetesError as error:
            if error.code == 403:
                raise SkippedError(f"these credentials may not {action}.") from error
            if error.code == 404:
                raise AbsentError(str(error)) from error
            raise

    @cached_property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that accept pods.

        Raises:
            SkippedError: the credentials may not list nodes, or no node is ready.
        """
        nodes = self.list_objects("/api/v1/nodes", "list nodes")
        ready = [node for node in nodes if not node.get("spec", {}).get("unschedulable") and _is_ready(node)]
        if not ready:
            raise SkippedError(f"none of {counted(len(nodes), 'node')} is ready, so their size is unknown.")
        return ready

    @cached_property
    def unfinished_pods(self) -> list[dict[str, Any]]:
        """The pods of all namespaces that have not finished.

        Raises:
            SkippedError: the credentials may not list them.
        """
        return self.list_objects("/api/v1/pods", "list the pods of all namespaces", UNFINISHED)

    def reached(self) -> CheckResult:
        """Whether the API answers, and in which version."""
        sent = time.time()
        version = self.get("/version", "read the version")
        self.plan.clock.record(self.api.host, self.api.date, sent)
        self.get("/apis", "list the APIs")
        return ok(f"{version.get('gitVersion', 'an unknown version')} at {self.api.host}.")

    def namespace(self, name: str) -> CheckResult:
        """Whether a namespace exists."""
        try:
            namespace = self.get(f"/api/v1/namespaces/{name}", f"read the namespace {name}")
        except AbsentError:
            return failed(
                f"there is no namespace {name}: `kubectl apply --server-side -k manifests/overlays/…` creates it; or set cluster.namespace to "
                "another."
            )
        if namespace.get("status", {}).get("phase") == "Terminating":
            return failed(f"the namespace {name} is being deleted: wait until it is gone, and create it again.")
        return ok(f"{name} exists.")

    def service_account(self, name: str, namespace: str) -> dict[str, Any]:
        """A service account; errors as for :meth:`get`."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        return self.get(path, f"read service accounts in namespace {namespace}")

    def account(self, name: str, namespace: str, users: str) -> CheckResult:
        """Whether a service account exists."""
        try:
            self.service_account(name, namespace)
        except AbsentError:
            return failed(
                f"there is no service account {name} in namespace {namespace}, which {users} run as: `kubectl apply --server-side -k "
                "manifests/overlays/…` creates it."
            )
        return ok(f"{name}.")

    def may(
        self,
        account: str,
        verbs: tuple[str, ...],
        group: str,
        resource: str,
        namespace: str,
        names: tuple[str, ...] = (),
    ) -> CheckResult:
        """Whether a service account of the runs' namespace has the rights ``verbs`` on a resource.

        Args:
            account: the service account.
            verbs: the rights.
            group: API group of the resource.
            resource: its plural name.
            namespace: where it is.
            names: of the objects, for rights that RBAC can grant by name.
        """
        user = f"system:serviceaccount:{self.plan.config.cluster.namespace}:{account}"
        path = f"/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
        denied = []
        pairs = [(verb, name) for verb in verbs for name in (names if names and verb in _BY_NAME else ("",))]
        for verb, name in pairs:
            attributes = {"group": group, "resource": resource, "verb": verb, "namespace": namespace}
            if name:
                attributes["name"] = name
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "LocalSubjectAccessReview",
                "metadata": {"namespace": namespace},
                "spec": {"user": user, "resourceAttributes": attributes},
            }
            review = self._request(
                partial(self.api.review, path, body), f"review the rights of others in namespace {namespace}"
            )
            if not review.get("status", {}).get("allowed"):
                denied.append(f"{verb} {name}".strip())
        if denied:
            return failed(
                f"the service account {account} may not {', '.join(denied)} {resource}.{group} in namespace {namespace}: `kubectl "
                "apply --server-side -k manifests/overlays/…` binds the role, which names the services of the default deployment.service."
            )
        return ok(f"{account} may {', '.join(verbs)} {resource}.")


def _may_deploy(cluster: Cluster) -> CheckResult:
    config = cluster.plan.config
    if cluster.mode == "local":
        return ok("not needed: deployment.mode is local.")
    verbs = ("get", "watch", "create", "patch", "delete")
    group, resource = "serving.kserve.io", "inferenceservices"
    service = config.deployment.service
    names = (service, candidate_name(service))
    return cluster.may(config.cluster.service_account, verbs, group, resource, config.deployment.namespace, names)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def group(cluster: Cluster) -> CheckGroup:
    """The checks of the cluster itself."""
    config = cluster.plan.config
    namespaces = dict.fromkeys([config.cluster.namespace, config.deployment.namespace])
    steps, predictors = config.cluster.service_account, SERVICE_ACCOUNT
    return CheckGroup(
        "Kubernetes",
        [
            Check("the API", cluster.reached),
            *(Check(f"namespace {name}", partial(cluster.namespace, name)) for name in namespaces),
            Check("account of the steps", lambda: cluster.account(steps, config.cluster.namespace, "the steps")),
            Check(
                "account of the predictor",
                lambda: cluster.account(predictors, config.deployment.namespace, "the predictor's pods"),
            ),
            Check("right to deploy", lambda: _may_deploy(cluster)),
        ],
        first_required=True,
    )
