"""The ``deployment`` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from mistere.common.errors import UsageError
from mistere.common.public_keys import parse_public_keys, pem
from mistere.common.secrets.redaction import is_secret_name
from mistere.config.base import AUTO, OBJECT_NAME, AutomaticQuantity, Quantity, Section, Toleration
from mistere.config.canary import CanaryConfig, GatewayConfig
from mistere.config.pod_environment import Environment, EnvironmentReference, check_authorities
from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import check_variables, is_option, with_variables

Mode = Literal["local", "standard", "knative"]
SMALLEST: Final = {"cache": "8Gi", "memory": "2Gi", "memory_limit": "4Gi"}
"""What ``auto`` means at least, for each setting that may be ``auto``."""
_KNATIVE_SECONDS: Final = 300


def _normalized_keys(text: str) -> str:
    """Public keys in PEM's own form; what is none is refused before a run starts. A path is none: pods have other files."""
    if not text:
        return ""
    try:
        return "".join(pem(key).decode() for key in parse_public_keys(text, "it"))
    except UsageError as error:
        raise ValueError(str(error).removesuffix(".")) from error


class DeploymentConfig(Section):
    """The inference service and its smoke test.

    Attributes:
        service: name of the service, and of the model in the endpoint's paths.
        namespace: namespace of the InferenceService.
        mode: ``local``: a pointer in the store that ``mistere serve`` follows, which a run on a cluster refuses; ``standard`` and
            ``knative``: an InferenceService in that mode of KServe, which needs a store in S3. The settings from here to ``env``
            apply to those two only. ``mistere run`` uses ``local`` whatever the profile names.
        min_replicas: minimum number of pods; 0 (Knative only) scales to zero.
        max_replicas: maximum number of pods.
        scale_metric: autoscaling metric: ``cpu`` or ``memory`` (Standard), ``concurrency`` or ``rps`` (Knative); empty for the
            mode's default.
        scale_target: target value of that metric per pod, for ``cpu`` and ``memory`` a percentage of the request; 0 for KServe's
            default, which ``memory`` lacks.
        cpu: CPU request of a pod, cores.
        cpu_limit: CPU limit of a pod, cores.
        memory: memory request of a pod; ``auto`` follows from the bundle's weights, the device and ``predictor.dtype``.
        memory_limit: memory limit of a pod; ``auto`` likewise.
        gpus: GPUs of a pod.
        gpu_type: the extended resource for GPUs.
        node_selector: labels of the nodes for the pods.
        tolerations: tolerations of the pods.
        canary_percent: percentage of the requests that the new model gets first (Knative only); 0 disables the canary.
        canary_seconds: duration of the canary, seconds; the pods must not restart during it.
        gateway: the Gateway that passes requests on (``standard`` only). With its name, a release gives the new model shares of the
            requests first.
        canary: these shares, and the live checks between them; only with a Gateway.
        storage_secret: secret with the keys of ``cluster.storage_secret``, for the pod; others in it are ignored. Empty if the service
            account's identity can read the store.
        image_pull_secret: secret for the image's registry; empty for none.
        cache: size limit of the pod's cache, which holds the model's files; ``auto`` follows from their sizes.
        cache_claim: a PersistentVolumeClaim (ReadWriteMany) in the service's namespace that holds the cache, so that a new pod need
            not download large models again; empty for a cache that ends with the pod.
        env: variables of the pod, each a text, ``{secret: NAME, key: KEY}`` or ``{config_map: NAME, key: KEY}`` in the service's namespace;
            those of ``cluster.env`` are added. A secret is never a text.
        bundle_key: public keys (PEM text, one or several blocks); a bundle is deployed and served only if one of them signed it.
            Empty for no check.
        image_key: public keys (PEM text); the predictor's image is deployed, by its digest, only if one of them signed it with
            cosign. Empty for no check; only for ``standard`` and ``knative``.
        traffic: write statistics of the answers, which hold no text, recording or vector, to the store of the bundle for ``mistere monitor``.
            The predictor's identity must then be allowed to write below ``traffic/`` there. Short for ``predictor.traffic_store: bundle``.
        predictor: options of the model server. Variables ``MISTERE_PREDICTOR_…`` in ``env`` that are texts set those which have their
            defaults here.
        shadow: copy a share of the requests to the predictor that `mistere shadow start` runs beside the deployed one (``standard`` only).
            The predictor's identity must then be allowed to write below ``shadow/`` in the store of the bundle. Short for
            ``predictor.shadow`` with its address.
        other_inputs: release a model that does not understand the requests of the deployed model's clients, because it takes vectors instead of
            texts and recordings, or other vectors. Otherwise such a release ends with an error, and the deployed model stays.
        request_timeout: seconds after which what passes requests on ends one, and a stream of live audio likewise. 0: never in Standard mode; after
            300 s, its own default, in Knative mode, which has no "never" and takes at most 600 s as it is installed.
        ready_timeout: time limit until the predictor is ready, seconds; on a cluster at least 60 s and the time of a download
            of the bundle at 40 MiB/s.
        tolerance: largest allowed difference between the endpoint's and the offline probabilities.
        half_tolerance: the same if the offline vectors or those of the predictor are computed in half precision, or with ``int8``.
    """

    service: str = Field(default="mistere", pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
    namespace: str = Field(default="mistere", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    mode: Mode = "local"
    min_replicas: int = Field(default=1, ge=0, le=1000)
    max_replicas: int = Field(default=2, ge=1, le=1000)
    scale_metric: Literal["", "cpu", "memory", "concurrency", "rps"] = ""
    scale_target: int = Field(default=0, ge=0, validate_default=True)
    cpu: Quantity = "1"
    cpu_limit: Quantity = "2"
    memory: AutomaticQuantity = AUTO
    memory_limit: AutomaticQuantity = AUTO
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    canary_percent: int = Field(default=0, ge=0, lt=100)
    canary_seconds: float = Field(default=300.0, ge=0)
    gateway: GatewayConfig = GatewayConfig()
    canary: CanaryConfig = CanaryConfig()
    storage_secret: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    image_pull_secret: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    cache: AutomaticQuantity = AUTO
    cache_claim: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    env: Environment = Field(default_factory=dict)
    bundle_key: Annotated[str, AfterValidator(_normalized_keys)] = ""
    image_key: Annotated[str, AfterValidator(_normalized_keys)] = ""
    traffic: bool = False
    predictor: PredictorConfig = PredictorConfig()
    shadow: bool = False
    other_inputs: bool = False
    request_timeout: int = Field(default=0, ge=0, le=7 * 86400)
    ready_timeout: float = Field(default=120.0, gt=0)
    tolerance: float = Field(default=1e-4, gt=0)
    half_tolerance: float = Field(default=0.02, gt=0)

    model_config = ConfigDict(hide_input_in_errors=True)  # an error about `env` would quote the value of a secret

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, env: dict[str, str | EnvironmentReference]) -> dict[str, str | EnvironmentReference]:
        for name, value in env.items():
            if is_secret_name(name) and not (isinstance(value, EnvironmentReference) and value.secret):
                raise ValueError(f"{name} looks like a secret: write {{secret: NAME, key: KEY}}, never its value")
        check_authorities(env)
        check_variables(env)
        return env

    @field_validator("scale_target")
    @classmethod
    def _memory_has_a_target(cls, target: int, info: ValidationInfo) -> int:
        """KServe 0.20 gives an autoscaler for memory no target, and Kubernetes then scales by the CPU."""
        if info.data.get("scale_metric") == "memory" and not target:
            raise ValueError("scale_metric memory needs a target, a percentage of the memory request")
        return target

    @property
    def is_exact(self) -> bool:
        """Whether the predictor's encoders compute in float32, as in an evaluation in float32."""
        has_gpu = self.mode == "local" or self.gpus > 0  # a machine may have one
        is_half = self.predictor.dtype == "auto" and self.predictor.device != "cpu" and has_gpu
        return self.predictor.dtype in ("auto", "float32") and not is_half and not self.predictor.int8

    @property
    def request_seconds(self) -> int:
        """Seconds after which a request is ended on its way to the predictor; 0 for never.

        KServe passes its timeout on to Knative, where 0 means the default, 300 s (knative/serving, pkg/apis/serving/v1/revision_defaults.go).
        """
        return self.request_timeout or (_KNATIVE_SECONDS if self.mode == "knative" else 0)

    def with_amounts(self, amounts: Mapping[str, Any] | None = None) -> DeploymentConfig:
        """The section with amounts in place of ``auto``; the smallest ones for those that are not given."""
        smallest = {name: value for name, value in SMALLEST.items() if getattr(self, name) == AUTO}
        return self.model_copy(update={**smallest, **(amounts or {})})

    @model_validator(mode="after")
    def _variables_are_options(self) -> DeploymentConfig:
        """Take the predictor's variables for its options, so that all that follows from an option follows from its variable, too."""
        variables = {name: value for name, value in self.env.items() if isinstance(value, str) and is_option(name)}
        if variables:
            # The section is frozen once it is validated.
            object.__setattr__(self, "predictor", with_variables(self.predictor, variables))
            object.__setattr__(self, "env", {name: value for name, value in self.env.items() if name not in variables})
        return self

    @model_validator(mode="after")
    def _in_order(self) -> DeploymentConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self
