"""Roll a bundle out on a cluster: test it as a candidate, update the service, test it again, and undo the update on a failure.

If the service already has a model, the new one first runs as a candidate: a separate InferenceService with one pod, which must
answer the example dialogue. With a Gateway, it has as many pods as the service, and gets shares of the live requests next
(:mod:`mistere.serving.kserve.canary.steps`). A candidate is necessary because no mode of KServe keeps traffic from a new revision that is ready
but untested: Standard mode cannot hold traffic back, and a Knative share of 0 % sends it to the revision before the last while
the new one loads. Then the service itself is updated, and a pod of its new revision must answer the example dialogue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ConflictError
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import FIELD_MANAGER, KubernetesApi, KubernetesError
from mistere.kubernetes.managed_fields import applied_by
from mistere.serving.client import EndpointError
from mistere.serving.deployment import Deployment, RollbackError
from mistere.serving.example_check import ExampleCheck
from mistere.serving.kserve.canary.held_pods import HeldPods
from mistere.serving.kserve.canary.route import Route
from mistere.serving.kserve.canary.steps import Canary
from mistere.serving.kserve.inference_service import candidate_name, candidate_of, inference_service, revision_of
from mistere.serving.kserve.lease import RenewLease, no_lease
from mistere.serving.kserve.live_service import (
    address,
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
from mistere.serving.kserve.supported_settings import check_support

_LEAVING_SECONDS: Final = 90.0
"""Twice the longest time that a predictor takes to stop."""
_REFUSED: Final = range(400, 500)

OnStatus = Callable[[str], object]
"""Receives what is being waited for."""


@dataclass(frozen=True)
class ClusterDeployment:
    """The deployment of one bundle to one service of a cluster.

    Attributes:
        api: client of the cluster.
        deployment: the bundle and its settings.
        on_status: receives what is being waited for.
    """

    api: KubernetesApi
    deployment: Deployment
    on_status: OnStatus

    @property
    def config(self) -> DeploymentConfig:
        """The ``deployment`` section, with what the bundle needs."""
        return DeploymentConfig.model_validate({**self.deployment.settings, **self.deployment.amounts}).with_amounts()

    @property
    def route(self) -> Route:
        """The route that splits the requests in Standard mode, if a Gateway is configured."""
        return Route(self.api, self.config)

    @property
    def _held_pods(self) -> HeldPods:
        return HeldPods(self.api, self.config)

    def manifest(self, canary_percent: int | None = None) -> dict[str, Any]:
        """The manifest of the InferenceService."""
        target = self.deployment
        return inference_service(
            target.bundle_location, target.bundle_digest, self.config, target.image, canary_percent
        )

    def serves(self) -> str:
        """The address of the service if it serves exactly this revision; empty otherwise."""
        live = self.api.get(service_path(self.config, self.config.service))
        current = live is not None and not is_terminating(live) and revision_of(live) == revision_of(self.manifest())
        if (
            current and self.config.mode == "standard"
        ):  # it says Ready even while the new pod crash-loops beside the old one
            workload = self.api.get(workload_path(self.config, self.config.service))
            current = workload is not None and is_rolled_out(workload, revision_of(self.manifest()))
        return address(live) if live is not None and current and says_ready(live) else ""

    def roll_out(self, bundle: ArtifactHandle[ModelBundle], renew_lease: RenewLease) -> RolledOut:
        """Make the service serve the bundle; test it with the example dialogue before and after it gets traffic.

        Args:
            bundle: the bundle to serve.
            renew_lease: called every few seconds during a wait; an exception from it ends the attempt.

        Raises:
            UsageError: the mode does not support a setting.
            RollbackError: the roll-out failed and could not be undone.
            MistereError: the new revision did not become ready or failed the test; the service is as before.
        """
        config = self.config
        check_support(config, self.deployment.bundle_location)
        check = ExampleCheck.of(bundle, config)
        path = service_path(config, config.service)
        before = self.live_service(renew_lease)
        self.api.apply(path, self.manifest(), dry_run=True)
        replaces = before is not None and revision_of(before) != revision_of(self.manifest())
        if self.route.configured:
            self.route.check()
        measured, shares = "", False
        if before is not None and replaces and self.route.configured:
            shares = True
            measured = self.share_requests(before, check, renew_lease, lambda canary, _: canary.run(renew_lease))
        elif replaces:
            self._try_candidate(check, renew_lease)
        undo = partial(self._restore, path, before)
        share = config.canary_percent if replaces and config.canary_percent else None
        applied = False
        try:
            self.api.apply(path, self._held_pods.kept(self.manifest()) if shares else self.manifest(share))
            applied = True
            if before is not None and not replaces and self._scaled_to_zero():
                message = "The revision is unchanged and scaled to zero, so it was not tested again."
            else:
                message, pod = self._settle(check, renew_lease, share)
            if share is not None:
                self._watch_share(share, renew_lease)
                self.api.apply(path, self.manifest())
                message, _ = self._settle(check, renew_lease, None, pod)
            if self.route.configured:
                self.route.split(None, renew_lease)
                renew_lease(0)
                self.api.apply(path, self.manifest())  # without the pods that were held
                self.api.delete(service_path(config, candidate_name(config.service)))
        except BaseException as error:
            if not (applied or shares) and isinstance(error, KubernetesError) and error.code in _REFUSED:
                raise
            self._undo_after(error, undo, renew_lease)
            raise
        return RolledOut(f"{message} {measured}".rstrip(), address(self.api.get(path) or {}), undo)

    def share_requests(
        self,
        before: dict[str, Any],
        check: ExampleCheck,
        renew_lease: RenewLease,
        give: Callable[[Canary, str], str],
    ) -> str:
        """Run and test a candidate with as many pods as the service, and give it shares; undone on a failure.

        Args:
            before: the InferenceService as it is deployed.
            check: the example dialogue and its expected answer.
            renew_lease: as for :meth:`roll_out`.
            give: gives the shares, with the result of the test; its answer is returned.

        Raises:
            RollbackError: it failed and could not be undone.
            MistereError: it failed; the service has all requests again.
        """
        replicas = self._held_pods.replicas()
        manifest = self._held_pods.noted(candidate_of(self.manifest(), scaled=True, replicas=replicas))
        deployed = Revision(self.api, self.config.namespace, self.config.service, revision_of(before))
        canary = Canary(self.route, self._revision(manifest), deployed, self.on_status)
        try:
            other = self.api.get(service_path(self.config, manifest["metadata"]["name"]))
            if other is not None and revision_of(other) != revision_of(manifest):
                self.route.restore(renew_lease)  # the requests of another candidate must not reach this one untested
                renew_lease(0)
            message = self._test_beside(manifest, check, renew_lease)
            self._held_pods.hold(replicas)
            return give(canary, message)
        except BaseException as error:
            self._undo_after(error, lambda: None, renew_lease)
            raise

    def _undo_after(self, error: BaseException, undo: Callable[[], None], renew_lease: RenewLease) -> None:
        """Undo the roll-out after an error, and record that the candidate has no share; whoever has taken the release over ends the
        canary, too.

        Raises:
            RollbackError: it cannot be undone yet.
        """
        self.on_status(f"undoing the roll-out of {self.config.service}")
        try:
            undo()
            if self.route.configured and not isinstance(error, ConflictError):
                self.route.restore(no_lease)
                self._held_pods.release()
                self.api.delete(service_path(self.config, candidate_name(self.config.service)))
                renew_lease(0)
        except ConflictError:
            raise
        except MistereError as undo_error:
            raise RollbackError(
                f"{error} The roll-out could not be undone yet ({undo_error}); the next release undoes it."
            ) from error

    def undo(self, before: Deployment | None) -> None:
        """Undo a roll-out that another process began, unless the service no longer has its revision.

        Args:
            before: the previous deployment; None if there was none on this cluster.
        """
        config = self.config
        path = service_path(config, config.service)
        if self.route.configured:
            self.route.restore(no_lease)  # before the candidate is deleted, which may still get requests
            self._held_pods.release()
        self.api.delete(service_path(config, candidate_name(config.service)))
        live = self.api.get(path)
        if live is None or revision_of(live) != revision_of(self.manifest()):
            return
        earlier = (
            None if before is None or before.mode == "local" else ClusterDeployment(self.api, before, self.on_status)
        )
        if earlier is None or service_path(earlier.config, earlier.config.service) != path:
            self._remove(path)
        else:
            self.api.apply(path, earlier.manifest(_share_after_canary(live)), force=True)

    def _remove(self, path: str) -> None:
        """Delete the service, and its route first."""
        if self.route.configured:
            self.route.delete()
        self.api.delete(path)

    def _restore(self, path: str, before: dict[str, Any] | None) -> None:
        live = self.api.get(path)
        if live is not None and revision_of(live) != revision_of(self.manifest()):
            return  # another release has updated the service, or this one never did
        if before is None:
            self._remove(path)
            return
        manifest = applied_by(FIELD_MANAGER, before)
        if (share := _share_after_canary(live)) is not None:
            manifest["spec"]["predictor"]["canaryTrafficPercent"] = share
        self.api.apply(path, manifest, force=True)

    def _try_candidate(self, check: ExampleCheck, renew_lease: RenewLease) -> None:
        manifest = candidate_of(self.manifest())
        self.run_beside(manifest, check, renew_lease)
        self.api.delete(service_path(self.config, manifest["metadata"]["name"]))
        self._revision(manifest).wait_until_gone(_LEAVING_SECONDS, renew_lease)

    def run_beside(self, manifest: dict[str, Any], check: ExampleCheck, renew_lease: RenewLease) -> str:
        """Apply a service of one pod beside the deployed one and test it; it is deleted again if it fails.

        Args:
            manifest: the InferenceService.
            check: the example dialogue and its expected answer.
            renew_lease: called every few seconds during a wait.

        Returns:
            The result of the test, one sentence.

        Raises:
            MistereError: it did not become ready, or failed the test.
        """
        try:
            return self._test_beside(manifest, check, renew_lease)
        except BaseException:
            with suppress(MistereError):  # the next release deletes it; report the reason of the failure
                self.api.delete(service_path(self.config, manifest["metadata"]["name"]))
            raise

    def _test_beside(self, manifest: dict[str, Any], check: ExampleCheck, renew_lease: RenewLease) -> str:
        path = service_path(self.config, manifest["metadata"]["name"])
        revision = self._revision(manifest)
        self._live(path, renew_lease)
        self.api.apply(path, manifest, force=True)
        pod = self._ready_pod(revision, renew_lease, time.monotonic() + self.config.ready_timeout)
        return self._test(check, revision, pod)

    def live_service(self, renew_lease: RenewLease) -> dict[str, Any] | None:
        """The deployed InferenceService; None if there is none."""
        return self._live(service_path(self.config, self.config.service), renew_lease)

    def _live(self, path: str, renew_lease: RenewLease) -> dict[str, Any] | None:
        """Read the live InferenceService; wait for one that is terminating, because changes to it would be lost."""
        deadline = time.monotonic() + self.config.ready_timeout
        while (live := self.api.get(path)) is not None and is_terminating(live):
            if time.monotonic() > deadline:
                name = path.rpartition("/")[2]
                raise MistereError(
                    f"{name} is being deleted and does not terminate: check which of its finalizers has no controller."
                )
            renew_lease()
            self._wait_for_change(live, path, deadline)
        return live

    def _scaled_to_zero(self) -> bool:
        """Whether the revision has no pod for lack of requests."""
        allowed = self.config.mode == "knative" and self.config.min_replicas == 0
        return allowed and not self._revision(self.manifest()).pods()[0]

    def _settle(
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
        config = self.config
        path = service_path(config, config.service)
        revision = self._revision(self.manifest())
        deadline = time.monotonic() + config.ready_timeout
        idle = tested if tested is not None and self._scaled_to_zero() else None
        pod = idle or self._ready_pod(revision, renew_lease, deadline)
        self.on_status(f"waiting for {config.service} to serve the new revision")
        while True:
            live = self.api.get(path) or {}
            missing, watched, where = self._missing(live, pod, share)
            if not missing:
                break
            pods, _ = revision.pods()
            overwritten = revision_of(live) != revision.revision
            if overwritten or any(has_failed(other) for other in pods) or time.monotonic() > deadline:
                raise self._failure(revision, pods, missing)
            renew_lease()
            self._wait_for_change(watched, where, deadline)
        if idle:
            return "The new revision passed the smoke test during the canary and is scaled to zero now.", pod
        return self._test(check, revision, pod), pod

    def _ready_pod(self, revision: Revision, renew_lease: RenewLease, deadline: float) -> dict[str, Any]:
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
                raise self._failure(revision, pods, refused or "no pod of the new revision is ready")
            renew_lease()
            revision.wait(version, min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1))

    def _missing(self, live: dict[str, Any], pod: dict[str, Any], share: int | None) -> tuple[str, dict[str, Any], str]:
        """What the service still lacks (empty if nothing), the object to watch for the change, and its path."""
        path = service_path(self.config, self.config.service)
        if revision_of(live) != revision_of(self.manifest()):
            return "another client changed the InferenceService meanwhile", live, path
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
                return f"the new revision gets {actual} % of the traffic instead of {expected} %", live, path
        return "" if says_ready(live) else not_ready(live), live, path

    def _watch_share(self, share: int, renew_lease: RenewLease) -> None:
        """Give the new revision its canary share for a while; it must not fail or restart."""
        seconds, revision = self.config.canary_seconds, self._revision(self.manifest())
        self.on_status(f"{share} % of the traffic goes to the new revision for {seconds:g} s")
        if failed := revision.watch(seconds, renew_lease):
            raise self._failure(revision, failed, f"it restarted while it had {share} % of the traffic")

    def _test(self, check: ExampleCheck, revision: Revision, pod: dict[str, Any]) -> str:
        """Send the example dialogue to one pod, so that no other revision can answer."""
        try:
            return check.run(revision.client(pod, self.config.service, grpc=self.config.mode == "standard"))
        except EndpointError as error:
            if error.code == "403" and not self.api.inside:
                raise MistereError(
                    f"the example dialogue cannot be sent to {pod['metadata']['name']} from outside the cluster, so "
                    "the champion stays: allow get and create on pods/proxy, or run the command in the cluster."
                ) from error
            pods, _ = revision.pods()
            raise self._failure(revision, pods, f"it did not answer ({error})") from error

    def _failure(self, revision: Revision, pods: list[dict[str, Any]], what: str) -> MistereError:
        reason = revision.explain(pods)
        return MistereError(
            f"the smoke test of bundle {self.deployment.bundle_digest[:12]} on the cluster failed, so the champion stays: {what} "
            f"({reason})."
        )

    def _revision(self, manifest: dict[str, Any]) -> Revision:
        metadata = manifest["metadata"]
        return Revision(self.api, metadata["namespace"], metadata["name"], revision_of(manifest))

    def _wait_for_change(self, watched: dict[str, Any], path: str, deadline: float) -> None:
        seconds = min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1)
        version = str(watched.get("metadata", {}).get("resourceVersion", ""))
        collection, _, name = path.rpartition("/")
        self.api.wait_for_change(collection, version, seconds, fields=f"metadata.name={name}")


def _share_after_canary(live: dict[str, Any] | None) -> int | None:
    """The canary share with which to apply the previous manifest; None unless a canary is under way.

    Applying the previous manifest creates another new revision. Until it is ready, Knative would send all traffic to the latest
    ready revision, which is the one that failed. With a share of 0 the traffic stays with the pods that served before.
    """
    predictor = (live or {}).get("spec", {}).get("predictor", {})
    return 0 if predictor.get("canaryTrafficPercent") is not None else None


@dataclass(frozen=True)
class RolledOut:
    """A completed roll-out.

    Attributes:
        message: the result of the smoke test, one sentence.
        address: the service's URL; empty if it has none.
        undo: restores the previous state of the service.
    """

    message: str
    address: str
    undo: Callable[[], None]
