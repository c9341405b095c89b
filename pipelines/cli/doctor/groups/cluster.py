"""The Kubernetes API, as far as whoever asks may see: namespaces and the accounts that pods run as."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mistere.common.errors import MistereError
from mistere.serving.kserve.inference_service import SERVICE_ACCOUNT
from pipelines.cli.doctor.http_probe import ask_api, authorities
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, ok

_WELL_KNOWN = "~/.kube/config"


class AbsentError(MistereError):
    """There is no such object."""


class Cluster:
    """The cluster that the kubeconfig names, or the one that this pod is in."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @property
    def mode(self) -> str:
        """How models are deployed: ``local``, or one of KServe's modes; empty where the settings do not say."""
        return str(self.plan.config.section("deployment").get("mode", ""))

    @cached_property
    def client(self) -> Any:
        """The API client.

        Raises:
            SkippedError: no cluster is named anywhere.
            MistereError: the kubeconfig cannot be used.
        """
        from kubernetes import client, config

        configuration = client.Configuration()
        named = os.environ.get("KUBECONFIG") or _WELL_KNOWN
        try:
            if any(Path(place).expanduser().is_file() for place in named.split(os.pathsep)):
                config.load_kube_config(config_file=named, client_configuration=configuration)
            elif os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=configuration)
            else:
                raise SkippedError(
                    f"there is no kubeconfig (KUBECONFIG, {_WELL_KNOWN}): log in to the cluster for these."
                )
        except config.ConfigException as error:
            raise MistereError(
                f"the kubeconfig cannot be used ({str(error).splitlines()[0][:120]}): `kubectl config current-context` says what it names."
            ) from error
        configuration.retries = False
        configuration.ssl_ca_cert = configuration.ssl_ca_cert or authorities()
        return client.ApiClient(configuration)

    def api(self, name: str) -> Any:
        """One of the client's APIs, by its class."""
        from kubernetes import client

        return getattr(client, name)(self.client)

    def ask(self, call: Callable[..., Any], what: str) -> Any:
        """Make a call.

        Args:
            call: takes ``_request_timeout``.
            what: the right it takes, after "may not".

        Raises:
            AbsentError: there is no such object.
            SkippedError: these credentials may not.
            MistereError: the API does not answer, or does not know us.
        """
        where = f"the Kubernetes API at {self.client.configuration.host}"
        status, answer = ask_api(call, where)
        if status == 401:
            raise MistereError(f"{where} does not accept the kubeconfig's credentials (401; expired?): log in again.")
        if status == 403:
            raise SkippedError(f"these credentials may not {what}.")
        if status == 404:
            raise AbsentError("there is no such object.")
        if status:
            raise MistereError(f"{where} has trouble of its own ({status}): try again later.")
        return answer

    @cached_property
    def nodes(self) -> list[Any]:
        """The nodes that take pods.

        Raises:
            SkippedError: these credentials may not list them, or there is none.
        """
        found = self.ask(lambda **k: self.api("CoreV1Api").list_node(**k), "list nodes").items
        ready = [node for node in found if not node.spec.unschedulable and _ready(node)]
        if not ready:
            raise SkippedError(f"of {len(found)} nodes none is ready, so nothing can be said of their size.")
        return ready

    def reached(self) -> CheckResult:
        """Whether the API answers, and which version it is."""
        asked = time.time()
        version, _, headers = self.ask(
            lambda **k: self.api("VersionApi").get_code_with_http_info(**k), "ask the version"
        )
        self.plan.clock.hear(self.client.configuration.host, headers.get("Date"), asked)
        self.ask(lambda **k: self.api("ApisApi").get_api_versions(**k), "list the APIs")
        return ok(f"{version.git_version} at {self.client.configuration.host}.")

    def namespace(self, name: str) -> CheckResult:
        """Whether a namespace is there."""
        try:
            found = self.ask(lambda **k: self.api("CoreV1Api").read_namespace(name, **k), f"read the namespace {name}")
        except AbsentError:
            return failed(
                f"there is no namespace {name}: `kubectl apply -k manifests/overlays/…` makes it, or name another (cluster.namespace)."
            )
        if found.status.phase == "Terminating":
            return failed(f"the namespace {name} is being deleted: wait until it is gone, and make it anew.")
        return ok(f"{name} is there.")

    def account(self, name: str, namespace: str, whose: str) -> CheckResult:
        """Whether a service account is there."""
        try:
            self.ask(
                lambda **k: self.api("CoreV1Api").read_namespaced_service_account(name, namespace, **k),
                f"read service accounts in namespace {namespace}",
            )
        except AbsentError:
            return failed(
                f"there is no service account {name} in namespace {namespace}, which {whose} run as: `kubectl apply -k "
                "manifests/overlays/…` makes it."
            )
        return ok(f"{name}.")

    def may(self, account: str, verbs: tuple[str, ...], group: str, resource: str, namespace: str) -> CheckResult:
        """Whether the steps' service account has its rights."""
        user = f"system:serviceaccount:{self.plan.config.cluster.namespace}:{account}"
        lacks = []
        for verb in verbs:
            attributes = {"group": group, "resource": resource, "verb": verb, "namespace": namespace}
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "LocalSubjectAccessReview",
                "metadata": {"namespace": namespace},
                "spec": {"user": user, "resourceAttributes": attributes},
            }
            answer = self.ask(
                lambda sent=body, **k: self.api("AuthorizationV1Api").create_namespaced_local_subject_access_review(
                    namespace, sent, **k
                ),
                f"ask what others may do in namespace {namespace}",
            )
            if not answer.status.allowed:
                lacks.append(verb)
        if lacks:
            return failed(
                f"the service account {account} may not {', '.join(lacks)} {resource}.{group} in namespace {namespace}: `kubectl apply "
                "-k manifests/overlays/…` binds the role."
            )
        return ok(f"{account} may {', '.join(verbs)} {resource}.")


def _may_deploy(cluster: Cluster) -> CheckResult:
    config = cluster.plan.config
    if cluster.mode == "local":
        return ok("none is needed: deployment.mode is local.")
    verbs = ("get", "watch", "create", "patch", "delete")
    group, resource = "serving.kserve.io", "inferenceservices"
    return cluster.may(config.cluster.service_account, verbs, group, resource, config.deployment.namespace)


def _ready(node: Any) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or [])


def subject(cluster: Cluster) -> Subject:
    """The checks of the cluster itself."""
    config = cluster.plan.config
    namespaces = dict.fromkeys([config.cluster.namespace, config.deployment.namespace])
    steps, predictors = config.cluster.service_account, SERVICE_ACCOUNT
    return Subject(
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
        door=True,
    )
