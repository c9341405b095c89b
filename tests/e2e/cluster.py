"""A cluster around the steps of a run: the Kubernetes API, and KServe, whose pods are containers of this machine."""

from __future__ import annotations

import json
import secrets as random_source
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.test_deploy import RIGHTS
from tests.cluster.trainer import tls
from tests.e2e.pods import Namespace, PredictorPod
from tests.stand_ins.kserve_controller import Controller
from tests.stand_ins.kubernetes_api import KubernetesApi
from tests.stand_ins.kubernetes_server import KubernetesServer

NAMESPACE: Final = "mistere"


@dataclass(frozen=True)
class Cluster:
    """The running cluster."""

    api: KubernetesApi
    namespace: Namespace

    def describe(self, path: Path) -> None:
        """Write what :func:`tests.e2e.compiled_pipeline.read_namespace` reads; without the secrets."""
        namespace = self.namespace
        content = {
            "label": namespace.label,
            "folder": str(namespace.folder),
            "config_maps": namespace.config_maps,
            "account": str(namespace.account),
            "api_port": namespace.api_port,
        }
        path.write_text(json.dumps(content), encoding="utf-8")

    def served(self, service: str) -> dict[str, Any]:
        """The ready pod of an InferenceService.

        Raises:
            LookupError: it has none.
        """
        selector = "serving.kserve.io/inferenceservice"
        ready = {"type": "Ready", "status": "True"}
        for pod in self.api.all("pods"):
            if pod["metadata"]["labels"].get(selector) == service and ready in pod["status"]["conditions"]:
                return pod
        raise LookupError(f"the InferenceService {service} has no ready pod.")


@contextmanager
def running(
    folder: Path,
    label: str,
    secrets: Mapping[str, Mapping[str, str]],
    config_maps: Mapping[str, Mapping[str, str]],
) -> Iterator[Cluster]:
    """Start the cluster.

    Args:
        folder: for the service account, the certificates and the pods' volumes.
        label: marks the containers.
        secrets: of the namespace.
        config_maps: of the namespace.
    """
    account, certificates, volumes = folder / "serviceaccount", folder / "certificates", folder / "volumes"
    for path in (account, certificates, volumes):
        path.mkdir()
    api, token = KubernetesApi((NAMESPACE,)), random_source.token_hex(16)
    api.tokens = {token: RIGHTS}  # the pipeline's service account, no administrator
    server = KubernetesServer(api, tls(certificates))
    shutil.copy(certificates / "ca.crt", account)
    (account / "token").write_text(token, encoding="utf-8")
    (account / "namespace").write_text(NAMESPACE, encoding="utf-8")
    namespace = Namespace(label, volumes, secrets, config_maps, account, server.port)

    def start(_: dict[str, Any], address: str) -> PredictorPod:
        return PredictorPod(next(pod for pod in api.all("pods") if pod["status"].get("podIP") == address), namespace)

    controller = Controller(api, start)
    try:
        yield Cluster(api, namespace)
    finally:
        controller.stop()
        server.stop()
