"""Kubeflow Pipelines: is it there, does it know us, may we use the namespace, and is what it should run still there."""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from pipelines.cli.doctor.http_probe import ask, ask_api, authorities, place
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, note, ok
from pipelines.kubeflow.access import HOST_VARIABLE, TOKEN_VARIABLE, service_account_token

PIPELINE: Final = "mistere-retraining"
_PAGE = 100


class _DeletedError(MistereError):
    """What was asked for is not there (any more)."""


class KubeflowPipelines:
    """An address of Kubeflow Pipelines, asked with short time-outs."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._token = _token()
        self._multi_user = False
        self._status, self._login = 0, False
        self.where = ""

    def reached(self) -> CheckResult:
        """Whether it answers, and which version it is."""
        if not self._plan.host:
            raise SkippedError(f"no host is named: --host, {HOST_VARIABLE} or cluster.host.")
        try:
            self.where = redact_url(self._plan.host)
            known = self.where.startswith(("http://", "https://")) and place(self._plan.host) != ""
        except ValueError:
            known = False
        if not known:
            raise MistereError("the host of Kubeflow Pipelines is no URL: write it as https://… or http://….")
        answer = ask(f"{self._plan.host}/apis/v2beta1/healthz", "Kubeflow Pipelines", self._plan.clock, self._headers)
        if answer.status >= 500:
            return failed(
                f"Kubeflow Pipelines at {self.where} has trouble of its own ({answer.status}): look at the pods of ml-pipeline "
                "(`kubectl -n kubeflow get pods`)."
            )
        if answer.status == 404:
            return failed(
                f"{self.where} answers, but not as Kubeflow Pipelines 2 does (404 for /apis/v2beta1/healthz): name the address "
                "before /apis, of a version 2."
            )
        if answer.status == 200 and not answer.is_json:
            return failed(
                f"{self.where} answers, but with a page for people: name the address of Kubeflow Pipelines itself (behind Kubeflow's "
                "dashboard it ends in /pipeline)."
            )
        self._status, told = answer.status, answer.data
        self._login = answer.status == 403 and not answer.is_json
        self._multi_user = bool(told.get("multi_user", told.get("apiServerMultiUser", False)))
        version = told.get("tag_name") or told.get("apiServerTagName") or ""
        if str(version).startswith("1."):
            return failed(
                f"{self.where} is Kubeflow Pipelines {version}, and the pipeline needs 2.0 or newer: update it."
            )
        kind = "for several users" if self._multi_user else "for one user"
        return ok(f"version {version or 'not told'} at {self.where}, {kind}.")

    def token_accepted(self) -> CheckResult:
        """Whether we are who we say, to it and to the login before it."""
        if self._login or 300 <= self._status < 400:
            return failed(
                f"a login stands before {self.where}: put a token that it accepts into {TOKEN_VARIABLE}, or forward a port to "
                "ml-pipeline (`kubectl -n kubeflow port-forward svc/ml-pipeline 8888`)."
            )
        if self._status not in {401, 403}:
            self._ask(
                "experiments",
                lambda **k: self._service("ExperimentServiceApi").experiment_service_list_experiments(page_size=1, **k),
            )
        elif self._status == 401:
            raise MistereError(self._refused())
        return ok("accepted." if self._token else "none is asked for.")

    def namespace_allowed(self) -> CheckResult:
        """Whether runs may be seen, and so started, in the namespace."""
        namespace = self._plan.config.cluster.namespace
        self._ask("runs", lambda **k: self._service("RunServiceApi").run_service_list_runs(page_size=1, **k))
        return ok(f"{namespace}." if self._multi_user else "for one user there is but one.")

    def pipeline_known(self) -> CheckResult:
        """Whether the pipeline was uploaded before."""
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": PIPELINE}]}
        found = self._ask(
            "pipelines",
            lambda **k: self._service("PipelineServiceApi").pipeline_service_list_pipelines(
                filter=json.dumps(wanted), page_size=1, **k
            ),
        ).pipelines
        if not found:
            return note(f"there is no pipeline {PIPELINE} yet, or it was deleted: `mistere submit` uploads it.")
        return ok(f"{PIPELINE} is there.")

    def schedules_whole(self) -> CheckResult:
        """Whether every schedule's pipeline version is still there."""
        schedules = list(self._schedules())
        for schedule in schedules:
            reference = schedule.pipeline_version_reference
            if reference is None or not reference.pipeline_version_id:
                continue
            try:
                self._ask(
                    "pipelines",
                    lambda pinned=reference, **k: self._service(
                        "PipelineServiceApi"
                    ).pipeline_service_get_pipeline_version(
                        pinned.pipeline_id, pinned.pipeline_version_id, _request_timeout=k["_request_timeout"]
                    ),
                )
            except _DeletedError:
                return failed(
                    f"the schedule {schedule.display_name} runs a pipeline version that was deleted: `mistere schedule apply` "
                    "makes it anew."
                )
        return ok(f"{len(schedules)} there, each with its pipeline version." if schedules else "there is none.")

    def _schedules(self) -> Iterator[Any]:
        token = ""
        while True:
            page = self._ask(
                "recurring runs",
                lambda after=token, **k: self._service(
                    "RecurringRunServiceApi"
                ).recurring_run_service_list_recurring_runs(page_size=_PAGE, page_token=after, **k),
            )
            yield from page.recurring_runs or []
            token = page.next_page_token or ""
            if not token:
                return

    def _ask(self, what: str, call: Callable[..., Any]) -> Any:
        """Call the API; in a cluster for several users with the namespace."""
        namespace = self._plan.config.cluster.namespace
        narrowed = {"namespace": namespace} if self._multi_user else {}
        status, answer = ask_api(lambda **k: call(**narrowed, **k), f"Kubeflow Pipelines at {self.where}")
        if status == 401:
            raise MistereError(self._refused())
        if status == 403:
            raise MistereError(
                f"Kubeflow Pipelines does not let this account see {what} in namespace {namespace}: have its owner add you "
                "(Manage Contributors), or set cluster.namespace to one of yours."
            )
        if status == 404:
            raise _DeletedError(f"Kubeflow Pipelines at {self.where} has no such {what.removesuffix('s')}.")
        if status:
            raise MistereError(
                f"Kubeflow Pipelines at {self.where} does not list {what} ({status}): look at the log of ml-pipeline."
            )
        return answer

    def _refused(self) -> str:
        if not self._token:
            return f"Kubeflow Pipelines at {self.where} wants a token: put one into {TOKEN_VARIABLE}."
        ended = _expiry(self._token)
        why = "has expired" if ended is not None and ended < time.time() else "is not accepted (401; expired?)"
        return f"the token in {TOKEN_VARIABLE} {why} at {self.where}: get a new one."

    @property
    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @cached_property
    def _client(self) -> Any:
        import kfp_server_api

        configuration = kfp_server_api.Configuration(host=self._plan.host)
        configuration.retries = False
        if self._token:
            configuration.api_key["authorization"] = self._token
            configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.ssl_ca_cert = authorities()
        return kfp_server_api.ApiClient(configuration)

    def _service(self, name: str) -> Any:
        import kfp_server_api

        return getattr(kfp_server_api, name)(self._client)


def _token() -> str:
    """The token that ``mistere submit`` uses: the environment's, else a pod's own."""
    named = os.environ.get(TOKEN_VARIABLE, "")
    file = service_account_token()
    return named or (file.read_text(encoding="utf-8").strip() if file else "")


def _expiry(token: str) -> float | None:
    """When a token says that it ends, in seconds since 1970; None where it does not say."""
    try:
        part = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def subject(plan: Plan) -> Subject:
    """The checks of Kubeflow Pipelines."""
    kubeflow = KubeflowPipelines(plan)
    return Subject(
        "Kubeflow Pipelines",
        [
            Check("the server", kubeflow.reached),
            Check("token", kubeflow.token_accepted),
            Check("namespace", kubeflow.namespace_allowed),
            Check("pipeline", kubeflow.pipeline_known),
            Check("schedules", kubeflow.schedules_whole),
        ],
        door=True,
    )
