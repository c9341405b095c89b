"""A bundle on a cluster: tried on its own, then rolled out, tried again where it serves, and taken back where that fails.

Where a model serves already, the new one first runs as a candidate, an InferenceService of its own with one pod, and answers the
golden dialogue there: neither mode of KServe keeps traffic from a new revision that is ready but untried (Standard cannot hold
it back; a Knative share of 0 % sends it to the revision before the last while the new one loads). Then the service itself
is moved, and has to answer from a pod of the new revision.
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
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import FIELD_MANAGER, KubernetesApi, KubernetesError
from mistere.kubernetes.managed_fields import applied_by
from mistere.serving.client import EndpointError
from mistere.serving.deployment import Deployment, NotTakenBackError
from mistere.serving.golden_dialogue import GoldenDialogue
from mistere.serving.kserve.inference_service import (
    candidate_name,
    candidate_of,
    check_support,
    inference_service,
    revision_of,
)
from mistere.serving.kserve.live_service import (
    address,
    is_leaving,
    is_rolled_out,
    not_ready,
    says_ready,
    service_path,
    share_of,
    workload_path,
)
from mistere.serving.kserve.revision import Revision, is_hopeless, is_ready, restarts

_WATCH_SECONDS: Final = 5.0
_LEAVING_SECONDS: Final = 90.0
"""Twice what a predictor takes at most to stop."""
_REFUSED: Final = range(400, 500)

Beat = Callable[[], None]
Tell = Callable[[str], object]


@dataclass(frozen=True)
class ClusterDeployment:
    """One bundle's way into one service of a cluster.

    Attributes:
        api: the cluster.
        deployment: what is to be served, and with which settings.
        tell: is told what is being waited for.
    """

    api: KubernetesApi
    deployment: Deployment
    tell: Tell

    @property
    def config(self) -> DeploymentConfig:
        """The ``deployment`` section that it was made with."""
        return DeploymentConfig.model_validate(self.deployment.settings)

    def manifest(self, canary_percent: int | None = None) -> dict[str, Any]:
        """The InferenceService."""
        wanted = self.deployment
        return inference_service(
            wanted.bundle_location, wanted.bundle_digest, self.config, wanted.image, canary_percent
        )

    def serves(self) -> str:
        """The address of the service, if it is this very revision that serves there; empty otherwise."""
        live = self.api.get(service_path(self.config, self.config.service))
        there = live is not None and not is_leaving(live) and revision_of(live) == revision_of(self.manifest())
        if there and self.config.mode == "standard":  # Ready while a new pod crashes beside the old one
            workload = self.api.get(workload_path(self.config, self.config.service))
            there = workload is not None and is_rolled_out(workload, revision_of(self.manifest()))
        return address(live) if live is not None and there and says_ready(live) else ""

    def roll_out(self, bundle: ArtifactHandle[ModelBundle], beat: Beat) -> RolledOut:
        """Make the service serve the bundle, with its golden dialogue answered before it gets any traffic and after.

        Args:
            bundle: the bundle.
            beat: called every few seconds while there is something to wait for; what it raises ends the attempt.

        Raises:
            UsageError: the mode does not support a setting.
            MistereError: it did not become ready, or answered something else; the service is what it was.
        """
        config = self.config
        check_support(config, self.deployment.bundle_location)
        golden = GoldenDialogue.of(bundle, config)
        path = service_path(config, config.service)
        before = self._present(path, beat)
        self.api.apply(path, self.manifest(), dry_run=True)
        moves = before is not None and revision_of(before) != revision_of(self.manifest())
        if moves:
            self._try_candidate(golden, beat)
        take_back = partial(self._restore, path, before)
        share = config.canary_percent if moves and config.canary_percent else None
        applied = False
        try:
            self.api.apply(path, self.manifest(share))
            applied = True
            if before is not None and not moves and self._sleeps():
                said = "The revision stays what it was; it has no pod while nobody asks it, so it was not asked either."
            else:
                said, pod = self._settle(golden, beat, share)
            if share is not None:
                self._watch_share(share, beat)
                self.api.apply(path, self.manifest())
                said, _ = self._settle(golden, beat, None, pod)
        except BaseException as error:
            if not applied and isinstance(error, KubernetesError) and error.code in _REFUSED:
                raise
            self.tell(f"taking {config.service} back to what it was")
            try:
                take_back()
            except MistereError as trouble:
                raise NotTakenBackError(
                    f"{error} It could not be taken back yet ({trouble}); the next release does it."
                ) from error
            raise
        return RolledOut(said, address(self.api.get(path) or {}), take_back)

    def take_back(self, before: Deployment | None) -> None:
        """Undo a roll-out that another process began: serve what was served before, unless the service is that already.

        Args:
            before: the deployment before it; None where there was none, or none on this cluster.
        """
        config = self.config
        path = service_path(config, config.service)
        self.api.delete(service_path(config, candidate_name(config.service)))
        live = self.api.get(path)
        if live is None or revision_of(live) != revision_of(self.manifest()):
            return
        earlier = None if before is None or before.mode == "local" else ClusterDeployment(self.api, before, self.tell)
        if earlier is None or service_path(earlier.config, earlier.config.service) != path:
            self.api.delete(path)
        else:
            self.api.apply(path, earlier.manifest(_none_yet(live)), force=True)

    def _restore(self, path: str, before: dict[str, Any] | None) -> None:
        live = self.api.get(path)
        if live is not None and revision_of(live) != revision_of(self.manifest()):
            return  # another release has it, or nothing of this one came to it
        if before is None:
            self.api.delete(path)
            return
        manifest = applied_by(FIELD_MANAGER, before)
        if (share := _none_yet(live)) is not None:
            manifest["spec"]["predictor"]["canaryTrafficPercent"] = share
        self.api.apply(path, manifest, force=True)

    def _try_candidate(self, golden: GoldenDialogue, beat: Beat) -> None:
        config = self.config
        manifest = candidate_of(self.manifest())
        path = service_path(config, manifest["metadata"]["name"])
        revision = self._revision(manifest)
        self._present(path, beat)
        try:
            self.api.apply(path, manifest, force=True)
            pod = self._ready_pod(revision, beat, time.monotonic() + config.ready_timeout)
            self._ask(golden, revision, pod)
        except BaseException:
            with suppress(MistereError):  # whoever comes next removes it; why it failed is worth more
                self.api.delete(path)
            raise
        self.api.delete(path)
        self._make_room(revision, beat)

    def _make_room(self, revision: Revision, beat: Beat) -> None:
        """Wait until the candidate's pods are gone: until then they count in the namespace's quota."""
        deadline = time.monotonic() + _LEAVING_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            pods, version = self.api.list(revision.pods_path, revision.selector)
            if not pods:
                return
            beat()
            revision.wait(version, min(_WATCH_SECONDS, left))

    def _present(self, path: str, beat: Beat) -> dict[str, Any] | None:
        """The live InferenceService; one that is being removed is waited for, for what is applied to it goes with it."""
        deadline = time.monotonic() + self.config.ready_timeout
        while (live := self.api.get(path)) is not None and is_leaving(live):
            if time.monotonic() > deadline:
                name = path.rpartition("/")[2]
                raise MistereError(
                    f"{name} is being removed and does not go: see which of its finalizers is not served."
                )
            beat()
            self._wait_for_change(live, path, deadline)
        return live

    def _sleeps(self) -> bool:
        """Whether the revision has no pod because nobody asks it."""
        allowed = self.config.mode == "knative" and self.config.min_replicas == 0
        return allowed and not self._revision(self.manifest()).pods()[0]

    def _settle(
        self, golden: GoldenDialogue, beat: Beat, share: int | None, asked: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Wait until the service is what was applied, and ask a pod of it.

        Args:
            golden: the dialogue.
            beat: called while there is something to wait for.
            share: of the traffic (%) that the new revision is to have; None for all of it.
            asked: a pod of the same revision that has answered; it is enough where there is none any more, for nobody asked.

        Returns:
            A sentence on the answer, and the pod.
        """
        config = self.config
        path = service_path(config, config.service)
        revision = self._revision(self.manifest())
        deadline = time.monotonic() + config.ready_timeout
        sleeping = asked if asked is not None and self._sleeps() else None
        pod = sleeping or self._ready_pod(revision, beat, deadline)
        self.tell(f"waiting for {config.service} to serve the new revision")
        while True:
            live = self.api.get(path) or {}
            missing, of, where = self._missing(live, pod, share)
            if not missing:
                break
            pods, _ = revision.pods()
            lost = revision_of(live) != revision.revision
            if lost or any(is_hopeless(each) for each in pods) or time.monotonic() > deadline:
                raise self._failure(revision, pods, missing)
            beat()
            self._wait_for_change(of, where, deadline)
        if sleeping:
            return "The new revision answered as evaluated while it had its share; nobody asks it now.", pod
        return self._ask(golden, revision, pod), pod

    def _ready_pod(self, revision: Revision, beat: Beat, deadline: float) -> dict[str, Any]:
        self.tell(f"waiting for a pod of {revision.service}")
        while True:
            pods, version = revision.pods()
            ready = next((pod for pod in pods if is_ready(pod)), None)
            if ready is not None:
                return ready
            refused = self._refused_pods(revision.service)
            if refused or any(is_hopeless(pod) for pod in pods) or time.monotonic() > deadline:
                raise self._failure(revision, pods, refused or "no pod of the new revision is ready")
            beat()
            revision.wait(version, min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1))

    def _refused_pods(self, service: str) -> str:
        """Why a Deployment may not make pods (a quota, a policy); empty where it may, or there is none."""
        if self.config.mode != "standard":
            return ""
        deployment = self.api.get(workload_path(self.config, service)) or {}
        for condition in deployment.get("status", {}).get("conditions") or []:
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return f"the cluster refuses its pods ({' '.join(str(condition.get('message', '')).split())[:300]})"
        return ""

    def _missing(self, live: dict[str, Any], pod: dict[str, Any], share: int | None) -> tuple[str, dict[str, Any], str]:
        """What the service still lacks (empty for nothing), the object that will say when it no longer does, and its path."""
        path = service_path(self.config, self.config.service)
        if revision_of(live) != revision_of(self.manifest()):
            return "somebody else changed the InferenceService meanwhile", live, path
        if self.config.mode == "standard":
            where = workload_path(self.config, self.config.service)
            deployment = self.api.get(where) or {}
            if not is_rolled_out(deployment, revision_of(live)):
                return "not all of its pods are of the new revision", deployment, where
        else:
            name = pod["metadata"].get("labels", {}).get("serving.knative.dev/revision", "")
            wanted = 100 if share is None else share
            found = share_of(live, name)
            if found != wanted:
                return f"the new revision gets {found} % of the traffic instead of {wanted} %", live, path
        return "" if says_ready(live) else not_ready(live), live, path

    def _watch_share(self, share: int, beat: Beat) -> None:
        """Let the new revision have its share for a while: it must neither fail nor be started again."""
        seconds, revision = self.config.canary_seconds, self._revision(self.manifest())
        self.tell(f"{share} % of the traffic goes to the new revision for {seconds:g} s")
        pods, version = revision.pods()
        started = restarts(pods)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            beat()
            revision.wait(version, min(_WATCH_SECONDS, left))
            pods, version = revision.pods()
            if restarts(pods) > started or any(is_hopeless(pod) for pod in pods):
                raise self._failure(revision, pods, f"it was started again while it had {share} % of the traffic")

    def _ask(self, golden: GoldenDialogue, revision: Revision, pod: dict[str, Any]) -> str:
        """The golden dialogue, put to one pod: no other revision can answer there."""
        try:
            return golden.put_to(revision.client(pod, self.config.service, grpc=self.config.mode == "standard"))
        except EndpointError as error:
            if error.code == "403" and not self.api.inside:
                raise MistereError(
                    f"the golden dialogue cannot be put to {pod['metadata']['name']} from outside of the cluster, so "
                    "the champion stays: allow get and create on pods/proxy, or run it in the cluster."
                ) from error
            pods, _ = revision.pods()
            raise self._failure(revision, pods, f"it did not answer ({error})") from error

    def _failure(self, revision: Revision, pods: list[dict[str, Any]], what: str) -> MistereError:
        why = revision.why(pods)
        return MistereError(
            f"the smoke test of bundle {self.deployment.bundle_digest[:12]} on the cluster failed, so the champion stays: {what} "
            f"({why})."
        )

    def _revision(self, manifest: dict[str, Any]) -> Revision:
        metadata = manifest["metadata"]
        return Revision(self.api, metadata["namespace"], metadata["name"], revision_of(manifest))

    def _wait_for_change(self, of: dict[str, Any], path: str, deadline: float) -> None:
        seconds = min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()) + 0.1)
        version = str(of.get("metadata", {}).get("resourceVersion", ""))
        collection, _, name = path.rpartition("/")
        self.api.wait_for_change(collection, version, seconds, fields=f"metadata.name={name}")


def _none_yet(live: dict[str, Any] | None) -> int | None:
    """The share for what was served before a revision that has a share now.

    Its content comes back as another new revision. Until that is ready the last ready one, which is the one that failed, would
    get all of the traffic; with a share of 0 all of it stays where it is, with the pods that served before.
    """
    predictor = (live or {}).get("spec", {}).get("predictor", {})
    return 0 if predictor.get("canaryTrafficPercent") is not None else None


@dataclass(frozen=True)
class RolledOut:
    """A roll-out that came to its end.

    Attributes:
        said: on the smoke test.
        address: the service's URL; empty where it has none.
        take_back: makes the service what it was.
    """

    said: str
    address: str
    take_back: Callable[[], None]
