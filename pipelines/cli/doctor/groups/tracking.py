"""The MLflow server: is it there, does it know us, and may a run write to it."""

from __future__ import annotations

from urllib.parse import urlsplit

from mistere.common.environment import TRACKING_VARIABLE
from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.registry.model_registry import connected
from pipelines.cli.doctor.http_probe import ask
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, ok

_RUN = "mistere doctor"


def subject(plan: Plan) -> Subject:
    """The checks of the tracking server."""
    return Subject(
        "MLflow", [Check("the server", lambda: _reached(plan)), Check("writing", lambda: _writes(plan))], door=True
    )


def _reached(plan: Plan) -> CheckResult:
    uri = plan.tracking
    if not uri:
        if plan.host:
            return failed(
                f"no tracking server is named: give MLflow's address with --tracking, {TRACKING_VARIABLE} or cluster.tracking_uri."
            )
        raise SkippedError(f"no tracking server is named (--tracking, {TRACKING_VARIABLE} or cluster.tracking_uri).")
    where = redact_url(uri)
    if not uri.startswith(("http://", "https://")):
        if plan.host:
            return failed(f"{where}: the pods of a cluster reach an MLflow server by http:// or https:// only.")
        return ok(f"{where}, a database.")
    if plan.host and redact_url(uri) != uri:
        return failed(
            f"{where} carries credentials, which everybody would read among a run's parameters: put them into the secret "
            f"{plan.config.cluster.tracking_secret} (cluster.tracking_secret)."
        )
    try:
        answer = ask(f"{uri.rstrip('/')}/health", "MLflow", plan.clock)
    except MistereError as error:
        if plan.host and _inside(uri):
            raise SkippedError(f"{where} is an address inside the cluster; run the same in a pod to try it.") from error
        raise
    if answer.status >= 400:
        return failed(
            f"{where} does not answer as MLflow does ({answer.status} for /health): name the address of the server itself."
        )
    return ok(f"{where}.")


def _inside(uri: str) -> bool:
    """Whether only pods can know the name: a service's, alone or with what Kubernetes puts behind it."""
    host = urlsplit(uri).hostname or ""
    return ("." not in host and host != "localhost") or host.endswith((".svc", ".svc.cluster.local"))


def _writes(plan: Plan) -> CheckResult:
    """Begin a run in the experiment that runs are in, and delete it again."""
    name = plan.config.registry.experiment
    try:
        with connected(plan.tracking) as client:
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
            run = client.create_run(experiment, run_name=_RUN).info.run_id
            client.delete_run(run)
    except MistereError as error:
        status = getattr(error.__cause__, "get_http_status_code", lambda: 0)()
        if status in {401, 403}:
            raise MistereError(
                f"MLflow at {redact_url(plan.tracking)} does not let us write to experiment {name} ({status}): check "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, here and in the secret "
                f"{plan.config.cluster.tracking_secret}."
            ) from error
        raise
    return ok(f"a run in experiment {name} was begun and deleted.")
