"""Compare the traffic of the champion with the profile that its bundle carries, and remember which drifts a retraining was started for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import MistereError, UsageError
from mistere.common.names import shown
from mistere.registry.release.champion import read_champion
from mistere.runs.webhook import escaped, section
from mistere.serving.traffic.comparison import DAY_HOURS, MIN_TURNS, Comparison, Look, compare_traffic
from mistere.serving.traffic.figures import Counts
from mistere.serving.traffic.files import HOUR_SECONDS, bundle_prefix, hour_name, read_traffic
from mistere.serving.traffic.reference import bundle_reference

_SINCE: Final = re.compile(r"([1-9]\d{0,3})([hd])")
_MOST_HOURS: Final = 24 * 92
_WEEK_HOURS: Final = 7 * DAY_HOURS
_MOST_REASONS: Final = 5
_SIGNS: Final = {"steady": ":white_check_mark:", "watch": ":eyes:", "drifted": ":rotating_light:"}


@dataclass(frozen=True)
class MonitoredTraffic:
    """The traffic of a window and what it was compared with.

    Attributes:
        bundle_digest: of the champion.
        model: the champion's name and version.
        since: first hour of the window, counted since 1970.
        until: the hour after the last one.
        hours: the traffic by hour.
        reference: what the bundle carries.
        comparison: of the two.
        notes: sentences on what could not be read or compared.
    """

    bundle_digest: str
    model: str
    since: int
    until: int
    hours: Mapping[int, Counts]
    reference: Counts
    comparison: Comparison
    notes: list[str]

    @property
    def total(self) -> Counts:
        """The traffic of the whole window."""
        return sum(self.hours.values(), self.reference.figures.empty())

    @property
    def latest(self) -> Counts:
        """The traffic of the day that decides the verdict; that of the window if no day has enough turns."""
        look = self.comparison.latest
        if look is None:
            return self.total
        of_day = [counts for hour, counts in self.hours.items() if hour // DAY_HOURS == look.day]
        return sum(of_day, self.reference.figures.empty())

    @property
    def window(self) -> str:
        """The window in words, in UTC."""
        return f"{shown_hour(self.since)} to {shown_hour(self.until)} UTC"

    @property
    def reasons(self) -> list[str]:
        """A sentence for each figure that drifted or moved on the latest day, or for the days that had drifted before."""
        look = self.comparison.latest
        if look is None:
            return [f"No day has {MIN_TURNS} new turns, so nothing is compared."]
        sentences = [
            f"On {shown_day(look.day)} the {one.name} {'drifted' if one.drifted else 'moved'}: distance {one.distance:.2f}, "
            f"bound {one.bound:.2f} ({one.detail})."
            for one in look.moved
        ]
        earlier = [shown_day(each.day) for each in self.comparison.looks if each.drifted and each is not look]
        if earlier and not look.drifted:
            sentences.append(f"The traffic had drifted on {', '.join(earlier)}.")
        return sentences

    def headline(self) -> str:
        """One sentence."""
        turns = counted(self.total.total("turns"), "new turn")
        what = {
            "steady": "resembles what the model was tested on",
            "watch": "is worth watching",
            "drifted": "has drifted away from what the model was tested on",
        }[self.comparison.verdict]
        return f"The traffic of {self.model} {what} ({turns}, {self.window})."

    def summary(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "verdict": self.comparison.verdict,
            "bundle_digest": self.bundle_digest,
            "model": self.model,
            "since": hour_name(self.since),
            "until": hour_name(self.until),
            "turns": self.total.total("turns"),
            "dialogues": self.total.total("dialogues"),
            "reasons": self.reasons,
            "notes": self.notes,
            "days": [_summary(look) for look in self.comparison.looks],
        }

    def message(self, page: str) -> dict[str, Any]:
        """The message for the webhook."""
        verdict = self.comparison.verdict
        text = "\n".join(
            [f"{_SIGNS[verdict]} *{escaped(self.headline())}*", *map(escaped, self.reasons[:_MOST_REASONS])]
        )
        blocks = [section(text), section(f"Report: {escaped(page)}")]
        return {"text": escaped(f"mistere: traffic {verdict}. {self.headline()}"), "blocks": blocks}


def _summary(look: Look) -> dict[str, Any]:
    return {
        "day": shown_day(look.day),
        "whole": look.whole,
        "turns": look.turns,
        "figures": [
            {
                "figure": one.figure,
                "key": one.key,
                "distance": round(one.distance, 6),
                "bound": one.bound,
                "probability": one.probability,
                "corrected": one.corrected,
                "moved": one.moved,
                "drifted": one.drifted,
                "detail": one.detail,
            }
            for one in look.measures
        ],
    }


def shown_day(day: int) -> str:
    """A day, counted since 1970: ``2026-01-31``."""
    return hour_name(day * DAY_HOURS)[:10]


def shown_hour(hour: int) -> str:
    """An hour, counted since 1970: ``2026-01-31 07:00``."""
    return hour_name(hour).replace("T", " ") + ":00"


def hours_of(since: str) -> int:
    """The number of hours of a duration such as ``7d`` or ``36h``.

    Raises:
        UsageError: it is no such duration, or longer than 92 days.
    """
    match = _SINCE.fullmatch(since.strip())
    hours = 0 if match is None else int(match[1]) * (DAY_HOURS if match[2] == "d" else 1)
    if not 0 < hours <= _MOST_HOURS:
        raise UsageError(
            f"the window {shown(since)} is no duration: write a number of days or hours up to 92 days, such as 7d or 36h."
        )
    return hours


def monitor_traffic(store: ObjectStore, since: str, now: float | None = None) -> MonitoredTraffic:
    """Compare the champion's traffic with its bundle's profile.

    Args:
        store: the object store.
        since: length of the window, such as ``7d``. It begins with a whole day: the rest of one would be compared as if it were all of it.
        now: seconds since 1970; None for the current time.

    Raises:
        UsageError: the window is none, or there is no champion.
        MistereError: there is no traffic of the champion.
        ArtifactError: the bundle is damaged.
    """
    length = hours_of(since)
    until = int((time.time() if now is None else now) // HOUR_SECONDS) + 1
    first = until - length
    first -= first % DAY_HOURS
    champion = read_champion(store).champion
    if champion is None:
        raise UsageError(f"{store.uri} has no champion, whose traffic could be compared: run the pipeline first.")
    bundle = open_artifact(store, ModelBundle, champion.bundle_digest)
    reference, notes = bundle_reference(bundle)
    hours = read_traffic(store, champion.bundle_digest, reference.figures, first, until, notes.append)
    if not hours:
        raise MistereError(
            f"{store.location(bundle_prefix(champion.bundle_digest))} has no traffic since {shown_hour(first)} UTC: look further "
            "back, or start the predictor with `mistere serve --traffic` or deployment.traffic=true."
        )
    return MonitoredTraffic(
        bundle_digest=champion.bundle_digest,
        model=f"{champion.model_name} version {champion.model_version}",
        since=first,
        until=until,
        hours=hours,
        reference=reference,
        comparison=compare_traffic(hours, reference, until - 1),
        notes=notes,
    )


class DriftRecord(BaseModel):
    """A drift for which a retraining was started.

    Attributes:
        first_day: day since 1970 on which it was first seen.
        last_day: day on which it was last seen.
        run_id: of the retraining.
        reason: what had drifted.
        started_at: seconds since 1970.
        started: whether the retraining is known to have started; false from its claim until then.
    """

    model_config = ConfigDict(extra="forbid")

    first_day: int
    last_day: int
    run_id: str
    reason: str
    started_at: float
    started: bool = True


class _DriftRecords(BaseModel):
    model_config = ConfigDict(extra="forbid")

    drifts: list[DriftRecord] = []


def claim_retraining(
    store: ObjectStore,
    traffic: MonitoredTraffic,
    run_id: str,
    has_started: Callable[[str], bool],
    patience: float = 0.0,
) -> DriftRecord | None:
    """Record that a run retrains because of a drift, unless one was started for the same drift of this bundle.

    Days of drift with no comparable day without it between them are one drift, whatever window they are seen in: days between the earlier
    one and the window are compared, too.

    The claim of a process that was killed before its run started is taken over.

    Args:
        store: the object store.
        traffic: whose verdict is ``drifted``.
        run_id: of the run that is about to start; :func:`confirm_retraining` records that it has.
        has_started: whether the run of an unconfirmed claim has started all the same.
        patience: seconds for which another process may still be about to start such a run.

    Returns:
        None if the run may start; else the record of the earlier one.

    Raises:
        MistereError: another process starts one at the same time.
    """
    key = _records_key(traffic.bundle_digest)
    records, version = _read_records(store, key)
    days = _days_of_drift(traffic.comparison)
    known = max(records.drifts, key=lambda one: one.last_day, default=None)
    if known is not None and not _goes_on(store, traffic, known.last_day):
        known = None
    if known is not None and not known.started:
        age = time.time() - known.started_at
        known.started = has_started(known.run_id)
        if not known.started and abs(age) < patience:  # a clock that was set back must not block it for longer
            raise MistereError(
                f"run {known.run_id} is being started for this drift, since {max(age, 0.0):.0f} s: wait a moment and run the command again; "
                f"after {patience / 60:.0f} minutes that start counts as interrupted."
            )
        if not known.started:
            records.drifts.remove(known)
            days, known = sorted({known.first_day, *days}), None
    if known is not None:
        known.last_day = max(known.last_day, days[-1])
    else:
        reason = " ".join(traffic.reasons)
        records.drifts.append(
            DriftRecord(
                first_day=days[0],
                last_day=days[-1],
                run_id=run_id,
                reason=reason,
                started_at=time.time(),
                started=False,
            )
        )
    try:
        store.write(key, records.model_dump_json(indent=1).encode(), expected=version)
    except ConflictError as error:
        raise MistereError("another process starts a retraining for this drift: run the command again.") from error
    return known


def confirm_retraining(store: ObjectStore, traffic: MonitoredTraffic, run_id: str) -> None:
    """Record that a claimed run has started."""
    key = _records_key(traffic.bundle_digest)
    records, version = _read_records(store, key)
    for record in records.drifts:
        record.started = record.started or record.run_id == run_id
    store.write(key, records.model_dump_json(indent=1).encode(), expected=version)


def give_back_retraining(store: ObjectStore, traffic: MonitoredTraffic, run_id: str) -> None:
    """Take back the record of a run that was not started."""
    key = _records_key(traffic.bundle_digest)
    records, version = _read_records(store, key)
    records.drifts = [one for one in records.drifts if one.run_id != run_id]
    store.write(key, records.model_dump_json(indent=1).encode(), expected=version)


def _goes_on(store: ObjectStore, traffic: MonitoredTraffic, last_day: int) -> bool:
    """Whether every comparable day after one has drifted; days before the window are read a week at a time, the latest first."""
    looks, until, first = traffic.comparison.looks, traffic.since, (last_day + 1) * DAY_HOURS
    while all(look.drifted or not look.measures for look in looks if look.day > last_day):
        if until <= first:
            return True
        since = max(first, until - _WEEK_HOURS)
        hours = read_traffic(
            store, traffic.bundle_digest, traffic.reference.figures, since, until, traffic.notes.append
        )
        looks, until = compare_traffic(hours, traffic.reference, traffic.until - 1).looks, since
    return False


def _days_of_drift(comparison: Comparison) -> list[int]:
    """The days of the drift that the latest look shows, in order."""
    days: list[int] = []
    for look in reversed(comparison.looks):
        if look.drifted:
            days.insert(0, look.day)
        elif look.measures:
            break
    return days


def _records_key(digest: str) -> str:
    return f"{bundle_prefix(digest)}/retrainings.json"


def _read_records(store: ObjectStore, key: str) -> tuple[_DriftRecords, str]:
    """The records and the object's version; damaged ones count as none and are overwritten."""
    try:
        data, version = store.read(key)
    except MissingObjectError:
        return _DriftRecords(), ABSENT
    try:
        return _DriftRecords.model_validate_json(data), version
    except ValidationError:
        return _DriftRecords(), version
