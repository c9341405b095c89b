"""What the store knows of the comparison of the deployed model with its shadow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import MistereError, UsageError
from mistere.registry.release.model_inputs import lacking_inputs
from mistere.runs.traffic_monitor import hours_of, shown_hour
from mistere.serving.deployment import Deployment
from mistere.serving.shadow.figures import ShadowCounts
from mistere.serving.shadow.files import read_comparisons
from mistere.serving.shadow.pointer import Shadow, find_shadow
from mistere.serving.shadow.summary import Summary, shown_share
from mistere.serving.traffic.files import HOUR_SECONDS, hour_name


@dataclass(frozen=True)
class ShadowComparison:
    """A comparison.

    Attributes:
        front: the deployment whose requests are copied.
        shadow: what they are copied to.
        since: first hour of the window, counted since 1970.
        until: the hour after the last one.
        hours: the counts by hour.
        summary: of all hours.
        notes: sentences on what could not be read, and on what the shadow does not read.
    """

    front: Deployment
    shadow: Shadow
    since: int
    until: int
    hours: Mapping[int, ShadowCounts]
    summary: Summary
    notes: list[str]

    @property
    def window(self) -> str:
        """The window in words, in UTC."""
        return f"{shown_hour(self.since)} to {shown_hour(self.until)} UTC"

    def headline(self) -> str:
        """One sentence."""
        summary = self.summary
        same = summary.agreement
        what = f"Version {self.shadow.deployment.model_version} and the deployed version {self.front.model_version} of {self.shadow.model_name}"
        if not same.of:
            return f"{what} were not compared on any turn yet."
        return (
            f"{what} give the same label to {shown_share(same)} of {counted(same.of, 'turn')} in "
            f"{counted(summary.dialogues, 'dialogue')} ({self.window})."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "service": self.front.service,
            "front": {"version": self.front.model_version, "bundle_digest": self.front.bundle_digest},
            "shadow": {
                "model": self.shadow.model_name,
                "version": self.shadow.deployment.model_version,
                "bundle_digest": self.shadow.deployment.bundle_digest,
                "started_at": self.shadow.started_at,
                "by": self.shadow.by,
            },
            "since": hour_name(self.since),
            "until": hour_name(self.until),
            **self.summary.as_dict(),
            "hours": [
                {"hour": hour_name(hour), "agreement": Summary(counts).agreement.as_dict(), "copies": counts.copies}
                for hour, counts in self.hours.items()
            ],
            "notes": self.notes,
        }


def require_shadow(store: ObjectStore, service: str) -> Shadow:
    """The shadow of a service.

    Raises:
        UsageError: it has none.
        ArtifactError: its record is damaged.
    """
    shadow = find_shadow(store, service)
    if shadow is None:
        raise UsageError(f"{service} has no shadow: start one with `mistere shadow start MODEL`.")
    return shadow


def window_of(shadow: Shadow, length: int, now: float) -> tuple[int, int]:
    """The first hour of a report, counted since 1970, and the hour after the last one.

    It begins with the hour in which the shadow was started: what an earlier shadow of the same bundle did says nothing about this one.

    Args:
        shadow: the shadow.
        length: hours at most.
        now: seconds since 1970.
    """
    until = int(now // HOUR_SECONDS) + 1
    started = min(int(shadow.started_at // HOUR_SECONDS), until - 1)  # a clock that is ahead
    return max(until - length, started), until


def compare_shadow(
    store: ObjectStore,
    front: Deployment,
    since: str,
    min_agreement: float,
    max_errors: float,
    now: float | None = None,
) -> ShadowComparison:
    """Read what the predictors wrote.

    Args:
        store: the object store.
        front: the deployment whose requests are copied.
        since: length of the window, such as ``7d``; it does not begin before the shadow.
        min_agreement: least share of turns with equal labels, for the verdict.
        max_errors: largest share of errors, for the verdict.
        now: seconds since 1970; None for the current time.

    Raises:
        UsageError: there is no shadow, or the window is none.
        MistereError: nothing was copied in the window.
        ArtifactError: a bundle or the shadow's record is damaged.
    """
    length = hours_of(since)
    shadow = require_shadow(store, front.service)
    digests = front.bundle_digest, shadow.deployment.bundle_digest
    deployed, other = (open_artifact(store, ModelBundle, digest).manifest for digest in digests)
    front_labels, shadow_labels = tuple(deployed.labels), tuple(other.labels)
    window = window_of(shadow, length, time.time() if now is None else now)
    notes: list[str] = []
    hours = read_comparisons(store, digests, (front_labels, shadow_labels), window, notes.append)
    if not hours:
        reason = f" {notes[0]}" if notes else ""
        raise MistereError(
            f"no request was copied to {shadow.named} in the last {since}: the predictor in front must be started by `mistere serve --shadow local` (on a cluster: "
            f"deployment.shadow=true), and writes once a minute.{reason}"
        )
    total = ShadowCounts(front_labels, shadow_labels)
    for counts in hours.values():
        total.add(counts)
    if lacking := lacking_inputs(deployed, other):
        notes.append(f"The shadow {lacking}, so it refuses copies for their inputs, and these count as errors.")
    return ShadowComparison(front, shadow, *window, hours, Summary(total, min_agreement, max_errors), notes)
