"""Selects the trainable parameters of an encoder."""

from __future__ import annotations

from typing import Any

from mistere.common.errors import UsageError
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.utterance_encoder import UtteranceEncoder


def choose_trainable(model: UtteranceEncoder, config: EncoderConfig) -> None:
    """Set the trainable parameters: all of the backbone, its top layers, adapters, or none. The head is always trainable.

    Raises:
        UsageError: no module matches the adapters' targets, or the backbone cannot recompute its activations.
    """
    backbone = model.backbone
    if config.tuning in {"lora", "qlora"}:
        _add_adapters(model, config)
    elif config.tuning == "frozen":
        backbone.requires_grad_(False)
    elif config.train_layers is not None:
        backbone.requires_grad_(False)
        layers = model.family.layers(backbone)
        for layer in layers[max(0, len(layers) - config.train_layers) :]:
            layer.requires_grad_(True)
    if config.gradient_checkpointing and config.tuning != "frozen" and model.family.layers(backbone):
        recompute: Any = getattr(backbone, "gradient_checkpointing_enable", None)
        if recompute is None:
            raise UsageError(f"encoder {config.source} cannot recompute activations: set gradient_checkpointing=false.")
        recompute(gradient_checkpointing_kwargs={"use_reentrant": False})


def _add_adapters(model: UtteranceEncoder, config: EncoderConfig) -> None:
    """Add adapters to the named projections. They stay in float32, because small updates vanish in half precision."""
    from peft import LoraConfig, inject_adapter_in_model

    model.backbone.requires_grad_(False)
    targets = model.family.adapter_targets(model.backbone, config.lora.target_modules)
    adapters = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets,
        exclude_modules=model.family.lora_excluded or None,
    )
    try:
        inject_adapter_in_model(adapters, model.backbone)
    except ValueError as error:
        raise UsageError(
            f"encoder {config.source}: no module ends in {' or '.join(targets)}; name others in lora.target_modules."
        ) from error
    for name, parameter in model.backbone.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
