"""``mistere data publish``: publishes a dataset version for schedules with the data policy ``latest``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mistere.data.latest import LATEST, LatestData
from pipelines.cli.output.console import print_text
from pipelines.cli.output.task_progress import task_progress
from pipelines.kubeflow.connection.target import cluster_store, pin_for_cluster
from pipelines.profiles import load_profile


def publish(source: str, profile: str, settings: Sequence[str], store: str | None) -> None:
    """Move the pointer to the latest data.

    Args:
        source: see :mod:`mistere.data.versions`.
        profile: base settings, which name the store.
        settings: ``--set`` on top.
        store: ``s3://bucket/prefix``.
    """
    target = cluster_store(load_profile(profile, settings).cluster, store)
    with task_progress(f"uploading what {target.uri} lacks of {source}"):
        pinned = pin_for_cluster(source, target)
    previous = LATEST.read(target)
    if previous.value and (previous.value.digest, previous.value.remote) == (pinned.digest, pinned.remote):
        print_text(f"{pinned.digest[:12]} is the latest data already ({target.location(LATEST.key)})")
        return
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, source=source, published_at=time.time())
    LATEST.move(target, previous.version, latest)
    before = f", after {previous.value.digest[:12]}" if previous.value else ""
    print_text(f"{pinned.digest[:12]} is the latest data{before} ({target.location(LATEST.key)})")
