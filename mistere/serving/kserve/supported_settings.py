"""What each way to deploy supports: settings that KServe would silently ignore, or with which a run would fail at its end, are refused."""

from __future__ import annotations

from typing import Final

from mistere.common.counting import counted
from mistere.common.errors import UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.config.loader import Config
from mistere.config.predictor import BUNDLE_STORE, LOCAL_SHADOW
from mistere.serving.kserve.inference_service import CANDIDATE

_MAX_SERVICE_LENGTH: Final = 63 - len(f"{CANDIDATE}-predictor")


def check_support(config: DeploymentConfig, store: str) -> None:
    """Reject settings that the mode does not support, because KServe silently ignores some of them.

    Args:
        config: the ``deployment`` section.
        store: the object store's URI.

    Raises:
        UsageError: a setting is not supported; names the alternatives.
    """
    if config.mode == "local":
        if config.canary_percent:
            raise UsageError(
                "deployment.canary_percent needs deployment.mode=knative: a local deployment has no traffic."
            )
        return
    if not store.startswith("s3://"):
        raise UsageError(
            f"deployment.mode={config.mode} needs a store that the cluster's pods can read, s3://bucket/prefix, and this one is "
            f"{store}: use an S3 store, or set deployment.mode=local."
        )
    check_cluster_support(config)


def check_cluster_support(config: DeploymentConfig) -> None:
    """Reject settings with which a run on a cluster cannot deploy; called before such a run is compiled.

    The image of ``deploy_model`` contains no model code, so a local deployment would fail there, after the training.

    Args:
        config: the ``deployment`` section.

    Raises:
        UsageError: the mode is ``local``, or does not support a setting; names the alternatives.
    """
    mode = config.mode
    if mode == "local":
        raise UsageError(
            "deployment.mode=local deploys no service, so a run on a cluster would fail after its training: set "
            "deployment.mode=standard or deployment.mode=knative, as KServe is installed there."
        )
    if len(config.service) > _MAX_SERVICE_LENGTH:
        raise UsageError(
            f"deployment.service may have at most {_MAX_SERVICE_LENGTH} characters on a cluster: {config.service} is longer."
        )
    _check_predictor(config)
    metrics = {"standard": ("", "cpu", "memory"), "knative": ("", "concurrency", "rps")}[mode]
    if config.scale_metric not in metrics:
        raise UsageError(
            f"deployment.scale_metric={config.scale_metric} is not supported by KServe's {mode} mode: use {metrics[1]} or "
            f"{metrics[2]}."
        )
    if mode == "knative" and config.shadow:
        raise UsageError(
            "deployment.shadow needs deployment.mode=standard: in Knative mode every copy would pass the gateway and the activator; "
            "deployment.canary_percent gives the new model a share of the traffic there."
        )
    if mode == "standard" and config.canary_percent:
        raise UsageError(
            "deployment.canary_percent needs deployment.mode=knative: in Standard mode KServe splits traffic only between "
            "predictors of its serving runtimes (spec.canary), not for custom containers, and ignores the share otherwise; "
            "set it to 0, and name a Gateway in deployment.gateway.name, which splits the traffic here."
        )
    if mode == "knative" and config.gateway.name:
        raise UsageError(
            "deployment.gateway needs deployment.mode=standard: Knative splits the traffic itself; use deployment.canary_percent there."
        )
    if mode == "standard" and not config.min_replicas:
        raise UsageError(
            "deployment.min_replicas=0 needs deployment.mode=knative: Standard mode keeps at least one pod."
        )
    if mode == "knative" and (config.node_selector or config.tolerations):
        raise UsageError(
            "deployment.node_selector and deployment.tolerations need deployment.mode=standard: Knative rejects both in its "
            "default configuration."
        )


def stream_limit(config: Config) -> str:
    """After what time streams of live audio are cut in a run's deployment, as a sentence; empty if nothing here cuts them.

    Knative's proxy in the pod ends a WebSocket when the revision's timeout has passed, however much it carries (knative/serving issues 16169
    and 16638, versions 1.19 and 1.21).
    """
    deployment = config.deployment
    seconds = deployment.request_seconds
    hears = any(encoder.kind == "audio" for encoder in config.encoders().values())
    if deployment.mode == "local" or not (seconds and deployment.predictor.max_streams and hears):
        return ""
    if deployment.mode == "standard":
        return f"deployment.request_timeout ends each stream of live audio after {seconds} s; 0 lets it last."
    above = (
        "; more than 600 s need max-revision-timeout-seconds in its ConfigMap config-defaults" if seconds > 600 else ""
    )
    return (
        f"Knative ends each stream of live audio after {seconds} s (deployment.request_timeout){above}: deploy with deployment.mode=standard "
        "if calls may last longer, or set deployment.predictor.max_streams=0 if there are none."
    )


def check_release_time(config: DeploymentConfig, timeout: float) -> None:
    """Reject a canary that the time limit of ``deploy_model`` would end before its last window.

    Args:
        config: the ``deployment`` section.
        timeout: the limit, seconds.

    Raises:
        UsageError: the canary may take longer; names both times.
    """
    steps, window = len(config.canary.steps), config.canary.window_seconds
    if config.mode != "standard" or not config.gateway.name or not steps:
        return
    longest = steps * window + 2 * config.ready_timeout
    if longest > timeout:
        raise UsageError(
            f"a canary may take {longest:g} s ({counted(steps, 'step')} of deployment.canary.window_seconds={window:g}, and "
            f"deployment.ready_timeout={config.ready_timeout:g} for the candidate and again for the service), but "
            f"cluster.steps.deploy_model.timeout={timeout:g} ends it before: raise the timeout, or shorten the canary."
        )


def _check_predictor(config: DeploymentConfig) -> None:
    """Reject options of the predictor that no pod of this deployment can have.

    Raises:
        UsageError: as :func:`check_cluster_support`.
    """
    options = config.predictor
    for name in ("traffic_store", "sample_store", "request_log_store"):
        store = getattr(options, name)
        if store not in ("", BUNDLE_STORE) and not store.startswith("s3://"):
            raise UsageError(
                f"deployment.predictor.{name}={store} is a folder, which ends with its pod: use {BUNDLE_STORE} or s3://bucket/prefix."
            )
    if options.shadow == LOCAL_SHADOW:
        raise UsageError(
            f"deployment.predictor.shadow={LOCAL_SHADOW} would run two models in each pod: set deployment.shadow=true instead, which gives "
            "the shadow a pod of its own."
        )
    if options.device == "cuda" and not config.gpus:
        raise UsageError("deployment.predictor.device=cuda needs a GPU: set deployment.gpus, or the device to auto.")
    if options.int8 and config.gpus:
        raise UsageError("deployment.predictor.int8 is for a CPU: set deployment.gpus=0, or int8 to false.")
