"""The ConfigMap that completes runs which another client than ``mistere`` starts. A run of ``mistere submit`` does not need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.urls import has_credentials
from mistere.kubernetes.settings_keys import DATA_DIGEST, DATA_REMOTE, SETTINGS_KEYS, SETTINGS_MAP
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.groups.credentials import misspelt_key
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, note, ok

_REQUIRED: Final = (STORE_VARIABLE, TRACKING_VARIABLE)
_GUIDE: Final = "(docs/guides/any-client.md)"


def group(cluster: Cluster) -> CheckGroup:
    """The check of the ConfigMap."""
    return CheckGroup("Runs of other clients", [Check("settings", lambda: _settings(cluster))])


def _settings(cluster: Cluster) -> CheckResult:
    namespace = cluster.plan.config.cluster.namespace
    path = f"/api/v1/namespaces/{namespace}/configmaps/{SETTINGS_MAP}"
    try:
        data = cluster.get(path, f"read ConfigMaps in namespace {namespace}").get("data") or {}
    except AbsentError:
        return note(
            f"there is no ConfigMap {SETTINGS_MAP} in namespace {namespace}, so only runs of `mistere submit` and its schedules know their "
            f"store: `kubectl apply --server-side -k manifests/overlays/…` creates it {_GUIDE}."
        )
    values = {key: value for key in SETTINGS_KEYS if (value := str(data.get(key) or "").strip())}
    if trouble := _trouble(values, set(data), cluster.plan.store):
        return note(f"the ConfigMap {SETTINGS_MAP} {trouble} {_GUIDE}.")
    return ok(f"{SETTINGS_MAP} has {', '.join(values)}.")


def _trouble(values: Mapping[str, str], keys: set[str], store: str) -> str:
    """Why a run that only the ConfigMap completes would fail, or go elsewhere, and what to do; empty if it would not."""
    if missing := [key for key in _REQUIRED if key not in values]:
        return (
            f"lacks {' and '.join(missing)}{misspelt_key(keys, SETTINGS_KEYS)}, so a run that is started without parameters ends in its "
            "first step: add what is missing"
        )
    if (DATA_REMOTE in values) != (DATA_DIGEST in values):
        return f"has only one of {DATA_REMOTE} and {DATA_DIGEST}: set both, or neither for the latest published data"
    own, tracking = values[STORE_VARIABLE], values[TRACKING_VARIABLE]
    if not own.startswith("s3://"):
        return f"names a store that pods cannot reach ({own}): set {STORE_VARIABLE} to s3://bucket/prefix"
    if has_credentials(tracking):
        return (
            f"has credentials in {TRACKING_VARIABLE}: remove them, and put them into the secret of the tracking server"
        )
    if store.startswith("s3://") and own.rstrip("/") != store.rstrip("/"):
        return f"names another store ({own}) than this run's ({store}), and each has a champion of its own: set the same one"
    return ""
