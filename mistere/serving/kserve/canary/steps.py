"""Give a candidate one share of the live requests after the other, with live checks between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.serving.kserve.canary import checks
from mistere.serving.kserve.canary.live_figures import LiveCounter, LiveFigures
from mistere.serving.kserve.canary.route import Route
from mistere.serving.kserve.lease import RenewLease
from mistere.serving.kserve.live_service import is_rolled_out, workload_path
from mistere.serving.kserve.revision import WATCH_SECONDS, Revision, has_failed, restarts


@dataclass(frozen=True)
class Canary:
    """A tested candidate beside the deployed version.

    Attributes:
        route: splits the requests.
        candidate: its pods.
        deployed: the pods of the deployed version.
        on_status: receives what is being waited for.
    """

    route: Route
    candidate: Revision
    deployed: Revision
    on_status: Callable[[str], object]

    @property
    def config(self) -> DeploymentConfig:
        """The ``deployment`` section."""
        return self.route.config

    def run(self, renew_lease: RenewLease) -> str:
        """Go through the shares that are above the present one; the checks begin with the present one.

        The first share is 0: the Gateway must take both versions before any request reaches the new one.

        Args:
            renew_lease: records each share before the route changes.

        Returns:
            What was measured, one sentence.

        Raises:
            MistereError: the candidate does not hold up, or the Gateway does not take the route; nothing is undone here.
        """
        present = self.route.share() or 0
        if not present:
            self.give(0, renew_lease)
        measured: list[str] = []
        reference = LiveFigures()
        restarted = restarts(self.candidate.pods()[0])
        for share in [*([present] if present else []), *(one for one in self.config.canary.steps if one > present)]:
            if share != present:
                self.give(share, renew_lease)
            own, deployed = self._watch(share, restarted, reference, renew_lease)
            reference = checks.reference_after(deployed, reference, self.config.canary)
            measured.append(checks.summary(share, own, reference, self.config.canary))
        return f"Canary: {'; '.join(measured)}." if measured else ""

    def give(self, share: int, renew_lease: RenewLease) -> None:
        """Give the candidate a share of the requests, once as many of its pods are ready as the service has.

        Raises:
            MistereError: they do not become ready, or the Gateway does not take the route.
        """
        self._wait_for_pods(renew_lease)
        self.on_status(f"{share} % of the requests go to the new version")
        self.route.split(share, renew_lease)

    def _watch(
        self, share: int, restarted: int, reference: LiveFigures, renew_lease: RenewLease
    ) -> tuple[LiveFigures, LiveFigures]:
        """Compare both versions for a window.

        Args:
            share: the candidate's, percent.
            restarted: how often its pods had restarted before it got its first share.
            reference: figures of the deployed version in an earlier window, for one in which it gets too few requests, or none.
            renew_lease: called during the window.

        Returns:
            The figures of the candidate and of the deployed version.
        """
        config = self.config.canary
        self.on_status(f"comparing both versions for {config.window_seconds:g} s")
        counters = LiveCounter(self.candidate), LiveCounter(self.deployed)

        def look(*, required: bool) -> tuple[LiveFigures, LiveFigures]:
            for counter in counters:
                counter.read(required=required)
            own, deployed = (counter.figures() for counter in counters)
            return own, deployed

        def look_at_errors() -> None:
            # One case of the deployed version postpones the decision: the next look, or the end of the window, knows more.
            if found := checks.error_problem(*look(required=False), config, reference, least=1):
                raise self._failure(share, found)

        for counter in counters:
            counter.read()
        failed = self.candidate.watch(config.window_seconds, renew_lease, look_at_errors, restarted)
        if failed:
            raise self._failure(share, f"a pod restarted or failed ({self.candidate.explain(failed)})")
        own, deployed = look(required=True)
        if found := checks.problem(own, deployed, config, reference):
            raise self._failure(share, found)
        return own, deployed

    def _failure(self, share: int, what: str) -> MistereError:
        return MistereError(
            f"the canary failed at {share} % of the requests, so the champion stays and gets all of them again: {what}."
        )

    def _wait_for_pods(self, renew_lease: RenewLease) -> None:
        workload = workload_path(self.config, self.candidate.service)
        known = self.candidate.rejected_pods()
        deadline = time.monotonic() + self.config.ready_timeout
        while not is_rolled_out(self.route.api.get(workload) or {"metadata": {}}, self.candidate.revision):
            pods, version = self.candidate.pods()
            refused = self.candidate.refusal(known, workload)
            if refused or any(has_failed(pod) for pod in pods) or time.monotonic() > deadline:
                reason = refused or self.candidate.explain(pods)
                raise MistereError(
                    f"the candidate needs as many pods as {self.deployed.service} for a share of its requests, and not all of them are "
                    f"ready ({reason}): the champion stays."
                )
            renew_lease()
            left = max(0.0, deadline - time.monotonic()) + 0.1
            self.candidate.wait(version, min(WATCH_SECONDS, left))
