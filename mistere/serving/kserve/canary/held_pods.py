"""Keep the pods of a service while a candidate has its requests, so that it can take all of them back at once.

An autoscaler would remove pods from a service that gets fewer requests. So its minimum is raised to the pods that it has; the candidate's
annotation says what the minimum was, for whoever ends the canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import FIELD_MANAGER, KubernetesApi
from mistere.kubernetes.managed_fields import applied_by
from mistere.serving.kserve.inference_service import candidate_name
from mistere.serving.kserve.live_service import service_path, workload_path

_MINIMUM: Final = "mistere/service-min-replicas"


@dataclass(frozen=True)
class HeldPods:
    """The number of pods of a service beside its candidate.

    Attributes:
        api: client of the cluster.
        config: the ``deployment`` section.
    """

    api: KubernetesApi
    config: DeploymentConfig

    def replicas(self) -> int:
        """How many pods the service or its candidate has now, whichever has more."""
        names = self.config.service, candidate_name(self.config.service)
        workloads = [self.api.get(workload_path(self.config, name)) or {} for name in names]
        return max(int(workload.get("spec", {}).get("replicas", 0)) for workload in workloads)

    def noted(self, candidate: dict[str, Any]) -> dict[str, Any]:
        """A candidate's manifest with the service's minimum, which an earlier share of the same canary may have noted already."""
        minimum = self._noted()
        if minimum is None:
            minimum = _minimum(self._service() or {})
        metadata = candidate["metadata"]
        annotations = {**metadata["annotations"], _MINIMUM: str(minimum)}
        return {**candidate, "metadata": {**metadata, "annotations": annotations}}

    def before_hold(self, service: dict[str, Any]) -> dict[str, Any]:
        """A service as it was before an earlier share of the same canary has raised its minimum."""
        minimum = self._noted()
        return service if minimum is None else _with_minimum(service, minimum)

    def hold(self, replicas: int) -> None:
        """Raise the service's minimum to a number of pods, as far as its maximum allows."""
        service = self._service()
        if service is not None:
            self._set(service, max(_minimum(service), min(replicas, service["spec"]["predictor"]["maxReplicas"])))

    def kept(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A manifest of the service with the live minimum, if that is higher and its maximum allows."""
        most = manifest.get("spec", {}).get("predictor", {}).get("maxReplicas")
        if most is None:  # of a service that this project did not write
            return manifest
        return _with_minimum(manifest, max(_minimum(manifest), min(_minimum(self._service() or {}), most)))

    def release(self) -> None:
        """Give the service the minimum that the candidate notes, before the candidate is deleted."""
        service, minimum = self._service(), self._noted()
        if service is not None and minimum is not None:
            self._set(service, minimum)

    def _set(self, service: dict[str, Any], minimum: int) -> None:
        if _minimum(service) != minimum:
            manifest = _with_minimum(applied_by(FIELD_MANAGER, service), minimum)
            self.api.apply(service_path(self.config, self.config.service), manifest, force=True)

    def _service(self) -> dict[str, Any] | None:
        return self.api.get(service_path(self.config, self.config.service))

    def _noted(self) -> int | None:
        candidate = self.api.get(service_path(self.config, candidate_name(self.config.service))) or {}
        text = (candidate.get("metadata", {}).get("annotations") or {}).get(_MINIMUM, "")
        return int(text) if text.isdecimal() else None


def _minimum(service: dict[str, Any]) -> int:
    return int(service.get("spec", {}).get("predictor", {}).get("minReplicas", 1))


def _with_minimum(service: dict[str, Any], minimum: int) -> dict[str, Any]:
    spec = service["spec"]
    return {**service, "spec": {**spec, "predictor": {**spec["predictor"], "minReplicas": minimum}}}
