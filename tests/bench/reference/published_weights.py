"""Weights of the published design under the names and in the shapes of the project's mixture, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.bench.reference.published_design import MODALITIES, Published


def to_mixture(design: Mapping[str, Tensor], size: Published) -> dict[str, Tensor]:
    """Tensors of the reference's state (or of its gradient) for the mixture.

    The mixture writes a convolution as a linear layer over a window of turns, keeps the three input projections of an
    attention apart, and concatenates speech before text.
    """
    ours: dict[str, Tensor] = {}
    for index, name in enumerate(MODALITIES):
        for j, _ in enumerate(size.kernels):
            kernel = f"unimodal.{name}.convolutions.{j}"
            mine = f"unimodal.{name}.context.convolutions.{j}"
            ours[f"{mine}.weight"] = design[f"{kernel}.weight"].transpose(1, 2).flatten(1)
            ours[f"{mine}.bias"] = design[f"{kernel}.bias"]
        for source, target in (("gru", "context.gru.gru"), ("skip", "context.skip"), ("classifier", "output")):
            ours |= _renamed(design, f"unimodal.{name}.{source}.", f"unimodal.{name}.{target}.")
        for part in ("projections", "skips"):
            ours |= _renamed(design, f"cross_modal.{part}.{name}.", f"cross_modal.{part}.{index}.")
        for block in range(size.blocks):
            for kind in ("cross", "own"):
                source = f"cross_modal.blocks.{block}.{kind}.{name}"
                target = f"cross_modal.blocks.{block}.{kind}.{index}"
                ours |= _renamed(design, f"{source}.norm.", f"{target}.norm.")
                ours |= _attention(design, source, f"{target}.attention")
    ours |= _renamed(design, "gate.", "gate.layers.")
    ours |= _renamed(design, "cross_modal.classifier.", "cross_modal.output.")
    ours["cross_modal.hidden.bias"] = design["cross_modal.hidden.bias"]
    for name in ("cross_modal.norm.weight", "cross_modal.norm.bias", "cross_modal.hidden.weight"):
        ours[name] = design[name].roll(size.fusion, dims=-1)  # swaps the two halves
    return ours


def from_mixture(ours: Mapping[str, Tensor], size: Published) -> dict[str, Tensor]:
    """Tensors of the mixture's state (or of its gradient) for the reference; those of missing modalities have none."""
    design: dict[str, Tensor] = {}
    for index, name in enumerate(MODALITIES):
        for j, kernel in enumerate(size.kernels):
            mine = f"unimodal.{name}.context.convolutions.{j}"
            target = f"unimodal.{name}.convolutions.{j}"
            design[f"{target}.weight"] = ours[f"{mine}.weight"].unflatten(1, (kernel, -1)).transpose(1, 2)
            design[f"{target}.bias"] = ours[f"{mine}.bias"]
        for source, target in (("context.gru.gru", "gru"), ("context.skip", "skip"), ("output", "classifier")):
            design |= _renamed(ours, f"unimodal.{name}.{source}.", f"unimodal.{name}.{target}.")
        for part in ("projections", "skips"):
            design |= _renamed(ours, f"cross_modal.{part}.{index}.", f"cross_modal.{part}.{name}.")
        for block in range(size.blocks):
            for kind in ("cross", "own"):
                source = f"cross_modal.blocks.{block}.{kind}.{index}"
                target = f"cross_modal.blocks.{block}.{kind}.{name}"
                design |= _renamed(ours, f"{source}.norm.", f"{target}.norm.")
                for part in ("query", "key", "value"):
                    design |= _renamed(ours, f"{source}.attention.{part}.0.", f"{target}.{part}.")
                for end in ("weight", "bias"):
                    design[f"{target}.heads.in_proj_{end}"] = torch.cat(
                        [ours[f"{source}.attention.{part}.1.{end}"] for part in ("query", "key", "value")]
                    )
                design |= _renamed(ours, f"{source}.attention.output.0.", f"{target}.heads.out_proj.")
                design |= _renamed(ours, f"{source}.attention.output.1.", f"{target}.back.")
    design |= _renamed(ours, "gate.layers.", "gate.")
    design |= _renamed(ours, "cross_modal.output.", "cross_modal.classifier.")
    design["cross_modal.hidden.bias"] = ours["cross_modal.hidden.bias"]
    for name in ("cross_modal.norm.weight", "cross_modal.norm.bias", "cross_modal.hidden.weight"):
        design[name] = ours[name].roll(size.fusion, dims=-1)
    return design


def _attention(design: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        thirds = design[f"{source}.heads.in_proj_{end}"].chunk(3)
        for part, third in zip(("query", "key", "value"), thirds, strict=True):
            ours[f"{target}.{part}.0.{end}"] = design[f"{source}.{part}.{end}"]
            ours[f"{target}.{part}.1.{end}"] = third
        ours[f"{target}.output.0.{end}"] = design[f"{source}.heads.out_proj.{end}"]
        ours[f"{target}.output.1.{end}"] = design[f"{source}.back.{end}"]
    return ours


def _renamed(tensors: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``source``, with ``target`` in its place."""
    return {target + name.removeprefix(source): tensor for name, tensor in tensors.items() if name.startswith(source)}
