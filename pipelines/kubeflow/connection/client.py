"""Kubeflow Pipelines through kfp's client: idempotent creation, paged listing, and every error as one sentence."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.environment import trusted_authorities
from mistere.common.errors import UsageError
from mistere.config.cluster import KUBEFLOW_NAMESPACE
from pipelines.kubeflow.connection.access import TOKEN_VARIABLE, service_account_token
from pipelines.kubeflow.connection.failures import (
    CLOCK_SECONDS,
    AlreadyExistsError,
    NotFoundError,
    PipelinesError,
    UnavailableError,
    check_clock,
    is_json,
    no_api,
    refused,
    unanswered,
    upload_refused,
)
from pipelines.kubeflow.connection.page import RunPages
from pipelines.kubeflow.connection.token import current_token

if TYPE_CHECKING:
    from kfp_server_api import (
        V2beta1Experiment,
        V2beta1Pipeline,
        V2beta1PipelineVersion,
        V2beta1RecurringRun,
        V2beta1Run,
    )

_NO_NAMESPACE: Final = "-"
"""Without a namespace, kfp's client requests one from the server on creation, and logs stack traces while it retries."""
_PAGE: Final = 100
OUTAGE_SECONDS: Final = 120.0
"""While the Kubernetes API restarts, Kubeflow Pipelines answers 401 to everybody, because it cannot review tokens."""
_LONGEST_PAUSE: Final = 15.0
_NO_PACKAGE: Final = "none"
"""Not a URL: the server refuses such a package after it has checked the account's rights, and creates nothing."""


