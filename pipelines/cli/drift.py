"""``--if-drifted``: start a retraining only where the champion's traffic has drifted, and only once for each drift."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.runs.traffic_monitor import (
    MonitoredTraffic,
    claim_retraining,
    confirm_retraining,
    give_back_retraining,
    monitor_traffic,
)
from pipelines.cli.output.console import print_text
from pipelines.cli.output.times import minute_text

SINCE = "7d"


class DriftGuard:
    """The drift that a retraining is started for.

    Args:
        store: the object store.
        traffic: whose verdict is ``drifted``.
    """

    def __init__(self, store: ObjectStore, traffic: MonitoredTraffic) -> None:
        self._store, self._traffic = store, traffic

    @property
    def reason(self) -> str:
        """Why a run is started, for its record."""
        return " ".join(self._traffic.reasons)

    def claim(self, run_id: str, has_started: Callable[[str], bool], patience: float = 0.0) -> bool:
        """Whether the run may start; else prints which run was started for the same drift.

        Args:
            run_id: of the run.
            has_started: whether a run exists that was claimed, and of which no process recorded that it started.
            patience: seconds for which another process may still be about to start such a run.

        Raises:
            MistereError: another process starts one at the same time.
        """
        earlier = claim_retraining(self._store, self._traffic, run_id, has_started, patience)
        if earlier is None:
            return True
        print_text(
            f"run {earlier.run_id} was started for this drift on {minute_text(earlier.started_at)} UTC: no other one is started."
        )
        return False

    def confirm(self, run_id: str) -> None:
        """Record that a run has started. A failure has no effect: whoever finds the claim looks for the run."""
        with suppress(MistereError, OSError):
            confirm_retraining(self._store, self._traffic, run_id)

    def give_back(self, run_id: str) -> None:
        """Forget a run that was not started. A failure is printed, because the one that kept the run from starting is raised."""
        try:
            give_back_retraining(self._store, self._traffic, run_id)
        except (MistereError, OSError) as error:
            print_text(
                f"run {run_id} was not started, but stays recorded for this drift ({error}): the next run for it needs to be "
                "started without --if-drifted.",
            )


def drift_guard(store: ObjectStore) -> DriftGuard | None:
    """The drift of the champion's traffic; None without one. Prints the verdict.

    Raises:
        UsageError: there is no champion.
        MistereError: there is no traffic of it.
    """
    traffic = monitor_traffic(store, SINCE)
    print_text(f"{traffic.comparison.verdict:<8} {traffic.headline()}")
    for sentence in (*traffic.reasons, *traffic.notes):
        print_text(f"         {sentence}")
    if traffic.comparison.verdict == "drifted":
        return DriftGuard(store, traffic)
    print_text("no run is started, because the traffic has not drifted.")
    return None
