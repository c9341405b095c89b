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
from mistere.common.errors import MistereError, UsageError, why
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import FIELD_MANAGER, KubernetesApi, KubernetesError
from mistere.kubernetes.managed_fields import applied_by
from mistere.serving.deployment import Deployment, RollbackError
from mistere.serving.example_check import ExampleCheck
from mistere.serving.kserve.canary.held_pods import HeldPods
from mistere.serving.kserve.canary.route import NoGatewayApiError, Route
from mistere.serving.kserve.canary.steps import Canary
from mistere.serving.kserve.inference_service import (
    bundle_of,
    candidate_name,
    candidate_of,
    inference_service,
    revision_of,
)
from mistere.serving.kserve.lease import LeaseLostError, RenewLease, no_lease
from mistere.serving.kserve.live_service import (
    address,
    is_rolled_out,
    is_terminating,
    says_ready,
    service_path,
    workload_path,
)
from mistere.serving.kserve.revision import WATCH_SECONDS, Revision, has_failed
from mistere.serving.kserve.smoke_test import OnStatus, SmokeTest
from mistere.serving.kserve.supported_settings import check_support

_LEAVING_SECONDS: Final = 90.0
"""Twice the longest time that a predictor takes to stop."""
_REFUSED: Final = range(400, 500)


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
    def _path(self) -> str:
        """The path of the service's InferenceService."""
        return service_path(self.config, self.config.service)

    @property
    def route(self) -> Route:
        """The route that splits the requests in Standard mode, if a Gateway is configured."""
        return Route(self.api, self.config)

    @property
    def _held_pods(self) -> HeldPods:
        return HeldPods(self.api, self.config)

    @property
    def _smoke_test(self) -> SmokeTest:
        return self._test_of(self.manifest())

    def _test_of(self, manifest: dict[str, Any]) -> SmokeTest:
        return SmokeTest(self.api, self.config, manifest, self.deployment.bundle_digest, self.on_status)

    def manifest(self, canary_percent: int | None = None) -> dict[str, Any]:
        """The manifest of the InferenceService."""
        target = self.deployment
        return inference_service(
            target.bundle_location, target.bundle_digest, self.config, target.image, canary_percent
        )

    def serves(self) -> str:
        """The address of the service if it serves exactly this revision, and all requests; empty otherwise."""
        live = self.api.get(self._path)
        current = live is not None and not is_terminating(live) and revision_of(live) == revision_of(self.manifest())
        # In Standard mode it says Ready even while the new pod crash-loops beside the old one.
        if current and self.config.mode == "standard":
            workload = self.api.get(workload_path(self.config, self.config.service))
            current = workload is not None and is_rolled_out(workload, revision_of(self.manifest()))
            if current and self.route.configured:  # a route that was edited by hand: the release sets it right
                current = not self.route.candidate_may_receive()
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
        before = self.live_service(renew_lease)
        previous = self._held_pods.before_hold(before) if before is not None and self.route.configured else before
        self.api.apply(self._path, self.manifest(), dry_run=True)
        replaces = before is not None and revision_of(before) != revision_of(self.manifest())
        if self.route.configured:
            if not replaces:  # no candidate: a share that the route gives one was edited by hand
                self.route.restore(renew_lease)
            self.route.check()
        measured, shares = "", replaces and self.route.configured
        if before is not None and shares:
            measured = self.share_requests(before, check, renew_lease, lambda canary, _: canary.run(renew_lease))
        elif replaces:
            self._try_candidate(check, renew_lease)
        share = config.canary_percent if replaces and config.canary_percent else None
        applied = False
        try:
            renew_lease()
            self.api.apply(self._path, self._held_pods.kept(self.manifest()) if shares else self.manifest(share))
            applied = True
            if before is not None and not replaces and self._smoke_test.scaled_to_zero():
                message = "The revision is unchanged and scaled to zero, so it was not tested again."
            else:
                message, pod = self._smoke_test.settle(check, renew_lease, share)
            if share is not None:
                self._smoke_test.watch_share(share, renew_lease)
                renew_lease()
                self.api.apply(self._path, self.manifest())
                message, _ = self._smoke_test.settle(check, renew_lease, None, pod)
            if self.route.configured:
                self.route.split(None, renew_lease)
                renew_lease(0)
                self.api.apply(self._path, self.manifest())  # without the pods that were held
                self.api.delete(service_path(config, candidate_name(config.service)))
        except BaseException as error:
            if not (applied or shares) and isinstance(error, KubernetesError) and error.code in _REFUSED:
                raise
            self._undo_after(error, partial(self._restore, previous, renew_lease, shares=shares), renew_lease)
            raise
        undo = partial(self._restore, previous, no_lease)
        return RolledOut(f"{message} {measured}".rstrip(), address(self.api.get(self._path) or {}), undo)

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
        canary = Canary(self.route, self._test_of(manifest).revision, deployed, self.on_status)
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
        canary, too: a candidate may be that of another release then.

        Raises:
            ConflictError: another process has taken the release over.
            RollbackError: it cannot be undone yet.
        """
        try:
            self.on_status(f"undoing the roll-out of {self.config.service}")
            lost = error if isinstance(error, ConflictError) else _lost(renew_lease)
            if not (isinstance(lost, LeaseLostError) and lost.superseded):
                undo()
            if lost is not None:
                raise lost
            if self.route.configured:
                self.route.restore(no_lease)
                self._held_pods.release()
                self.api.delete(service_path(self.config, candidate_name(self.config.service)))
                renew_lease(0)
        except ConflictError:
            raise
        except BaseException as undo_error:  # whatever ends it, such as a second Ctrl-C: the journal must stay open
            raise RollbackError(
                f"{why(error)} The roll-out could not be undone yet ({why(undo_error).rstrip('.')}); the next release undoes it."
            ) from undo_error

    def undo(self, before: Deployment | None, renew_lease: RenewLease = no_lease) -> None:
        """Undo a roll-out that another process began, unless the service no longer has its revision.

        Args:
            before: the previous deployment; None if there was none on this cluster.
            renew_lease: called every few seconds during a wait.

        Raises:
            UsageError: the kubeconfig names another cluster than that of the roll-out.
        """
        live, earlier = self.api.get(self._path), self._earlier(before)
        updated = live is not None and revision_of(live) == revision_of(self.manifest())
        if before is not None and earlier is not None and not self.api.inside:
            self._require_cluster_of(live, before)
        if self.route.configured:
            if updated and earlier is not None:
                self._give_back(earlier.manifest(), renew_lease)
            self.route.restore(no_lease)  # before the candidate is deleted, which may still get requests
            self._held_pods.release()
        self.api.delete(service_path(self.config, candidate_name(self.config.service)))
        if not updated:
            return
        if earlier is None:
            self._remove()
        else:
            self.api.apply(self._path, earlier.manifest(_share_after_canary(live)), force=True)

    def _require_cluster_of(self, live: dict[str, Any] | None, before: Deployment) -> None:
        """Check that the service is the one that the roll-out has changed: the journal would close, and a candidate on the cluster that was
        meant would keep its requests unseen.
        """
        served = bundle_of(live) if live is not None else ""
        if served not in {before.bundle_digest, self.deployment.bundle_digest}:
            raise UsageError(
                f"the cluster of the kubeconfig ({self.api.host}) is not the one of the interrupted release: its InferenceService "
                f"{self.config.service} in namespace {self.config.namespace} serves {f'bundle {served[:12]}' if served else 'nothing'}, neither "
                f"{before.bundle_digest[:12]} nor {self.deployment.bundle_digest[:12]}. Choose the cluster (`kubectl config use-context`) and run "
                f"again, or leave it to the next run there. If it is this one, and the service was deleted or changed by hand, move the release "
                f"journal (deployments/{self.config.service}/journal.json in the store) away and run `mistere promote` with the version that "
                "`mistere models` lists as champion, which deploys it again."
            )

    def _earlier(self, before: Deployment | None) -> ClusterDeployment | None:
        """The previous deployment, if it was to the same service."""
        if before is None or before.mode == "local":
            return None
        earlier = ClusterDeployment(self.api, before, self.on_status)
        return earlier if earlier._path == self._path else None

    def _give_back(self, previous: dict[str, Any], renew_lease: RenewLease) -> None:
        """Give the service its previous revision, and wait for its pods while the candidate answers requests in their place.

        The wait ends after ``ready_timeout``, or once these pods fail: the service then gets its requests back in any case.
        """
        self.api.apply(self._path, self._held_pods.kept(previous), force=True)
        revision, workload = revision_of(previous), workload_path(self.config, self.config.service)
        try:
            if not revision or not self.route.candidate_may_receive():
                return
        except NoGatewayApiError:
            return
        collection, _, name = workload.rpartition("/")
        pods = Revision(self.api, self.config.namespace, self.config.service, revision)
        self.on_status(f"waiting for the previous pods of {self.config.service}")
        deadline = time.monotonic() + self.config.ready_timeout
        while (left := deadline - time.monotonic()) > 0:
            deployment = self.api.get(workload)
            if deployment is None or is_rolled_out(deployment, revision) or any(map(has_failed, pods.pods()[0])):
                return
            renew_lease()
            version = str(deployment["metadata"].get("resourceVersion", ""))
            self.api.wait_for_change(
                collection, version, min(WATCH_SECONDS, left + 0.1), fields=f"metadata.name={name}"
            )

    def _remove(self) -> None:
        """Delete the service, and its route first."""
        if self.route.configured:
            self.route.delete()
        self.api.delete(self._path)

    def _restore(self, before: dict[str, Any] | None, renew_lease: RenewLease, *, shares: bool = False) -> None:
        live = self.api.get(self._path)
        if live is not None and revision_of(live) != revision_of(self.manifest()):
            return  # another release has updated the service, or this one never did
        if before is None:
            self._remove()
            return
        manifest = applied_by(FIELD_MANAGER, before)
        if shares:
            self._give_back(manifest, renew_lease)
            return
        if (share := _share_after_canary(live)) is not None:
            manifest["spec"]["predictor"]["canaryTrafficPercent"] = share
        self.api.apply(self._path, manifest, force=True)

    def _try_candidate(self, check: ExampleCheck, renew_lease: RenewLease) -> None:
        manifest = candidate_of(self.manifest())
        self.run_beside(manifest, check, renew_lease)
        self.api.delete(service_path(self.config, manifest["metadata"]["name"]))
        self._test_of(manifest).revision.wait_until_gone(_LEAVING_SECONDS, renew_lease)

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
        test = self._test_of(manifest)
        test.live(renew_lease)
        self.api.apply(test.path, manifest, force=True)
        return test.run(check, renew_lease)

    def live_service(self, renew_lease: RenewLease) -> dict[str, Any] | None:
        """The deployed InferenceService; None if there is none."""
        return self._smoke_test.live(renew_lease)


def _lost(renew_lease: RenewLease) -> ConflictError | None:
    """The error of a lease that another process has taken over; None if this one has it, or if the store does not answer."""
    try:
        renew_lease()
    except ConflictError as lost:
        return lost
    except MistereError:  # the service gets its requests back without the store
        return None
    return None


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