class Pipelines:
    """One namespace of Kubeflow Pipelines.

    The token comes from ``KFP_TOKEN``, or from the service account's file where kfp looks for it
    (``KF_PIPELINES_SA_TOKEN_PATH``); kfp's own settings (``~/.config/kfp``) apply too. Requests that change nothing are retried
    while the server fails; a request that creates an object is retried only after a lookup shows that the object is missing.

    Args:
        host: the address, with its scheme.
        namespace: of the runs; a single-user server ignores it.
        backoff: seconds before the second retry; doubled for each further one.
        timeout: seconds to connect and to wait for the answer.
        retries: how often a request that changes nothing is repeated.
        clock_tolerance: seconds by which this machine's clock may differ from the server's.
        outage: seconds for which a 401 is retried while the token is valid by its own claims.
        ui: address of the user interface; empty for the host's.
        kubeflow_namespace: of Kubeflow Pipelines itself, for the commands in messages.

    Attributes:
        pages: addresses of the runs' pages.
    """

    def __init__(
        self,
        host: str,
        namespace: str,
        backoff: float = 0.5,
        timeout: tuple[float, float] = (5.0, 30.0),
        retries: int = 3,
        clock_tolerance: float = CLOCK_SECONDS,
        outage: float = OUTAGE_SECONDS,
        ui: str = "",
        kubeflow_namespace: str = KUBEFLOW_NAMESPACE,
    ) -> None:
        from kfp.client import Client
        from urllib3 import Retry

        self.host, self.namespace, self._timeout = host, namespace, timeout
        self._clock_tolerance, self._outage, self._backoff = clock_tolerance, outage, backoff
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._kfp = Client(
                    host=host,
                    namespace=_NO_NAMESPACE,
                    existing_token=os.environ.get(TOKEN_VARIABLE) or None,
                    credentials=_service_account(),
                    ssl_ca_cert=trusted_authorities(),
                )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"kfp's client cannot be created for {host} ({type(error).__name__}): fix or delete ~/.config/kfp/context.json."
            ) from error
        self._api = self._kfp._run_api.api_client
        self._api.rest_client.pool_manager.connection_pool_kw["retries"] = Retry(
            total=retries,
            connect=min(retries, 1),
            read=min(retries, 1),
            backoff_factor=backoff,
            status_forcelist=(408, 429, 500, 502, 503, 504),
            allowed_methods={"GET", "DELETE"},
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        self._clock_checked, self._kubeflow_namespace = False, kubeflow_namespace
        self.pages = RunPages(host, ui, self._api.rest_client.pool_manager, timeout[1], kubeflow_namespace)

    def pipeline(self, name: str, description: str) -> str:
        """The id of a pipeline, which is created if it does not exist."""
        from kfp_server_api import V2beta1Pipeline

        def create() -> Any:
            body = V2beta1Pipeline(display_name=name, description=description, namespace=self.namespace)
            return self._call(self._kfp.pipelines.pipeline_service_create_pipeline, body, what=f"pipeline {name!r}")

        return str((self.find_pipeline(name) or self._create(create, lambda: self.find_pipeline(name))).pipeline_id)

    def find_pipeline(self, name: str) -> V2beta1Pipeline | None:
        """A pipeline by its name; None if it does not exist."""
        listing = self._kfp.pipelines.pipeline_service_list_pipelines
        return self._find(listing, "pipelines", name, f"pipeline {name!r}", namespace=self.namespace)

    def version(self, pipeline_id: str, name: str) -> V2beta1PipelineVersion | None:
        """A version of a pipeline by its name; None if it does not exist."""
        listing = self._kfp.pipelines.pipeline_service_list_pipeline_versions
        return self._find(listing, "pipeline_versions", name, f"version {name!r}", pipeline_id=pipeline_id)

    def version_by_id(self, pipeline_id: str, version_id: str) -> V2beta1PipelineVersion | None:
        """A version of a pipeline; None if it was deleted."""
        getting = self._kfp.pipelines.pipeline_service_get_pipeline_version
        try:
            return self._call(getting, pipeline_id, version_id, what="a pipeline version")
        except NotFoundError:
            return None

    def upload(self, pipeline_id: str, name: str, description: str, package: str) -> V2beta1PipelineVersion:
        """Upload a version.

        Args:
            pipeline_id: of the pipeline.
            name: of the version.
            description: of the version.
            package: the text of the compiled pipeline.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(package, encoding="utf-8")

            def create() -> Any:
                return self._call(
                    self._kfp.pipeline_uploads.upload_pipeline_version,
                    str(file),
                    what=f"version {name!r}",
                    name=name,
                    pipelineid=pipeline_id,
                    description=description,
                )

            try:
                return self._create(create, lambda: self.version(pipeline_id, name))
            except PipelinesError as error:
                if error.status != 400:
                    raise
                self._check_upload_right(pipeline_id, name)
                raise upload_refused(error, f"version {name!r}", self.host, self._kubeflow_namespace) from error

    def _check_upload_right(self, pipeline_id: str, name: str) -> None:
        """Let the server say why it refused an upload: it answers every refused upload alike, but not this request.

        Raises:
            PipelinesError: the token, the account or the pipeline is the reason.
        """
        from kfp_server_api import V2beta1PipelineVersion, V2beta1Url

        body = V2beta1PipelineVersion(
            pipeline_id=pipeline_id, display_name=name, name=name, package_url=V2beta1Url(pipeline_url=_NO_PACKAGE)
        )
        creating = self._kfp.pipelines.pipeline_service_create_pipeline_version
        try:
            self._call(creating, pipeline_id, body, what=f"version {name!r}")
        except PipelinesError as error:
            if error.status in {401, 403, 404}:
                raise

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created if it does not exist."""
        from kfp_server_api import V2beta1Experiment

        def create() -> Any:
            body = V2beta1Experiment(display_name=name, namespace=self.namespace)
            return self._call(
                self._kfp.experiments.experiment_service_create_experiment, body, what=f"experiment {name!r}"
            )

        return str(
            (self.find_experiment(name) or self._create(create, lambda: self.find_experiment(name))).experiment_id
        )

    def find_experiment(self, name: str) -> V2beta1Experiment | None:
        """An experiment by its name; None if it does not exist."""
        listing = self._kfp.experiments.experiment_service_list_experiments
        return self._find(listing, "experiments", name, f"experiment {name!r}", namespace=self.namespace)

    def start(self, body: V2beta1Run) -> V2beta1Run:
        """Start a run; if a run of that name exists already, return that one."""
        what = f"run {body.display_name!r}"

        def create() -> Any:
            return self._call(self._kfp.runs.run_service_create_run, body, what=what)

        return self._create(create, lambda: self.run_by_name(body.display_name))

    def run(self, run_id: str, *, patient: bool = True) -> V2beta1Run:
        """A run by its id.

        Args:
            run_id: of the run.
            patient: wait for the end of an outage of the Kubernetes API; False for a caller that asks again anyway.

        Raises:
            NotFoundError: the run was deleted.
        """
        return self._call(self._kfp.runs.run_service_get_run, run_id, what=f"run {run_id}", patient=patient)

    def run_by_name(self, name: str) -> V2beta1Run | None:
        """A run by its name; None if it does not exist."""
        listing = self._kfp.runs.run_service_list_runs
        return self._find(listing, "runs", name, f"run {name!r}", namespace=self.namespace)

    def check_access(self) -> None:
        """Check that the account may see the runs of the namespace.

        Raises:
            PipelinesError: the server refuses the token or the namespace, or does not answer.
        """
        listing = self._kfp.runs.run_service_list_runs
        self._call(listing, what="access to runs", namespace=self.namespace, page_size=1)

    def stop(self, run_id: str) -> None:
        """Stop a run; its exit handler still reports."""
        self._call(self._kfp.runs.run_service_terminate_run, run_id, what=f"run {run_id}")

    def schedules(self) -> Iterator[V2beta1RecurringRun]:
        """Every recurring run of the namespace."""
        listing = self._kfp.recurring_runs.recurring_run_service_list_recurring_runs
        return self._pages(listing, "recurring_runs", "the recurring runs", namespace=self.namespace)

    def set_schedule(self, body: V2beta1RecurringRun, replaced: Collection[str] = ()) -> V2beta1RecurringRun:
        """Create a recurring run; if one with the same name and description exists already, return that one.

        Args:
            body: the recurring run.
            replaced: ids of the recurring runs that it replaces; they do not count as existing.
        """
        what, api = f"recurring run {body.display_name!r}", self._kfp.recurring_runs

        def create() -> Any:
            return self._call(api.recurring_run_service_create_recurring_run, body, what=what)

        def find() -> Any:
            same = (body.display_name, body.description)
            others = (one for one in self.schedules() if one.recurring_run_id not in replaced)
            return next((one for one in others if (one.display_name, one.description) == same), None)

        return self._create(create, find)

    def switch_schedule(self, schedule_id: str, *, enabled: bool) -> None:
        """Enable or disable a recurring run."""
        api = self._kfp.recurring_runs
        switch = (
            api.recurring_run_service_enable_recurring_run
            if enabled
            else api.recurring_run_service_disable_recurring_run
        )
        self._call(switch, schedule_id, what=f"recurring run {schedule_id}")

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run, if it still exists."""
        deleting = self._kfp.recurring_runs.recurring_run_service_delete_recurring_run
        try:
            self._call(deleting, schedule_id, what=f"recurring run {schedule_id}")
        except NotFoundError:
            return

    def _create(self, create: Callable[[], Any], find: Callable[[], Any]) -> Any:
        """Create an object once, even if another client creates it too or the answer to our own request is lost."""
        try:
            return create()
        except AlreadyExistsError:
            existing = find()
            if existing is None:
                raise
            return existing
        except UnavailableError as error:
            if error.status == 401:  # nothing was done
                raise
            return find() or create()

    def _find(self, listing: Callable[..., Any], attribute: str, name: str, what: str, **scope: str) -> Any:
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        candidates = self._pages(listing, attribute, what, filter=json.dumps(wanted), **scope)
        return next((one for one in candidates if one.display_name == name), None)

    def _pages(self, listing: Callable[..., Any], attribute: str, what: str, **scope: Any) -> Iterator[Any]:
        token, seen = "", set[str]()
        while token not in seen:
            seen.add(token)
            answer = self._call(listing, what=what, page_token=token, page_size=_PAGE, **scope)
            yield from getattr(answer, attribute) or []
            token = answer.next_page_token or ""

    def _call(
        self, operation: Callable[..., Any], *arguments: Any, what: str, patient: bool = True, **options: Any
    ) -> Any:
        """Make a request, and repeat it while the server refuses a valid token.

        Raises:
            PipelinesError: the request failed.
        """
        deadline, pause = time.monotonic() + (self._outage if patient else 0.0), self._backoff
        while True:
            try:
                return self._request(operation, *arguments, what=what, **options)
            except UnavailableError as error:
                if error.status != 401 or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _request(self, operation: Callable[..., Any], *arguments: Any, what: str, **options: Any) -> Any:
        """Make one request.

        Raises:
            PipelinesError: the request failed.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        self._api.last_response = None
        try:
            answer = operation(*arguments, **options, _request_timeout=self._timeout)
        except ApiException as error:
            raise self._refusal(error, what) from error
        except HTTPError as error:
            raise unanswered(error, self.host) from error
        except (
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # kfp's client parses every answer as the API's, even a login page
            last = self._api.last_response
            if last is None or is_json(last.getheaders()):
                raise
            raise no_api(self.host) from error
        headers = self._api.last_response.getheaders()
        if not is_json(headers):
            raise no_api(self.host)
        if not self._clock_checked:
            check_clock(headers, self.host, self._clock_tolerance)
            self._clock_checked = True
        return answer

    def _refusal(self, error: Any, what: str) -> PipelinesError:
        headers = error.headers or {}
        if error.status in {401, 403}:
            check_clock(headers, self.host, self._clock_tolerance)
        status, body = int(error.status or 0), str(error.body or "")
        return refused(status, headers, body, what, self.host, self.namespace, current_token())


def _service_account() -> Any:
    """The pod's token for Kubeflow Pipelines, if Kubernetes has mounted one."""
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

    file = service_account_token()
    return ServiceAccountTokenVolumeCredentials(str(file)) if file else None
