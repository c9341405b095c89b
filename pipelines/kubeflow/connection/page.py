"""The address of a run's page in the user interface of Kubeflow Pipelines."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from urllib3 import PoolManager

UI_VARIABLE: Final = "KFP_UI_ENDPOINT"
_FORWARDED: Final = "http://localhost:8080"
_HINT: Final = (
    "run `kubectl --namespace {namespace} port-forward service/ml-pipeline-ui 8080:80` to open this page, or name the address of the "
    f"user interface in {UI_VARIABLE} or cluster.ui"
)


def chosen_ui(setting: str) -> str:
    """The address of the user interface: the environment's, else the setting's; empty for the host's own."""
    return (os.environ.get(UI_VARIABLE) or setting).rstrip("/")


class RunPages:
    """The pages of runs.

    Behind Kubeflow's gateway (``https://…/pipeline``), and through the service ``ml-pipeline-ui``, the pages have the address of the
    API. The API server itself (``ml-pipeline``, port 8888) serves no pages and answers 404 at its root.

    Args:
        host: the address of the API.
        ui: the address of the user interface; empty if it is unknown.
        http: sends the request that tells whether the host serves pages.
        timeout: seconds for that request.
        namespace: of Kubeflow Pipelines itself.
    """

    def __init__(self, host: str, ui: str, http: PoolManager, timeout: float, namespace: str) -> None:
        self._host, self._ui, self._http, self._timeout, self._namespace = host, ui, http, timeout, namespace

    def address(self, run_id: str) -> str:
        """The address of a run's page."""
        base = self._ui or (self._host if self._host_has_pages else _FORWARDED)
        return f"{base}/#/runs/details/{run_id}"

    @property
    def hint(self) -> str:
        """What a person must do before the address works; empty if nothing."""
        return "" if self._ui or self._host_has_pages else _HINT.format(namespace=self._namespace)

    @cached_property
    def _host_has_pages(self) -> bool:
        from urllib3.exceptions import HTTPError

        try:
            answer = self._http.request("GET", f"{self._host}/", timeout=self._timeout, redirect=False, retries=False)
        except HTTPError:
            return True
        return int(answer.status) != 404
