"""The ``cluster`` section: where and with which identity the steps run on Kubernetes. It does not change any result."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from mistere.common.environment import FORWARDED_VARIABLES, HUB_TOKEN
from mistere.common.suggestions import did_you_mean
from mistere.config.base import OBJECT_NAME as _NAME
from mistere.config.base import OptionalQuantity, Quantity, Section, Toleration
from mistere.config.pod_environment import Environment, EnvironmentReference, check_authorities
from mistere.config.stages import every_stage, split_task

KUBEFLOW_NAMESPACE: Final = "kubeflow"


class StepSettings(Section):
    """Resources of one step's pod, and the nodes that it may run on.

    Attributes:
        cpu: requested cores.
        cpu_limit: limit of cores.
        memory: requested memory, which is also its limit.
        gpus: number of GPUs.
        gpu_type: name of the extended resource that counts GPUs.
        shared_memory: size of ``/dev/shm``; empty for the node's 64 MiB.
        scratch: size of ``/tmp``, which holds the step's temporary files and caches.
        timeout: seconds after which the pod is stopped.
        retries: further attempts after a failed pod; errors of the data or of a setting fail again at once.
        node_selector: labels of the nodes that the pod may run on.
        tolerations: of taints of these nodes.
    """

    cpu: Quantity = "1"
    cpu_limit: Quantity = "2"
    memory: Quantity = "2Gi"
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    shared_memory: OptionalQuantity = ""
    scratch: Quantity = "10Gi"
    timeout: int = Field(default=3600, gt=0)
    retries: int = Field(default=2, ge=0, le=10)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class ClusterConfig(Section):
    """Names of the cluster's objects, and the resources of each step.

    Attributes:
        namespace: of the runs in Kubeflow Pipelines.
        service_account: of the steps' pods.
        kubeflow_namespace: of Kubeflow Pipelines itself, whose settings `mistere doctor` reads there.
        experiment: under which Kubeflow Pipelines lists the runs.
        host: address of Kubeflow Pipelines; ``--host`` and ``KFP_ENDPOINT`` override it.
        ui: address of Kubeflow Pipelines' user interface, for links to runs; ``KFP_UI_ENDPOINT`` overrides it; empty if ``host``
            serves it too.
        store: ``s3://bucket/prefix``; ``--store`` and ``MISTERE_STORE`` override it.
        tracking_uri: MLflow's address as pods see it; ``--tracking`` and ``MLFLOW_TRACKING_URI`` override it.
        storage_secret: secret with the keys ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and, for stores outside AWS,
            ``AWS_ENDPOINT_URL`` and ``AWS_REGION``; empty if the service account's cloud identity opens the store.
        tracking_secret: secret with the keys ``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD``, ``MLFLOW_TRACKING_TOKEN``.
        webhook_secret: secret with the key ``MISTERE_WEBHOOK_URL``, the webhook that is notified when a run ends.
        signing_secret: secret whose key ``signing.key`` is the private key (PEM, elliptic curve) that signs each registered bundle;
            ``register_model`` mounts it as a file. Empty for unsigned bundles.
        image_pull_secret: secret for the registry of the images; empty for none. ``deploy_model`` also mounts it as a file, to read
            the signature of the predictor's image.
        env: variables of the steps' pods: ``HF_TOKEN``, proxies, certificate authorities and some ``AWS_…``, each a text or
            ``{secret: NAME, key: KEY}`` or ``{config_map: NAME, key: KEY}``. ``HF_TOKEN`` is never a text. A variable that names a file
            of authorities gets the path of the mounted file. The predictor's pods get them too (``deployment.env``).
        labels: of every pod.
        run_ttl: seconds after which the Kubernetes objects of a finished run are deleted.
        steps: settings by stage, or by ``STAGE-MODALITY``, such as ``finetune_encoder-speech``; omitted fields keep the stage's default.
    """

    namespace: str = Field(default="mistere", pattern=_NAME)
    service_account: str = Field(default="mistere-pipeline", pattern=_NAME)
    kubeflow_namespace: str = Field(default=KUBEFLOW_NAMESPACE, pattern=_NAME)
    experiment: str = Field(default="mistere", min_length=1)
    host: str = ""
    ui: str = Field(default="", pattern=r"^$|^https?://")
    store: str = ""
    tracking_uri: str = ""
    storage_secret: str = Field(default="mistere-storage", pattern=r"^$|" + _NAME)
    tracking_secret: str = Field(default="mistere-tracking", pattern=r"^$|" + _NAME)
    webhook_secret: str = Field(default="mistere-webhook", pattern=r"^$|" + _NAME)
    signing_secret: str = Field(default="", pattern=r"^$|" + _NAME)
    image_pull_secret: str = Field(default="", pattern=r"^$|" + _NAME)
    env: Environment = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    run_ttl: int = Field(default=7 * 86400, gt=0)
    steps: dict[str, StepSettings] = Field(default_factory=dict)

    @field_validator("env")
    @classmethod
    def _forwarded(cls, env: dict[str, str | EnvironmentReference]) -> dict[str, str | EnvironmentReference]:
        for name, value in env.items():
            if name not in FORWARDED_VARIABLES:
                known = ", ".join(FORWARDED_VARIABLES)
                raise ValueError(
                    f"{name} is not set in pods{did_you_mean(name, FORWARDED_VARIABLES)} (these are: {known})"
                )
            if name == HUB_TOKEN and not (isinstance(value, EnvironmentReference) and value.secret):
                raise ValueError(f"{name} is a secret: write {{secret: NAME, key: KEY}}, never its value")
        check_authorities(env)
        return env

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: dict[str, StepSettings]) -> dict[str, StepSettings]:
        known = [*every_stage(), *(task for stage, info in every_stage().items() for task in info.tasks(stage))]
        for name in steps:
            if name not in known and "-".join(split_task(name)) != name:
                raise ValueError(f"there is no step {name!r}{did_you_mean(name, known)}")
        return steps

    def step(self, stage: str, modality: str = "") -> StepSettings:
        """The settings of a step: the stage's defaults, then ``steps.STAGE``, then ``steps.STAGE-MODALITY``."""
        values = dict(every_stage()[stage].pod)
        for name in (stage, f"{stage}-{modality}"):
            if name in self.steps:
                values.update({field: getattr(self.steps[name], field) for field in self.steps[name].model_fields_set})
        return StepSettings.model_validate(values)
