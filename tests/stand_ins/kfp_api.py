"""A stand-in for the API server of Kubeflow Pipelines 2.17.0 (v2beta1): pipelines, versions, experiments, runs and schedules.

The shapes are those of ``kfp_server_api``'s models in both directions: a response is a model, and a request with a field that its
model does not have is refused. Names are unique where the server keeps them unique, lists are paged, a missing object is 404 and
an existing one 409, with the server's bodies. Errors are injected with :class:`Trouble`. Where a test depends on an answer, the
comment beside it names the file of the server (``backend/src/apiserver/``) that gives it.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from functools import cache
from typing import Any

import kfp_server_api as models

from tests.stand_ins.json_server import RefusalError, Trouble, listening
from tests.yaml_documents import documents

__all__ = ["KfpApi", "Trouble", "kubernetes_is_away", "served"]

PREFIX = "/apis/v2beta1"
PARAMETER_BYTES = 10_000
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14, 504: 4}
_KINDS: dict[str, Any] = {
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
_PLAIN = models.ApiClient().sanitize_for_serialization


def kubernetes_is_away(times: int, method: str = "GET", path: str = "") -> Trouble:
    """An outage of the Kubernetes API for a number of requests: the TokenReview fails, and every token is refused with 401."""
    # auth/authenticator_token_review.go: doTokenReview wraps the failed request with NewUnauthenticatedError.
    message = "Authentication failure: Request header error: Failed to review the token provided"
    body = {"error": message, "code": _GRPC[401], "message": message, "details": []}
    return Trouble(method, path, 401, times=times, body=json.dumps(body))


@dataclass
class KfpApi:
    """The server's state and its switches.

    Attributes:
        forbidden: namespaces in which the account may do nothing.
        no_versions: namespaces in which the account may create everything but pipelines and their versions.
        serves_pages: whether this is the address of the user interface, which passes on requests to the API.
        stopping_reads: how often a stopped run is still read as CANCELING.
    """

    multi_user: bool = True
    token: str = ""
    forbidden: set[str] = field(default_factory=set)
    no_versions: set[str] = field(default_factory=set)
    serves_pages: bool = False
    stopping_reads: int = 2
    troubles: list[Trouble] = field(default_factory=list)
    clock: float = 0.0
    page_limit: int = 200
    on_start: Callable[[models.V2beta1Run], None] | None = None
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    pipelines: dict[str, models.V2beta1Pipeline] = field(default_factory=dict)
    versions: dict[str, models.V2beta1PipelineVersion] = field(default_factory=dict)
    experiments: dict[str, models.V2beta1Experiment] = field(default_factory=dict)
    runs: dict[str, models.V2beta1Run] = field(default_factory=dict)
    schedules: dict[str, models.V2beta1RecurringRun] = field(default_factory=dict)
    _clock: int = 0
    _stopping: dict[str, int] = field(default_factory=dict)

    prefix = PREFIX

    def outside(self, path: str) -> tuple[int, str, str]:
        """The response to a request outside the API: status, body and content type."""
        if self.serves_pages and path == "/":
            return 200, "<html><title>Kubeflow Pipelines</title></html>", "text/html"
        return 404, "404 page not found\n", "text/plain; charset=utf-8"  # main.go: the mux has no route for other paths

    def refusal(self, error: RefusalError, path: str) -> Any:
        """The body of an error response; uploads have their own form (server/pipeline_upload_server.go: writeErrorToResponse)."""
        if "/upload" in path:
            return {"error_message": str(error), "error_details": f"{error}: {error}"}
        return {"error": str(error), "code": _GRPC.get(error.status, 2), "message": str(error), "details": []}

    def now(self) -> datetime.datetime:
        """A timestamp that increases with every object, as the server's does."""
        self._clock += 1
        return datetime.datetime.fromtimestamp(1.8e9 + self._clock, datetime.UTC)

    def fire(self, schedule: models.V2beta1RecurringRun) -> models.V2beta1Run:
        """Start a due run of a schedule, as the scheduler does."""
        body = models.V2beta1Run(
            display_name=f"{schedule.display_name}-{self._clock}",
            experiment_id=schedule.experiment_id,
            pipeline_version_reference=schedule.pipeline_version_reference,
            runtime_config=schedule.runtime_config,
            service_account=schedule.service_account,
            recurring_run_id=schedule.recurring_run_id,
        )
        return self._start(body)

    def _namespace(self, requested: str | None) -> str:
        namespace = (requested or "") if self.multi_user else ""
        if namespace in self.forbidden:
            raise RefusalError(403, f"User 'ann@example.org' is not authorized to act in namespace {namespace}")
        if self.multi_user and not namespace:
            raise RefusalError(400, "Invalid input error: a namespace is needed in multi-user mode")
        return namespace

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        """Return the response as plain data."""
        for verb, pattern, operation in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return operation(self, *match.groups(), query=query, body=body, kind=content_type)
        raise RefusalError(404, "Not Found")

    def _healthz(self, **_: Any) -> Any:
        return _PLAIN(models.V2beta1GetHealthzResponse(multi_user=self.multi_user))

    def _list_pipelines(self, query: dict[str, str], **_: Any) -> Any:
        namespace = self._namespace(query.get("namespace"))
        return self._page([p for p in self.pipelines.values() if p.namespace == namespace], "pipelines", query)

    def _create_pipeline(self, body: bytes, **_: Any) -> Any:
        pipeline = _model(models.V2beta1Pipeline, body)
        pipeline.namespace = self._namespace(pipeline.namespace)
        _unique(self.pipelines.values(), pipeline, "display_name", "namespace")
        pipeline.pipeline_id, pipeline.created_at = str(uuid.uuid4()), self.now()
        pipeline.name = pipeline.name or pipeline.display_name
        self.pipelines[pipeline.pipeline_id] = pipeline
        return _PLAIN(pipeline)

    def _upload_version(self, query: dict[str, str], body: bytes, kind: str, **_: Any) -> Any:
        # server/pipeline_upload_server.go: every refused upload, also one that is denied, is 400 with this sentence and no reason.
        refused = RefusalError(400, "Failed to create a pipeline version")
        pipeline = self.pipelines.get(query.get("pipelineid", ""))
        if pipeline is None or pipeline.namespace in self.no_versions:
            raise refused
        parts = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        files = [part for part in parts.walk() if 'name="uploadfile"' in str(part["Content-Disposition"])]
        if len(files) != 1:
            raise refused
        documents = _documents(bytes(files[0].get_payload(decode=True)))
        spec = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        if "pipelineInfo" not in documents[0]:
            raise refused
        name = query.get("name") or pipeline.display_name
        version = models.V2beta1PipelineVersion(
            pipeline_id=pipeline.pipeline_id,
            display_name=query.get("display_name") or name,
            name=name,
            description=query.get("description"),
            pipeline_spec=spec,
        )
        _unique(self.versions.values(), version, "name", "pipeline_id")
        version.pipeline_version_id, version.created_at = str(uuid.uuid4()), self.now()
        self.versions[version.pipeline_version_id] = version
        return _PLAIN(version)

    def _create_version(self, pipeline_id: str, body: bytes, **_: Any) -> Any:
        """Create a version from a URL, in the order of server/pipeline_server.go: URL named, rights, URL valid."""
        version = _model(models.V2beta1PipelineVersion, body)
        if not (version.package_url or {}).get("pipeline_url"):
            raise RefusalError(400, "Failed to create a pipeline version. Package URL is empty")
        pipeline = _find(self.pipelines, pipeline_id, "Pipeline")
        if pipeline.namespace in self.no_versions:
            raise RefusalError(
                403,
                "Failed to create a pipeline version due authorization error for pipeline id "
                f"{pipeline_id}: PermissionDenied: User 'ann@example.org' is not authorized with reason",
            )
        raise RefusalError(400, "Failed to create a pipeline version due to invalid pipeline spec URI")

    def _list_versions(self, pipeline_id: str, query: dict[str, str], **_: Any) -> Any:
        _find(self.pipelines, pipeline_id, "Pipeline")
        versions = [version for version in self.versions.values() if version.pipeline_id == pipeline_id]
        return self._page(versions, "pipeline_versions", query)

    def _get_version(self, pipeline_id: str, version_id: str, **_: Any) -> Any:
        version = _find(self.versions, version_id, "PipelineVersion")
        if version.pipeline_id != pipeline_id:
            raise RefusalError(400, "the version is not of that pipeline")
        return _PLAIN(version)

    def _list_experiments(self, query: dict[str, str], **_: Any) -> Any:
        namespace = self._namespace(query.get("namespace"))
        return self._page([e for e in self.experiments.values() if e.namespace == namespace], "experiments", query)

    def _create_experiment(self, body: bytes, **_: Any) -> Any:
        experiment = _model(models.V2beta1Experiment, body)
        experiment.namespace = self._namespace(experiment.namespace)
        _unique(self.experiments.values(), experiment, "display_name", "namespace")
        experiment.experiment_id, experiment.created_at = str(uuid.uuid4()), self.now()
        experiment.storage_state = "AVAILABLE"
        self.experiments[experiment.experiment_id] = experiment
        return _PLAIN(experiment)

    def _list_runs(self, query: dict[str, str], **_: Any) -> Any:
        namespace = self._namespace(query.get("namespace"))
        inside = [run for run in self.runs.values() if self.experiments[run.experiment_id].namespace == namespace]
        return self._page(inside, "runs", query)

    def _create_run(self, body: bytes, **_: Any) -> Any:
        return _PLAIN(self._start(_model(models.V2beta1Run, body)))

    def _start(self, run: models.V2beta1Run) -> models.V2beta1Run:
        self._check(run)
        run.run_id, run.created_at, run.state = str(uuid.uuid4()), self.now(), "PENDING"
        run.storage_state, run.run_details = "AVAILABLE", models.V2beta1RunDetails(task_details=[])
        self.runs[run.run_id] = run
        if self.on_start:
            threading.Thread(target=self.on_start, args=(run,), daemon=True).start()
        return run

    def _check(self, body: models.V2beta1Run | models.V2beta1RecurringRun) -> None:
        """Check that a run or schedule names an experiment, a version or has its own pipeline, and exactly its parameters."""
        experiment = _find(self.experiments, body.experiment_id or "", "Experiment")
        self._namespace(experiment.namespace)
        package = body.pipeline_spec
        if not package:
            reference = body.pipeline_version_reference
            package = _find(self.versions, reference["pipeline_version_id"], "PipelineVersion").pipeline_spec
        spec = package.get("pipeline_spec", package)
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        passed = body.runtime_config["parameters"]
        if len(json.dumps(passed)) > PARAMETER_BYTES:
            raise RefusalError(400, f"The input parameter length exceed maximum size of {PARAMETER_BYTES}")
        # template/template.go: validatePipelineJobInputs
        for name, definition in declared.items():
            optional = "defaultValue" in definition or definition.get("isOptional")
            if name not in passed and not optional:
                raise RefusalError(
                    400,
                    f"Invalid input error: parameter {name} is not optional, yet has neither default value nor user provided value",
                )
            if name in passed and not isinstance(passed[name], _KINDS[definition["parameterType"]]):
                raise RefusalError(
                    400,
                    f"Invalid input error: input parameter {name} requires type {definition['parameterType'].lower()}, but the "
                    "parameter value is of another type",
                )
        unknown = [name for name in passed if name not in declared]
        if unknown:
            raise RefusalError(
                400, f"Invalid input error: parameter(s) provided are not required by pipeline: {', '.join(unknown)}"
            )

    def _get_run(self, run_id: str, **_: Any) -> Any:
        run = _find(self.runs, run_id, "Run")
        if self._stopping.get(run_id, 0) > 0:
            self._stopping[run_id] -= 1
        elif run_id in self._stopping:
            # A stopped workflow fails by its deadline (activeDeadlineSeconds 0), and the run's last state is that of the
            # workflow: FAILED. CANCELED never occurs (resource/resource_manager.go: TerminateRun, ReportWorkflowResource).
            del self._stopping[run_id]
            run.state = "FAILED"
        return _PLAIN(run)

    def _terminate(self, run_id: str, **_: Any) -> Any:
        """Stop a run: storage/run_store.go sets CANCELING, and the workflow gets the deadline 0."""
        _find(self.runs, run_id, "Run").state = "CANCELING"
        self._stopping[run_id] = self.stopping_reads
        return {}

    def _list_schedules(self, query: dict[str, str], **_: Any) -> Any:
        namespace = self._namespace(query.get("namespace"))
        return self._page([s for s in self.schedules.values() if s.namespace == namespace], "recurringRuns", query)

    def _create_schedule(self, body: bytes, **_: Any) -> Any:
        schedule = _model(models.V2beta1RecurringRun, body)
        self._check(schedule)
        if len(schedule.trigger["cron_schedule"]["cron"].split()) != 6:
            raise RefusalError(400, "Invalid input error: the cron expression is invalid")
        if not 1 <= int(schedule.max_concurrency) <= 10:
            raise RefusalError(400, "Invalid input error: max_concurrency must be at least 1 and at most 10")
        schedule.recurring_run_id, schedule.created_at = str(uuid.uuid4()), self.now()
        schedule.namespace = self.experiments[schedule.experiment_id].namespace
        schedule.status = "ENABLED" if schedule.mode == "ENABLE" else "DISABLED"
        self.schedules[schedule.recurring_run_id] = schedule
        return _PLAIN(schedule)

    def _get_schedule(self, schedule_id: str, **_: Any) -> Any:
        return _PLAIN(_find(self.schedules, schedule_id, "RecurringRun"))

    def _delete_schedule(self, schedule_id: str, **_: Any) -> Any:
        _find(self.schedules, schedule_id, "RecurringRun")
        del self.schedules[schedule_id]
        return {}

    def _switch(self, schedule_id: str, operation: str, **_: Any) -> Any:
        schedule = _find(self.schedules, schedule_id, "RecurringRun")
        schedule.mode, schedule.status = operation.upper(), f"{operation.upper()}D"
        return {}

    def _page(self, listed: list[Any], name: str, query: dict[str, str]) -> Any:
        chosen = [_PLAIN(item) for item in listed]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] not in ("display_name", "name"):
                raise RefusalError(400, f"Invalid input error: this filter is not supported: {predicate}")
            chosen = [item for item in chosen if item.get(predicate["key"]) == predicate["stringValue"]]
        start = int(base64.b64decode(query["page_token"])) if query.get("page_token") else 0
        size = min(int(query.get("page_size") or 20), self.page_limit)
        answer: dict[str, Any] = {"total_size": len(chosen), name: chosen[start : start + size]}
        if start + size < len(chosen):
            answer["next_page_token"] = base64.b64encode(str(start + size).encode()).decode()
        return {key: value for key, value in answer.items() if value}


