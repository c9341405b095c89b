"""``mistere data publish``: make a dataset version the one that schedules with the data policy ``latest`` train on."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mistere.data.latest import LATEST_KEY, LatestData, move_latest, read_latest
from pipelines.kubeflow.target import cluster_store, pin_for_cluster
from pipelines.profiles import load_profile


def publish(source: str, profile: str, settings: Sequence[str], store: str | None) -> None:
    """Move the pointer to the latest data.

    Args:
        source: see :mod:`mistere.data.versions`.
        profile: settings to start from, for the store that they name.
        settings: ``--set`` on top.
        store: ``s3://bucket/prefix``.
    """
    place = cluster_store(load_profile(profile, settings).cluster, store)
    pinned = pin_for_cluster(source, place)
    seen = read_latest(place)
    if seen.latest and (seen.latest.digest, seen.latest.remote) == (pinned.digest, pinned.remote):
        print(f"{pinned.digest[:12]} is the latest data already ({place.location(LATEST_KEY)})")
        return
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, source=source, published_at=time.time())
    move_latest(place, seen, latest)
    before = f", after {seen.latest.digest[:12]}" if seen.latest else ""
    print(f"{pinned.digest[:12]} is the latest data{before} ({place.location(LATEST_KEY)})")
