"""The target of cluster runs: Kubeflow Pipelines, object store and tracking server, from options, environment and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.artifacts.s3.probe import use_data_endpoint
from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import UsageError
from mistere.common.urls import has_credentials, redact_url
from mistere.config.cluster import ClusterConfig
from mistere.data.dvc_remote import RemoteData
from mistere.data.versions import PinnedData, pin
from pipelines.kubeflow.connection.access import HOST_VARIABLE, chosen_host


@dataclass(frozen=True)
class ClusterTarget:
    """The addresses that a run on a cluster needs."""

    host: str
    store: ObjectStore
    tracking_uri: str


def cluster_target(cluster: ClusterConfig, host: str | None, store: str | None, tracking: str | None) -> ClusterTarget:
    """The target that the options name, else the environment, else the ``cluster`` section.

    Args:
        cluster: the section.
        host: address of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: address of the MLflow server, as pods see it.

    Raises:
        UsageError: an address is missing, or cannot be reached by pods.
    """
    return ClusterTarget(
        host=cluster_host(cluster, host),
        store=cluster_store(cluster, store),
        tracking_uri=_tracking(cluster, tracking),
    )


def cluster_host(cluster: ClusterConfig, host: str | None) -> str:
    """The address of Kubeflow Pipelines.

    Raises:
        UsageError: no address is named, or it lacks a scheme, or contains credentials.
    """
    chosen = chosen_host(host, cluster.host)
    if not chosen:
        raise UsageError(f"no address of Kubeflow Pipelines is named: set --host, {HOST_VARIABLE} or cluster.host.")
    if not chosen.startswith(("http://", "https://")):
        raise UsageError(f"{chosen}: write the address of Kubeflow Pipelines with its scheme, https://… or http://….")
    if has_credentials(chosen):
        raise UsageError(
            f"{redact_url(chosen)}: user name and password in the address of Kubeflow Pipelines are not supported: put a token into "
            "KFP_TOKEN instead."
        )
    return chosen


def cluster_store(cluster: ClusterConfig, store: str | None) -> ObjectStore:
    """The object store.

    Raises:
        UsageError: no store is named, or it is a folder.
    """
    chosen = store or os.environ.get(STORE_VARIABLE) or cluster.store
    if not chosen:
        raise UsageError(f"no store is named: set s3://bucket/prefix with --store, {STORE_VARIABLE} or cluster.store.")
    if not chosen.startswith("s3://"):
        raise UsageError(f"{chosen} is a folder of this machine, which pods cannot reach: name s3://bucket/prefix.")
    return open_store(chosen)


def _tracking(cluster: ClusterConfig, tracking: str | None) -> str:
    chosen = tracking or os.environ.get(TRACKING_VARIABLE) or cluster.tracking_uri
    if not chosen:
        raise UsageError(
            f"no tracking server is named: set MLflow's address with --tracking, {TRACKING_VARIABLE} or cluster.tracking_uri."
        )
    if not chosen.startswith(("http://", "https://")):
        raise UsageError(
            f"{redact_url(chosen)} cannot be reached by pods: name an MLflow server with http:// or https://."
        )
    if has_credentials(chosen):
        raise UsageError(
            f"{redact_url(chosen)} contains credentials, which a run's parameters would show to everybody: remove them, and "
            f"put them into the secret {cluster.tracking_secret!r} (cluster.tracking_secret)."
        )
    return chosen


def pin_for_cluster(source: str, store: ObjectStore) -> PinnedData:
    """Resolve a data source to a version that pods can pull, and check that the remote holds it.

    Args:
        source: see :mod:`mistere.data.versions`; a folder is stored as a snapshot.
        store: the object store.

    Raises:
        MistereError: its remote does not hold it.
        UsageError: the data does not exist, or pods cannot reach its remote.
    """
    pinned = pin(source, store.location("data-remote"), for_cluster=True)
    if not pinned.remote.startswith("s3://"):
        raise UsageError(
            f"{source} is kept in {redact_url(pinned.remote)}, which pods cannot reach: make an s3:// remote "
            "the default one (`dvc remote add --default NAME s3://…`, `dvc push`), or name a folder, which is uploaded."
        )
    use_data_endpoint(pinned.endpoint)
    RemoteData(pinned.remote, pinned.digest).listing()
    return pinned
