"""The MLflow server: whether it answers, accepts the login, and lets a run write, also files."""

from __future__ import annotations

from urllib.parse import urlsplit

from mistere.common.environment import TRACKING_VARIABLE
from mistere.common.errors import MistereError
from mistere.common.urls import has_credentials, redact_url
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.run_logging import find_experiment, storing
from pipelines.cli.doctor.http_probe import probe
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, ok

_RUN, _FILE = "mistere doctor", "doctor.txt"


def group(plan: Plan) -> CheckGroup:
    """The checks of the tracking server."""
    return CheckGroup(
        "MLflow",
        [Check("the server", lambda: _reached(plan)), Check("writing", lambda: _writes(plan))],
        first_required=True,
    )


def _reached(plan: Plan) -> CheckResult:
    uri = plan.tracking
    if not uri:
        if plan.host:
            return failed(
                f"no tracking server is named: give MLflow's address with --tracking, {TRACKING_VARIABLE} or cluster.tracking_uri."
            )
        raise SkippedError(f"no tracking server is named (--tracking, {TRACKING_VARIABLE} or cluster.tracking_uri).")
    shown = redact_url(uri)
    if not uri.startswith(("http://", "https://")):
        if plan.host:
            return failed(f"{shown} cannot be reached by pods: name an MLflow server with http:// or https://.")
        return ok(f"{shown}, a database.")
    if plan.host and has_credentials(uri):
        return failed(
            f"{shown} contains credentials, which a run's parameters would show to everybody: put them into the secret "
            f"{plan.config.cluster.tracking_secret} (cluster.tracking_secret)."
        )
    try:
        answer = probe(f"{uri.rstrip('/')}/health", "MLflow", plan.clock)
    except MistereError as error:
        if plan.host and _is_cluster_address(uri):
            raise SkippedError(
                f"{shown} is an address inside the cluster; run `mistere doctor` in a pod to check it."
            ) from error
        raise
    if answer.status >= 400:
        return failed(
            f"{shown} does not answer as MLflow does ({answer.status} for /health): name the address of the MLflow server."
        )
    return ok(f"{shown}.")


def _is_cluster_address(uri: str) -> bool:
    """Whether the host is a Kubernetes service name, which only pods can resolve."""
    host = urlsplit(uri).hostname or ""
    return ("." not in host and host != "localhost") or host.endswith((".svc", ".svc.cluster.local"))


def _writes(plan: Plan) -> CheckResult:
    """Create a run with a file in the experiment of the pipeline's runs, and delete it again."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    name = plan.config.registry.experiment
    try:
        with connected(plan.tracking) as client:
            run = client.create_run(find_experiment(client, name, ""), run_name=_RUN).info
            try:
                with storing(f"run {run.run_id}"):
                    client.log_text(run.run_id, "written by mistere doctor\n", _FILE)
                    get_artifact_repository(run.artifact_uri, tracking_uri=client.tracking_uri).delete_artifacts(_FILE)
            finally:
                client.delete_run(run.run_id)
    except MistereError as error:
        status = getattr(error.__cause__, "get_http_status_code", lambda: 0)()
        if status in {401, 403}:
            raise MistereError(
                f"MLflow at {redact_url(plan.tracking)} does not allow writing to experiment {name} ({status}): check "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, here and in the secret "
                f"{plan.config.cluster.tracking_secret}."
            ) from error
        raise
    return ok(f"a run with a file in experiment {name} was created and deleted.")
