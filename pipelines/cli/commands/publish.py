"""``mistere data publish``: make a dataset version the one that schedules with the data policy ``latest`` train on."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mistere.data.latest import LATEST, LatestData
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
    seen = LATEST.read(place)
    if seen.value and (seen.value.digest, seen.value.remote) == (pinned.digest, pinned.remote):
        print(f"{pinned.digest[:12]} is the latest data already ({place.location(LATEST.key)})")
        return
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, source=source, published_at=time.time())
    LATEST.move(place, seen.version, latest)
    before = f", after {seen.value.digest[:12]}" if seen.value else ""
    print(f"{pinned.digest[:12]} is the latest data{before} ({place.location(LATEST.key)})")
