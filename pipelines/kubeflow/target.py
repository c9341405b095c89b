"""Where a cluster's runs live: Kubeflow Pipelines, the store and the tracking server, from options, environment and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.artifacts.s3_probe import use_data_endpoint
from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import UsageError
from mistere.common.urls import redact_url
from mistere.config.cluster import ClusterConfig
from mistere.data.dvc_remote import RemoteData
from mistere.data.versions import PinnedData, pin
from pipelines.kubeflow.access import HOST_VARIABLE, chosen_host


@dataclass(frozen=True)
class ClusterTarget:
    """What a run on a cluster needs to be found by, and to find its way."""

    host: str
    store: ObjectStore
    tracking_uri: str


def cluster_place(cluster: ClusterConfig, host: str | None, store: str | None, tracking: str | None) -> ClusterTarget:
    """The place that options name, else the environment, else the ``cluster`` section.

    Args:
        cluster: the section.
        host: of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server, as the pods reach it.

    Raises:
        UsageError: one of them is missing, or is nothing that a pod could reach.
    """
    return ClusterTarget(
        host=cluster_host(cluster, host),
        store=cluster_store(cluster, store),
        tracking_uri=_tracking(cluster, tracking),
    )


def cluster_host(cluster: ClusterConfig, host: str | None) -> str:
    """The address of Kubeflow Pipelines.

    Raises:
        UsageError: none is named, or it has no scheme, or carries credentials.
    """
    chosen = chosen_host(host, cluster.host)
    if not chosen:
        raise UsageError(
            f"no Kubeflow Pipelines is named: give its address with --host, {HOST_VARIABLE} or cluster.host."
        )
    if not chosen.startswith(("http://", "https://")):
        raise UsageError(f"{chosen}: write the address of Kubeflow Pipelines with its scheme, https://… or http://….")
    if redact_url(chosen) != chosen:
        raise UsageError(
            f"{redact_url(chosen)}: a name and password in the address of Kubeflow Pipelines are not used: put a token into "
            "KFP_TOKEN instead."
        )
    return chosen


def cluster_store(cluster: ClusterConfig, store: str | None) -> ObjectStore:
    """The object store.

    Raises:
        UsageError: none is named, or it is a folder.
    """
    chosen = store or os.environ.get(STORE_VARIABLE) or cluster.store
    if not chosen:
        raise UsageError(f"no store is named: give s3://bucket/prefix with --store, {STORE_VARIABLE} or cluster.store.")
    if not chosen.startswith("s3://"):
        raise UsageError(f"{chosen}: the pods of a cluster reach no folder of this machine: name s3://bucket/prefix.")
    return open_store(chosen)


def _tracking(cluster: ClusterConfig, tracking: str | None) -> str:
    chosen = tracking or os.environ.get(TRACKING_VARIABLE) or cluster.tracking_uri
    if not chosen:
        raise UsageError(
            f"no tracking server is named: give MLflow's address with --tracking, {TRACKING_VARIABLE} or cluster.tracking_uri."
        )
    if not chosen.startswith(("http://", "https://")):
        raise UsageError(
            f"{redact_url(chosen)}: the pods of a cluster reach an MLflow server by http:// or https:// only."
        )
    if redact_url(chosen) != chosen:
        raise UsageError(
            f"{redact_url(chosen)} carries credentials, which everybody would read among a run's parameters: leave them out, and "
            f"put them into the secret {cluster.tracking_secret!r} (cluster.tracking_secret)."
        )
    return chosen


def pin_for_cluster(source: str, store: ObjectStore) -> PinnedData:
    """Resolve a data source to what the pods can pull, and see that it is there.

    Args:
        source: see :mod:`mistere.data.versions`; a folder goes into the store as a snapshot.
        store: the object store.

    Raises:
        DataError: there is no such data, or its remote does not hold it.
        UsageError: its remote is nothing that a pod could reach.
    """
    pinned = pin(source, store.location("data-remote"))
    if not pinned.remote.startswith("s3://"):
        raise UsageError(
            f"{source} is kept in {redact_url(pinned.remote)}, which the pods of a cluster do not reach: make an s3:// remote "
            "the default one (`dvc remote add --default NAME s3://…`, `dvc push`), or name a folder with --data."
        )
    use_data_endpoint(pinned.endpoint)
    RemoteData(pinned.remote, pinned.digest).listing()
    return pinned
