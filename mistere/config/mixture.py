"""The ``mixture`` section."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from mistere.config.base import SeededSection

Auto = Literal["auto"]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_Number = TypeVar("_Number", int, float)


def known(value: _Number | Auto) -> _Number:
    """The value of a setting that is no longer ``auto``.

    Raises:
        ValueError: it is; :func:`mistere.model.mixture.automatic_settings.resolve` comes first.
    """
    if value == "auto":
        raise ValueError("a setting is still 'auto'; resolve the settings for the data first")
    return value


class MixtureConfig(SeededSection):
    """The mixture of experts and its training.

    The profile ``published`` holds the settings of the published model (arXiv 2602.23300). A setting that is ``auto`` follows
    from the size of train (:mod:`mistere.model.mixture.automatic_settings`).

    Attributes:
        modalities: modalities of the embeddings to use, in order; empty for all. ``auto`` trains with every subset and uses all,
            unless a subset is significantly better on dev.
        context: input of a prediction: the whole ``dialogue``, or the ``utterance`` alone.
        context_mode: turns of the dialogue: all (``full``), or the utterance and earlier turns (``causal``), so that later
            turns do not change earlier predictions.
        gate: a gate that is ``learned`` with the experts on train; the ``mean`` of the present experts; or ``fitted``: trained with
            the mean, then each expert is calibrated on dev, and its weight depends on its certainty (one minus the normalised entropy) as far as that improves dev.
        class_weights: weight of each class in the focal losses: ``none``, inverse to its count in train (``balanced``), or
            the square root of that (``sqrt``); the mean over train utterances is 1.
        batches: dialogues of a batch: of similar ``length``, or a ``random`` choice.
        schedule: course of the learning rate after the warm-up, until the last epoch.
        warmup_epochs: epochs (fractions allowed) over which the learning rate rises linearly from 0.
        precision: precision of training; ``auto`` is bf16 for a large mixture on a GPU that supports it, else fp32. ``bf16`` falls
            back to fp32 if the device does not support it. Predictions always use fp32.
    """

    modalities: list[str] | Literal["auto"] = Field(default_factory=list)
    context: Literal["dialogue", "utterance"] = "dialogue"
    context_mode: Literal["full", "causal"] = "full"
    standardise: bool = Field(
        default=True, description="Standardise each column of the embeddings by its mean and deviation in train."
    )
    input_dropout: _Rate | dict[str, _Rate] | Auto = Field(
        default="auto",
        description="Dropout of the embeddings, after their standardisation, and of their projection: of all modalities, or "
        "by modality; 0 for those that are not named.",
    )
    projection: PositiveInt | Literal[0] | dict[str, PositiveInt] | Auto = Field(
        default="auto",
        description="Width to which a linear layer projects embeddings: of all modalities, or by modality; 0 for none.",
    )
    skip_dropout: _Rate | Auto = Field(
        default="auto",
        description="Dropout of the linear skip from the embeddings to a unimodal expert's output.",
    )
    hidden: int = Field(default=512, gt=0, description="Width of the recurrent states, in each direction.")
    gru_layers: int = Field(default=3, gt=0, description="Layers of the recurrent network over a dialogue.")
    kernels: list[int] = Field(
        default_factory=lambda: [1, 3, 5],
        min_length=1,
        description="Widths of the convolutions over a dialogue, in turns; odd.",
    )
    context_dropout: _Rate | Auto = Field(
        default="auto", description="Dropout in the context layers of the unimodal experts."
    )
    fusion: Literal["co_attention", "feed_forward"] = Field(
        default="co_attention",
        description="The cross-modal expert: co-attention between the modalities, or one hidden layer on the concatenated streams.",
    )
    fusion_width: int = Field(default=1024, gt=0, description="Width of the cross-modal expert.")
    fusion_blocks: int = Field(default=4, ge=0, description="Co-attention blocks of the cross-modal expert.")
    attention_width: int = Field(
        default=120, gt=0, description="Width of queries, keys and values; a multiple of ``attention_heads``."
    )
    attention_heads: int = Field(default=3, gt=0, validate_default=True, description="Heads of the attention.")
    attention_projections: Literal[1, 2] = Field(
        default=1,
        description="Linear layers in a row for the queries, for the keys, for the values, and for the output of the attention.",
    )
    attention_dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout of the attention weights.")
    fusion_dropout: _Rate | Auto = Field(default="auto", description="Dropout of the cross-modal expert.")
    output_dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout before the output layer of the cross-modal expert; ``fusion_dropout`` if not set.",
    )
    fusion_skip: Literal["projection", "input"] = Field(
        default="projection",
        description="Start of the linear skip past the co-attention blocks: a modality's projection, or its embeddings.",
    )
    layer_norm_eps: float = Field(
        default=1e-5, gt=0, description="Added to the variance in the LayerNorms of the cross-modal expert."
    )
    gate: Literal["learned", "fitted", "mean"] = "fitted"
    gate_hidden: int = Field(default=10, gt=0, description="Width of the expert gate's hidden layer.")
    gate_temperature: float = Field(
        default=2.0,
        gt=0,
        description="Temperature of the expert gate's softmax; higher values make the weights more even.",
    )
    focal_gamma: float = Field(default=3.0, ge=0, description="Exponent of the focal loss; 0 is cross-entropy.")
    contrastive_weight: float = Field(default=2.0, ge=0, description="Weight of the contrastive loss; 0 disables it.")
    contrastive_temperature: float = Field(default=1.0, gt=0, description="Temperature of the contrastive loss.")
    consistency_weight: float = Field(
        default=0.1, ge=0, description="Weight of the divergence between the experts' predictions; 0 disables it."
    )
    consistency_scale: Literal["mean", "dialogue"] = Field(
        default="mean",
        description="That divergence is the mean over utterances, or their sum divided by the number of dialogues only.",
    )
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    modality_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of training utterances from which one modality is removed."
    )
    learning_rate: PositiveFloat | Auto = Field(default="auto", description="Peak learning rate of Adam.")
    expert_rates: dict[str, PositiveFloat] | Auto = Field(
        default="auto", description="Factor of the learning rate by unimodal expert; 1 for those that are not named."
    )
    weight_decay: Annotated[float, Field(ge=0)] | Auto = Field(default="auto", description="Weight decay of Adam.")
    batch_dialogues: int = Field(default=8, gt=0, description="Dialogues in a batch.")
    batches: Literal["length", "random"] = "length"
    epochs: PositiveInt | Auto = Field(default="auto", description="Epochs of training at most.")
    average_epochs: float = Field(
        default=3.0,
        ge=0,
        description="Horizon, in epochs, of the moving average of the weights that is evaluated and kept; 0 keeps the weights themselves.",
    )
    patience: PositiveInt | Auto = Field(
        default="auto", description="Epochs without improvement on dev after which training stops."
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="Maximum norm of the gradient.")
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_epochs: float = Field(default=0.0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @field_validator("kernels")
    @classmethod
    def _kernels_are_odd(cls, kernels: list[int]) -> list[int]:
        if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise PydanticCustomError("kernels", "Kernels should be odd, so that a turn is in the middle of its window")
        return kernels

    @field_validator("attention_heads")
    @classmethod
    def _heads_divide_the_width(cls, heads: int, others: ValidationInfo) -> int:
        width = others.data.get("attention_width", heads)
        if width % heads:
            raise PydanticCustomError("heads", "attention_width {width} should be a multiple of it", {"width": width})
        return heads
