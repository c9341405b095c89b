"""Kubernetes settings of each step: resources, nodes, retries, timeout, secrets and labels. A local run ignores them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from mistere.artifacts.signing import SIGNING_KEY_VARIABLE
from mistere.common.environment import AUTHORITY_VARIABLES, RETRIES_VARIABLE
from mistere.config.cluster import ClusterConfig, StepSettings
from mistere.config.stages import every_stage
from mistere.kubernetes.current_pod import authority_folder
from mistere.kubernetes.image_registry import CREDENTIALS_VARIABLE
from mistere.kubernetes.secret_keys import REGISTRY_FILE, SIGNING_FILE, STORAGE_VARIABLES, TRACKING_KEYS, WEBHOOK_KEYS
from mistere.kubernetes.settings_keys import SETTINGS_KEYS, SETTINGS_MAP

if TYPE_CHECKING:
    from kfp.dsl.pipeline_config import PipelineConfig
    from kfp.dsl.pipeline_task import PipelineTask

USER: Final = 10001
"""The user id of the images."""

SECRET_FOLDER: Final = "/var/run/secrets/mistere"  # noqa: S105  (a folder, not a secret)
"""Folder of the secrets that are mounted as files."""

_BACKOFF_SECONDS, _BACKOFF_FACTOR = 30, 2
_LABELS: Final = {"app.kubernetes.io/part-of": "mistere", "app.kubernetes.io/component": "pipeline"}


def apply(
    task: PipelineTask, cluster: ClusterConfig | None, stage: str, modality: str = "", also: tuple[str, ...] = ()
) -> PipelineTask:
    """Apply the Kubernetes settings of a stage to its task.

    Retries are for failures of the infrastructure (a lost node, an evicted pod, an unavailable service): a step that failed for
    its data or settings fails again at once (:func:`mistere.engine.execution.execute`).

    Args:
        task: the task.
        cluster: the ``cluster`` section; None for a local run, which leaves the task as it is.
        stage: the stage that the task runs.
        modality: for stages that run once per modality.
        also: further stages that the task runs, whose secrets it needs too.

    Returns:
        The task.
    """
    # KFP's own cache does not see whether the store still has a step's artifacts, and a step that it skips leaves no record
    # under the run's id. The engine finds finished steps by their own keys.
    task.set_caching_options(False)
    if cluster is None:
        return task
    from kfp import kubernetes

    step = cluster.step(stage, modality)
    task.set_cpu_request(step.cpu).set_cpu_limit(step.cpu_limit)
    task.set_memory_request(step.memory).set_memory_limit(step.memory)
    if step.gpus:
        task.set_accelerator_type(step.gpu_type).set_accelerator_limit(step.gpus)
    if step.retries:
        task.set_retry(
            step.retries,
            backoff_duration=f"{_BACKOFF_SECONDS}s",
            backoff_factor=float(_BACKOFF_FACTOR),
            backoff_max_duration=f"{_retry_window(step)}s",
        )
    task.set_env_variable(RETRIES_VARIABLE, str(step.retries))
    _environment(task, cluster)
    kubernetes.set_timeout(task, step.timeout)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    if cluster.image_pull_secret:
        kubernetes.set_image_pull_secrets(task, [cluster.image_pull_secret])
    kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit=step.scratch)  # noqa: S108  (a mount point in the step's own pod)
    if step.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=step.shared_memory)  # noqa: S108  (a mount point in the step's own pod)
    for key, value in sorted(step.node_selector.items()):
        kubernetes.add_node_selector(task, key, value)
    for toleration in step.tolerations:
        fields = toleration.model_dump(include={"key", "operator", "value", "effect"})
        kubernetes.add_toleration(task, **{name: value for name, value in fields.items() if value})
    for key, value in sorted({**_LABELS, "mistere/stage": stage.replace("_", "-"), **cluster.labels}.items()):
        kubernetes.add_pod_label(task, key, value)
    _secrets(task, cluster, {secret for name in (stage, *also) for secret in every_stage()[name].secrets})
    if every_stage()[stage].settings:
        kubernetes.use_config_map_as_env(task, SETTINGS_MAP, {key: key for key in SETTINGS_KEYS}, optional=True)
    return task


def lifetime(cluster: ClusterConfig) -> PipelineConfig:
    """How long the Kubernetes objects of a finished run are kept.

    All three limits are set: those after success and failure come before the one after completion, and the stock
    configuration of KFP's Argo sets them to an hour (workflow-controller-configmap, ``workflowDefaults.spec.ttlStrategy``).
    """
    from kfp import dsl

    return dsl.PipelineConfig(
        ttl_seconds_after_finished=cluster.run_ttl,
        ttl_seconds_after_success=cluster.run_ttl,
        ttl_seconds_after_failure=cluster.run_ttl,
    )


def _retry_window(step: StepSettings) -> int:
    """Seconds for all attempts of a step and the waits between them.

    KFP hands ``backoff_max_duration`` to Argo as ``backoff.maxDuration``: the window from the start of the first attempt in
    which a retry may begin, and the time at which a later attempt is killed (Argo 4.0.5, "Max duration limit exceeded").
    """
    waits = sum(_BACKOFF_SECONDS * _BACKOFF_FACTOR**attempt for attempt in range(step.retries))
    return (step.retries + 1) * step.timeout + waits


def _environment(task: PipelineTask, cluster: ClusterConfig) -> None:
    """Set the variables of ``cluster.env``; an object that they refer to must exist, or the pod waits for it.

    KFP names a volume after its object, so each object is mounted once.
    """
    from kfp import kubernetes

    mounted: set[tuple[str, str]] = set()
    for name, value in sorted(cluster.env.items()):
        if isinstance(value, str):
            task.set_env_variable(name, value)
            continue
        source = (value.secret, value.config_map)
        if name not in AUTHORITY_VARIABLES:
            if value.secret:
                kubernetes.use_secret_as_env(task, value.secret, {value.key: name}, optional=False)
            else:
                kubernetes.use_config_map_as_env(task, value.config_map, {value.key: name}, optional=False)
            continue
        folder = authority_folder(value.secret, value.config_map)
        if source not in mounted:
            mounted.add(source)
            mount = kubernetes.use_secret_as_volume if value.secret else kubernetes.use_config_map_as_volume
            mount(task, value.secret or value.config_map, folder, optional=False)
        task.set_env_variable(name, f"{folder}/{value.key}")


def _secrets(task: PipelineTask, cluster: ClusterConfig, needed: Collection[str]) -> None:
    """Refer to the secrets; keys that a secret lacks are left out of the pod's environment.

    A named signing secret must exist: without it, the pod waits, and no bundle stays unsigned by mistake.
    """
    from kfp import kubernetes

    secrets: list[tuple[str, dict[str, str]]] = [(cluster.storage_secret, STORAGE_VARIABLES)]
    if "tracking" in needed:
        secrets.append((cluster.tracking_secret, {key: key for key in TRACKING_KEYS}))
    if "webhook" in needed:
        secrets.append((cluster.webhook_secret, {key: key for key in WEBHOOK_KEYS}))
    for name, variables in secrets:
        if name:
            kubernetes.use_secret_as_env(task, name, dict(variables), optional=True)
    if "signing" in needed and cluster.signing_secret:
        folder = f"{SECRET_FOLDER}/signing"
        kubernetes.use_secret_as_volume(task, cluster.signing_secret, folder, optional=False)
        task.set_env_variable(SIGNING_KEY_VARIABLE, f"{folder}/{SIGNING_FILE}")
    if "registry" in needed and cluster.image_pull_secret:
        folder = f"{SECRET_FOLDER}/registry"
        kubernetes.use_secret_as_volume(task, cluster.image_pull_secret, folder, optional=True)
        task.set_env_variable(CREDENTIALS_VARIABLE, f"{folder}/{REGISTRY_FILE}")
