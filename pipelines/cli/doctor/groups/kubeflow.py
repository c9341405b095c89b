"""Kubeflow Pipelines: the server, the token, the namespace, the pipeline and the schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url, server_of
from pipelines.cli.doctor import http_probe
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, note, ok
from pipelines.kubeflow.connection.access import HOST_VARIABLE, TOKEN_VARIABLE
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.connection.failures import PipelinesError
from pipelines.kubeflow.connection.token import current_token, explain_refusal


class KubeflowPipelines:
    """The checks of one Kubeflow Pipelines server, with the time limits and retries of ``mistere submit``."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._namespace = plan, plan.config.cluster.kubeflow_namespace
        self._token = current_token()
        self._multi_user = False
        self._status, self._login = 0, False
        self.address = ""

    def reached(self) -> CheckResult:
        """Whether the server answers as Kubeflow Pipelines does, and in which version."""
        if not self._plan.host:
            raise SkippedError(f"no host is named: set --host, {HOST_VARIABLE} or cluster.host.")
        try:
            self.address = redact_url(self._plan.host)
            is_url = self.address.startswith(("http://", "https://")) and server_of(self._plan.host) != ""
        except ValueError:
            is_url = False
        if not is_url:
            raise MistereError("the host of Kubeflow Pipelines is not a URL: write it as https://… or http://….")
        headers = {"Authorization": f"Bearer {self._token.value}"} if self._token else {}
        url = f"{self._plan.host}/apis/v2beta1/healthz"
        answer = http_probe.probe(
            url, "Kubeflow Pipelines", self._plan.clock, headers, retry_delays=http_probe.RETRY_DELAYS
        )
        if answer.status >= 500:
            return failed(
                f"Kubeflow Pipelines at {self.address} answers with a server error ({answer.status}): check the pods of ml-pipeline "
                f"(`kubectl -n {self._namespace} get pods`)."
            )
        if answer.status == 404:
            return failed(
                f"{self.address} answers, but not as Kubeflow Pipelines 2 does (404 for /apis/v2beta1/healthz): name the address "
                "before /apis, of a version 2."
            )
        if answer.status == 200 and not answer.is_json:
            return failed(
                f"{self.address} answers, but with a web page: name the address of Kubeflow Pipelines itself (behind Kubeflow's "
                "dashboard it ends in /pipeline)."
            )
        self._status, health = answer.status, answer.data
        self._login = answer.status == 403 and not answer.is_json
        self._multi_user = bool(health.get("multi_user", health.get("apiServerMultiUser", False)))
        version = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        if version.startswith("1."):
            return failed(
                f"{self.address} is Kubeflow Pipelines {version}, and the pipeline needs 2.0 or newer: update it."
            )
        kind = "multi-user" if self._multi_user else "single-user"
        return ok(f"{f'version {version}' if version else 'unknown version'} at {self.address}, {kind}.")

    def token_accepted(self) -> CheckResult:
        """Whether the server, and a login proxy in front of it, accept the token."""
        if self._login or 300 <= self._status < 400:
            return failed(
                f"{self.address} is behind a login: put a token that it accepts into {TOKEN_VARIABLE}, or forward a port to "
                f"ml-pipeline (`kubectl -n {self._namespace} port-forward svc/ml-pipeline 8888`)."
            )
        if self._status == 401:
            raise MistereError(self._refusal())
        if self._status != 403:
            with self._token_errors():
                self._client.check_access()
        return ok("accepted." if self._token else "none is required.")

    def namespace_allowed(self) -> CheckResult:
        """Whether the account may see, and so start, runs in the namespace."""
        with self._token_errors():
            self._client.check_access()
        return ok(f"{self._client.namespace}." if self._multi_user else "a single-user server has only one.")

    def pipeline_known(self) -> CheckResult:
        """Whether the pipeline was uploaded before."""
        with self._token_errors():
            known = self._client.find_pipeline(self._plan.pipeline.server_name)
        if known is None:
            return note(
                f"there is no pipeline {self._plan.pipeline.server_name} yet, or it was deleted: `mistere submit` uploads it."
            )
        return ok(f"{self._plan.pipeline.server_name} exists.")

    def schedules_complete(self) -> CheckResult:
        """Whether the pipeline version of every schedule still exists."""
        with self._token_errors():
            schedules = list(self._client.schedules())
            for schedule in schedules:
                pinned = schedule.pipeline_version_reference
                if pinned is None or not pinned.pipeline_version_id:
                    continue
                if self._client.version_by_id(pinned.pipeline_id, pinned.pipeline_version_id) is None:
                    return failed(
                        f"the schedule {schedule.display_name} runs a pipeline version that was deleted: `mistere schedule apply` "
                        "creates it again."
                    )
        return ok(f"{len(schedules)}, each with its pipeline version." if schedules else "there are none.")

    @cached_property
    def _client(self) -> Pipelines:
        namespace = self._plan.config.cluster.namespace if self._multi_user else ""
        # The clock has a check of its own, and must not fail the others.
        return Pipelines(self._plan.host, namespace, clock_tolerance=math.inf, outage=0.0)

    @contextmanager
    def _token_errors(self) -> Iterator[None]:
        """Say of a refused token whether it is missing or has expired."""
        try:
            yield
        except PipelinesError as error:
            if error.status != 401:
                raise
            raise MistereError(self._refusal()) from error

    def _refusal(self) -> str:
        server = f"Kubeflow Pipelines at {self.address}"
        return explain_refusal(server, self._token, self._plan.config.cluster.namespace)[0]


def group(plan: Plan) -> CheckGroup:
    """The checks of Kubeflow Pipelines."""
    kubeflow = KubeflowPipelines(plan)
    return CheckGroup(
        "Kubeflow Pipelines",
        [
            Check("the server", kubeflow.reached),
            Check("token", kubeflow.token_accepted),
            Check("namespace", kubeflow.namespace_allowed),
            Check("pipeline", kubeflow.pipeline_known),
            Check("schedules", kubeflow.schedules_complete),
        ],
        first_required=True,
    )
