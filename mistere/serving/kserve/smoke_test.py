"""The smoke test of a revision on a cluster: wait until it is ready and has its requests, and let one of its pods answer the example."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import KubernetesApi
from mistere.serving.client import EndpointError
from mistere.serving.example_check import ExampleCheck
from mistere.serving.kserve.inference_service import revision_of
from mistere.serving.kserve.lease import RenewLease
from mistere.serving.kserve.live_service import (
    is_rolled_out,
    is_terminating,
    not_ready,
    says_ready,
    service_path,
    share_of,
    workload_path,
)
from mistere.serving.kserve.revision import WATCH_SECONDS as _WATCH_SECONDS
from mistere.serving.kserve.revision import Revision, has_failed, is_ready

OnStatus = Callable[[str], object]
"""Receives what is being waited for."""


@dataclass(frozen=True)
class SmokeTest:
    """The test of one revision of an InferenceService.

    Attributes:
        api: client of the cluster.
        config: the ``deployment`` section.
        manifest: the InferenceService, as it was or will be applied.
        bundle_digest: of the bundle that it serves.
        on_status: receives what is being waited for.
    """

    api: KubernetesApi
    config: DeploymentConfig
    manifest: dict[str, Any]
    bundle_digest: str
    on_status: OnStatus

    @property
    def revision(self) -> Revision:
        """The revision that is tested."""
        metadata = self.manifest["metadata"]
        return Revision(self.api, metadata["namespace"], metadata["name"], revision_of(self.manifest))

    @property
    def path(self) -> str:
        """The API path of the InferenceService."""
        return service_path(self.config, self.manifest["metadata"]["name"])

    def live(self, renew_lease: RenewLease) -> dict[str, Any] | None:
        """Read the live InferenceService; wait for one that is terminating, because changes to it would be lost."""
        deadline = time.monotonic() + self.config.ready_timeout
        while (live := self.api.get(self.path)) is not None and is_terminating(live):
            if time.monotonic() > deadline:
                name = self.path.rpartition("/")[2]
                raise MistereError(
                    f"{name} is being deleted and does not terminate: check which of its finalizers has no controller."
                )
            renew_lease()
            self._wait_for_change(live, self.path, deadline)
        return live

    def scaled_to_zero(self) -> bool:
        """Whether the revision has no pod for lack of requests."""
        allowed = self.config.mode == "knative" and self.config.min_replicas == 0
        return allowed and not self.revision.pods()[0]

    def run(self, check: ExampleCheck, renew_lease: RenewLease) -> str:
        """Wait for a ready pod, and let it answer the example dialogue.

        Args:
            check: the example dialogue and its expected answer.
            renew_lease: called every few seconds during a wait.

        Returns:
            The result of the test, one sentence.

        Raises:
            MistereError: no pod became ready, or it failed the test.
        """
        pod = self._ready_pod(renew_lease, time.monotonic() + self.config.ready_timeout)
        return self._answer(check, pod)

    def settle(
        self, check: ExampleCheck, renew_lease: RenewLease, share: int | None, tested: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Wait until the service has reached the applied state, and test one of its pods.

        Args:
            check: the example dialogue and its expected answer.
            renew_lease: called every few seconds during a wait.
            share: percentage of the traffic for the new revision; None for all of it.
            tested: a pod of the same revision that passed the test before. It suffices if the revision has scaled to zero since.

        Returns:
            The result in one sentence, and the pod.
        """
        revision = self.revision
        deadline = time.monotonic() + self.config.ready_timeout
        idle = tested if tested is not None and self.scaled_to_zero() else None
        pod = idle or self._ready_pod(renew_lease, deadline)
        self.on_status(f"waiting for {self.config.service} to serve the new revision")
        while True:
            live = self.api.get(self.path) or {}
            missing, watched, where = self._missing(live, pod, share)
            if not missing:
                break
            pods, _ = revision.pods()
            overwritten = revision_of(live) != revision.revision
            if overwritten or any(has_failed(other) for other in pods) or time.monotonic() > deadline:
                raise self._failure(pods, missing)
            renew_lease()
            self._wait_for_change(watched, where, deadline)
        if idle:
            return "The new revision passed the smoke test during the canary and is scaled to zero now.", pod
        return self._answer(check, pod), pod

    def watch_share(self, share: int, renew_lease: RenewLease) -> None:
        """Give the new revision its canary share for a while; it must not fail or restart."""
        seconds = self.config.canary_seconds
        self.on_status(f"{share} % of the traffic goes to the new revision for {seconds:g} s")
        if failed := self.revision.watch(seconds, renew_lease):
            raise self._failure(failed, f"it restarted while it had {share} % of the traffic")

    def _ready_pod(self, renew_lease: RenewLease, deadline: float) -> dict[str, Any]:
        revision = self.revision
        self.on_status(f"waiting for a pod of {revision.service}")
        known = revision.rejected_pods()
        workload = workload_path(self.config, revision.service) if self.config.mode == "standard" else ""
        while True:
            pods, version = revision.pods()
            ready = next((pod for pod in pods if is_ready(pod)), None)
            if ready is not None:
                return ready
            refused = revision.refusal(known, workload)
            if refused or any(has_failed(pod) for pod in pods) or time.monotonic() > deadline:
                raise self._failure(pods, refused or "no pod of the new revision is ready")
            renew_lease()
            revision.wait(version, min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1))

    def _missing(self, live: dict[str, Any], pod: dict[str, Any], share: int | None) -> tuple[str, dict[str, Any], str]:
        """What the service still lacks (empty if nothing), the object to watch for the change, and its path."""
        if revision_of(live) != revision_of(self.manifest):
            return "another client changed the InferenceService meanwhile", live, self.path
        if self.config.mode == "standard":
            where = workload_path(self.config, self.config.service)
            deployment = self.api.get(where) or {}
            if not is_rolled_out(deployment, revision_of(live)):
                return "not all of its pods are of the new revision", deployment, where
        else:
            name = pod["metadata"].get("labels", {}).get("serving.knative.dev/revision", "")
            expected = 100 if share is None else share
            actual = share_of(live, name)
            if actual != expected:
                return f"the new revision gets {actual} % of the traffic instead of {expected} %", live, self.path
        return "" if says_ready(live) else not_ready(live), live, self.path

    def _answer(self, check: ExampleCheck, pod: dict[str, Any]) -> str:
        """Send the example dialogue to one pod, so that no other revision can answer."""
        try:
            return check.run(self.revision.client(pod, self.config.service, grpc=self.config.mode == "standard"))
        except EndpointError as error:
            if error.code == "403" and not self.api.inside:
                raise MistereError(
                    f"the example dialogue cannot be sent to {pod['metadata']['name']} from outside the cluster, so "
                    "the champion stays: allow get and create on pods/proxy, or run the command in the cluster."
                ) from error
            pods, _ = self.revision.pods()
            raise self._failure(pods, f"it did not answer ({error})") from error

    def _failure(self, pods: list[dict[str, Any]], what: str) -> MistereError:
        reason = self.revision.explain(pods)
        return MistereError(
            f"the smoke test of bundle {self.bundle_digest[:12]} on the cluster failed, so the champion stays: {what} "
            f"({reason})."
        )

    def _wait_for_change(self, watched: dict[str, Any], path: str, deadline: float) -> None:
        seconds = min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1)
        version = str(watched.get("metadata", {}).get("resourceVersion", ""))
        collection, _, name = path.rpartition("/")
        self.api.wait_for_change(collection, version, seconds, fields=f"metadata.name={name}")
