"""The ``deployment`` section."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mistere.config.base import OBJECT_NAME, QUANTITY, Section, Toleration

Mode = Literal["local", "standard", "knative"]

_SECRET_LIKE = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)


def _nothing_secret(name: str) -> str:
    if _SECRET_LIKE.search(name):
        raise ValueError("this looks like a secret: put it into a Secret, and name that as storage_secret")
    return name


class DeploymentConfig(Section):
    """The inference service and its smoke test.

    Attributes:
        service: its name, and the model's in the endpoint's paths.
        namespace: of the InferenceService.
        mode: ``local``: a pointer in the store that ``mistere serve`` follows; ``standard`` and ``knative``: an InferenceService in
            that mode of KServe, for a store in S3. All settings from here to ``env`` are for those two.
        min_replicas: pods at least; 0, with Knative only, lets it scale to nothing.
        max_replicas: pods at most.
        scale_metric: what pods are added by: ``cpu`` or ``memory`` (Standard), ``concurrency`` or ``rps`` (Knative); empty for the
            mode's own.
        scale_target: of that metric, a pod; 0 for KServe's own.
        cpu: cores requested.
        cpu_limit: cores at most.
        memory: requested.
        memory_limit: at most.
        gpus: of one pod.
        gpu_type: the extended resource that counts them.
        node_selector: labels of the nodes it may run on.
        tolerations: taints of them.
        canary_percent: share of the requests that the new model gets first; 0 for none.
        canary_seconds: how long it keeps that share, without a restart, before it gets all of them.
        storage_secret: its keys become the pod's environment, as the steps' ``cluster.storage_secret``; empty where the
            service account's identity opens the store.
        image_pull_secret: for the image's registry; empty for none.
        env: further environment of the pod. What is secret belongs into the secret.
        ready_timeout: seconds until the predictor must be ready.
        tolerance: between the endpoint's and the offline probabilities.
        half_tolerance: the same where the offline vectors were made in half precision.
    """

    service: str = Field(default="mistere", pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
    namespace: str = Field(default="mistere", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    mode: Mode = "local"
    min_replicas: int = Field(default=1, ge=0, le=1000)
    max_replicas: int = Field(default=2, ge=1, le=1000)
    scale_metric: Literal["", "cpu", "memory", "concurrency", "rps"] = ""
    scale_target: int = Field(default=0, ge=0)
    cpu: str = Field(default="1", pattern=QUANTITY)
    cpu_limit: str = Field(default="2", pattern=QUANTITY)
    memory: str = Field(default="2Gi", pattern=QUANTITY)
    memory_limit: str = Field(default="4Gi", pattern=QUANTITY)
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    canary_percent: int = Field(default=0, ge=0, lt=100)
    canary_seconds: float = Field(default=300.0, ge=0)
    storage_secret: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    image_pull_secret: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    env: dict[Annotated[str, AfterValidator(_nothing_secret)], str] = Field(default_factory=dict)
    ready_timeout: float = Field(default=120.0, gt=0)
    tolerance: float = Field(default=1e-4, gt=0)
    half_tolerance: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> DeploymentConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self