@cache
def _documents(package: bytes) -> list[Any]:
    """A package's YAML; the tests upload the same one again and again."""
    return documents(package.decode())


def _model(kind: Any, body: bytes) -> Any:
    """A request's body; nested models stay plain."""
    plain = json.loads(body)
    names = {json_name: attribute for attribute, json_name in kind.attribute_map.items()}
    for key in plain:
        if key not in names:
            raise RefusalError(400, f'unknown field "{key}" in {kind.__name__}')
    return kind(**{names[key]: value for key, value in plain.items()})


def _find(objects: dict[str, Any], key: str, kind: str) -> Any:
    if key not in objects:
        raise RefusalError(404, f"ResourceNotFoundError: {kind} {key} not found.")
    return objects[key]


def _unique(objects: Any, new: Any, *keys: str) -> None:
    if any(all(getattr(item, key) == getattr(new, key) for key in keys) for item in objects):
        raise RefusalError(409, f"Already exist error: {getattr(new, keys[0])} already exists")


_ID = "([^/:]+)"
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/healthz", KfpApi._healthz),
    ("GET", "/pipelines", KfpApi._list_pipelines),
    ("POST", "/pipelines", KfpApi._create_pipeline),
    ("POST", "/pipelines/upload_version", KfpApi._upload_version),
    ("GET", f"/pipelines/{_ID}/versions", KfpApi._list_versions),
    ("POST", f"/pipelines/{_ID}/versions", KfpApi._create_version),
    ("GET", f"/pipelines/{_ID}/versions/{_ID}", KfpApi._get_version),
    ("GET", "/experiments", KfpApi._list_experiments),
    ("POST", "/experiments", KfpApi._create_experiment),
    ("GET", "/runs", KfpApi._list_runs),
    ("POST", "/runs", KfpApi._create_run),
    ("GET", f"/runs/{_ID}", KfpApi._get_run),
    ("POST", f"/runs/{_ID}:terminate", KfpApi._terminate),
    ("GET", "/recurringruns", KfpApi._list_schedules),
    ("POST", "/recurringruns", KfpApi._create_schedule),
    ("GET", f"/recurringruns/{_ID}", KfpApi._get_schedule),
    ("DELETE", f"/recurringruns/{_ID}", KfpApi._delete_schedule),
    ("POST", f"/recurringruns/{_ID}:(enable|disable)", KfpApi._switch),
]


@contextmanager
def served(api: KfpApi) -> Iterator[KfpApi]:
    """Serve the API on a local port."""
    with listening(api) as api.url:
        yield api
