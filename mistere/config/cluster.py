"""The ``cluster`` section: where and as whom the steps run on Kubernetes. Nothing in it changes what a step computes."""

from __future__ import annotations

from pydantic import Field, field_validator

from mistere.common.suggestions import did_you_mean
from mistere.config.base import OBJECT_NAME as _NAME
from mistere.config.base import QUANTITY as _QUANTITY
from mistere.config.base import Section, Toleration
from mistere.config.stages import stages


class StepSettings(Section):
    """What one step's pod asks for and where it may run.

    Attributes:
        cpu: cores requested.
        cpu_limit: cores at most.
        memory: requested; the limit too, for a pod over its memory is killed anyway.
        gpus: how many; with none, neither type nor the GPU's selector and tolerations apply.
        gpu_type: the extended resource that counts them.
        shared_memory: size of ``/dev/shm``; empty for the node's 64 MiB.
        scratch: size of ``/tmp``, which holds a step's files in the making and its caches.
        timeout: seconds after which the pod is stopped.
        retries: further attempts after a pod that failed; what the data or a setting caused fails again at once.
        node_selector: labels of the nodes it may run on.
        tolerations: taints of them.
    """

    cpu: str = Field(default="1", pattern=_QUANTITY)
    cpu_limit: str = Field(default="2", pattern=_QUANTITY)
    memory: str = Field(default="2Gi", pattern=_QUANTITY)
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    shared_memory: str = Field(default="", pattern=r"^$|" + _QUANTITY)
    scratch: str = Field(default="10Gi", pattern=_QUANTITY)
    timeout: int = Field(default=3600, gt=0)
    retries: int = Field(default=2, ge=0, le=10)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class ClusterConfig(Section):
    """Names that the cluster's operator gave, and what each step gets.

    Attributes:
        namespace: of Kubeflow Pipelines' runs.
        service_account: of the steps' pods.
        experiment: under which Kubeflow Pipelines lists the runs.
        host: of Kubeflow Pipelines; ``--host`` and ``KFP_ENDPOINT`` come before it.
        store: ``s3://bucket/prefix``; ``--store`` and ``MISTERE_STORE`` come before it.
        tracking_uri: MLflow as the pods reach it; ``--tracking`` and ``MLFLOW_TRACKING_URI`` come before it.
        storage_secret: keys ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY`` and, where the store is not AWS's,
            ``AWS_ENDPOINT_URL`` and ``AWS_REGION``; empty where the service account's identity opens the store.
        tracking_secret: keys ``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD``, ``MLFLOW_TRACKING_TOKEN``.
        webhook_secret: key ``MISTERE_WEBHOOK_URL``, which is told how a run ended.
        image_pull_secret: for the images' registry; empty for none.
        labels: on every pod.
        run_ttl: seconds that the objects of a finished run stay in the cluster.
        steps: by stage, or ``STAGE-speech`` and ``STAGE-text``; what is not said is the stage's default.
    """

    namespace: str = Field(default="mistere", pattern=_NAME)
    service_account: str = Field(default="mistere-pipeline", pattern=_NAME)
    experiment: str = Field(default="mistere", min_length=1)
    host: str = ""
    store: str = ""
    tracking_uri: str = ""
    storage_secret: str = Field(default="mistere-storage", pattern=r"^$|" + _NAME)
    tracking_secret: str = Field(default="mistere-tracking", pattern=r"^$|" + _NAME)
    webhook_secret: str = Field(default="mistere-webhook", pattern=r"^$|" + _NAME)
    image_pull_secret: str = Field(default="", pattern=r"^$|" + _NAME)
    labels: dict[str, str] = Field(default_factory=dict)
    run_ttl: int = Field(default=7 * 86400, gt=0)
    steps: dict[str, StepSettings] = Field(default_factory=dict)

    @field_validator("steps")
    @classmethod
    def _known(cls, steps: dict[str, StepSettings]) -> dict[str, StepSettings]:
        known = [*stages(), *(task for stage, info in stages().items() for task in info.tasks(stage))]
        for name in steps:
            if name not in known:
                raise ValueError(f"there is no step {name!r}{did_you_mean(name, known)}")
        return steps

    def step(self, stage: str, modality: str = "") -> StepSettings:
        """What a step gets: the stage's default, then ``steps.STAGE``, then ``steps.STAGE-MODALITY``."""
        values = dict(stages()[stage].pod)
        for name in (stage, f"{stage}-{modality}"):
            if name in self.steps:
                values.update({field: getattr(self.steps[name], field) for field in self.steps[name].model_fields_set})
        return StepSettings.model_validate(values)
