"""The secrets that runs and predictors need: their names and keys. Values are neither kept nor shown."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial

from mistere.common.counting import plural
from mistere.common.suggestions import did_you_mean
from mistere.config.pod_environment import EnvironmentReference
from mistere.config.predictor_options import VARIABLE_PREFIX
from mistere.kubernetes.secret_keys import SIGNING_FILE, STORAGE_KEYS, TRACKING_KEYS, WEBHOOK_KEYS
from mistere.serving.kserve.inference_service import SERVICE_ACCOUNT
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok

_PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_IDENTITY = "role-arn"
_PULLS = frozenset({"kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"})


def group(cluster: Cluster) -> CheckGroup:
    """The checks of the secrets."""
    names = cluster.plan.config.cluster
    checks = [
        Check("of the store", lambda: _storage(cluster)),
        Check(
            "of MLflow",
            lambda: _optional(cluster, names.tracking_secret, TRACKING_KEYS, "MLflow is used without a login"),
        ),
        Check(
            "of the webhook",
            lambda: _optional(cluster, names.webhook_secret, WEBHOOK_KEYS, "no notification is sent when a run ends"),
        ),
    ]
    serving = cluster.plan.config.deployment
    if serving.storage_secret and cluster.mode != "local":
        checks.append(Check("of the predictor", lambda: _predictor(cluster, serving.storage_secret)))
    if names.signing_secret:
        checks.append(Check("of the signatures", lambda: _signing(cluster)))
    if names.image_pull_secret:
        checks.append(
            Check("of the image registry", lambda: _pull(cluster, "cluster", names.image_pull_secret, names.namespace))
        )
    if serving.image_pull_secret and cluster.mode != "local":
        checks.append(
            Check(
                "of the predictor's registry",
                lambda: _pull(cluster, "deployment", serving.image_pull_secret, serving.namespace),
            )
        )
    for variable, value in sorted(names.env.items()):
        if not isinstance(value, str):
            step = partial(_reference, cluster, f"cluster.env.{variable}", value, names.namespace, "step's pod")
            checks.append(Check(f"of {variable}", step))
    for variable, value in sorted(serving.env.items()):
        forwarded = names.env.get(variable) == value
        checked = forwarded and serving.namespace == names.namespace
        if not isinstance(value, str) and not checked and cluster.mode != "local":
            setting = f"{'cluster' if forwarded else 'deployment'}.env.{variable}"
            predictor = partial(_reference, cluster, setting, value, serving.namespace, "predictor's pod")
            checks.append(Check(f"of the predictor's {variable}", predictor))
    return CheckGroup("Secrets", checks)


def _keys(cluster: Cluster, name: str, namespace: str = "") -> tuple[set[str], str]:
    """The keys and the type of a secret; its values are dropped.

    Raises:
        AbsentError: the secret does not exist.
    """
    namespace = namespace or cluster.plan.config.cluster.namespace
    secret = cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{name}", f"read secrets in namespace {namespace}")
    return set(secret.get("data") or {}), str(secret.get("type") or "")


def _reference(cluster: Cluster, setting: str, value: EnvironmentReference, namespace: str, pod: str) -> CheckResult:
    """The object that a variable refers to: without it, no pod that has the variable starts."""
    name = value.secret or value.config_map
    kind = "secret" if value.secret else "ConfigMap"
    try:
        if value.secret:
            keys, _ = _keys(cluster, name, namespace)
        else:
            path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
            keys = set(cluster.get(path, f"read ConfigMaps in namespace {namespace}").get("data") or {})
    except AbsentError:
        return failed(
            f"there is no {kind} {name} in namespace {namespace}, so no {pod} can start: create it with the key {value.key}, or "
            f"remove {setting}."
        )
    if value.key not in keys:
        return failed(f"the {kind} {name} lacks {value.key}{misspelt_key(keys, (value.key,))}: add it.")
    return ok(f"the {kind} {name} has {value.key}.")


def _storage(cluster: Cluster) -> CheckResult:
    config = cluster.plan.config.cluster
    name, namespace = config.storage_secret, config.namespace
    if not name:
        return ok(f"none: the service account {config.service_account} has access to the store itself.")
    try:
        keys, _ = _keys(cluster, name)
    except AbsentError:
        if _has_identity(cluster, config.service_account, namespace):
            return ok(f"none: the service account {config.service_account} has a cloud identity.")
        return failed(
            f"there is no secret {name} in namespace {namespace}, so pods cannot open the store: `kubectl -n {namespace} create "
            f"secret generic {name} --from-env-file=…` with {_PAIR[0]} and {_PAIR[1]}."
        )
    if lacking := _lacking(name, keys):
        return lacking
    endpoint = "AWS_ENDPOINT_URL"
    if os.environ.get(endpoint) and endpoint not in keys:
        return failed(
            f"this shell reads the store's address from {endpoint}, which the secret {name} lacks, so pods would use AWS: add it."
        )
    return ok(f"{name} has {', '.join(key for key in STORAGE_KEYS if key in keys)}.")


def _has_identity(cluster: Cluster, name: str, namespace: str) -> bool:
    """Whether a service account is bound to a cloud identity."""
    try:
        account = cluster.service_account(name, namespace)
    except AbsentError:
        return False
    return any(key.endswith(_IDENTITY) for key in account["metadata"].get("annotations") or {})


def _predictor(cluster: Cluster, name: str) -> CheckResult:
    """The secret with which the predictor reads its model."""
    namespace = cluster.plan.config.deployment.namespace
    try:
        keys, _ = _keys(cluster, name, namespace)
    except AbsentError:
        if _has_identity(cluster, SERVICE_ACCOUNT, namespace):
            return ok(f"none: the service account {SERVICE_ACCOUNT} has a cloud identity.")
        return failed(
            f"there is no secret {name} in namespace {namespace}, so the predictor cannot read its model: create it like the secret of "
            "the steps, or leave deployment.storage_secret empty."
        )
    if lacking := _lacking(name, keys):
        return lacking
    if options := sorted(key for key in keys if key.startswith(VARIABLE_PREFIX)):
        return note(
            f"the secret {name} has {', '.join(options)}, which {plural(len(options), 'reaches', 'reach')} no pod, as only the store's keys do: "
            "set options of the predictor in deployment.predictor."
        )
    return ok(f"{name} has {', '.join(key for key in STORAGE_KEYS if key in keys)}.")


def _optional(cluster: Cluster, name: str, wanted: Collection[str], without: str) -> CheckResult:
    if not name:
        return ok(f"none is named: {without}.")
    try:
        keys, _ = _keys(cluster, name)
    except AbsentError:
        return note(f"there is no secret {name}: {without}.")
    known = [key for key in wanted if key in keys]
    if not known:
        return note(f"the secret {name} has none of {', '.join(wanted)}{misspelt_key(keys, wanted)}: {without}.")
    return ok(f"{name} has {', '.join(known)}.")


def _signing(cluster: Cluster) -> CheckResult:
    """The secret with the private key, which the pod of ``register_model`` mounts: without it, the pod never starts."""
    config = cluster.plan.config.cluster
    name, create = config.signing_secret, f"--from-file={SIGNING_FILE}"
    try:
        keys, _ = _keys(cluster, name)
    except AbsentError:
        return failed(
            f"there is no secret {name} in namespace {config.namespace}, so register_model cannot start: `kubectl -n "
            f"{config.namespace} create secret generic {name} {create}`, or leave cluster.signing_secret empty."
        )
    if SIGNING_FILE not in keys:
        return failed(
            f"the secret {name} lacks {SIGNING_FILE}{misspelt_key(keys, (SIGNING_FILE,))}: create it again with {create}."
        )
    return ok(f"{name} has {SIGNING_FILE}.")


def _pull(cluster: Cluster, section: str, name: str, namespace: str) -> CheckResult:
    """The pull secret that a section of the configuration names."""
    try:
        _, kind = _keys(cluster, name, namespace)
    except AbsentError:
        return failed(
            f"there is no image pull secret {name} in namespace {namespace}: `kubectl -n {namespace} create secret "
            f"docker-registry {name} …`, or leave {section}.image_pull_secret empty."
        )
    if kind not in _PULLS:
        return failed(
            f"the secret {name} is not an image pull secret (its type is {kind}): create it with `kubectl create secret docker-registry`."
        )
    return ok(f"{name}.")


def _lacking(name: str, keys: Collection[str]) -> CheckResult | None:
    """A failure that names the keys that a secret of the store lacks; None if it has all."""
    lacks = [key for key in _PAIR if key not in keys]
    if not lacks:
        return None
    return failed(
        f"the secret {name} lacks {' and '.join(lacks)}{misspelt_key(keys, STORAGE_KEYS)}: add {plural(len(lacks), 'it', 'them')}."
    )


def misspelt_key(keys: Collection[str], wanted: Collection[str]) -> str:
    """A hint at an unknown key that is probably a misspelt known one."""
    for key in sorted(keys):
        hint = did_you_mean(key, wanted)
        if key not in wanted and "did you mean" in hint:
            return f" (it has {key}{hint.removesuffix('?').replace('; did you mean', ', probably for')})"
    return ""
