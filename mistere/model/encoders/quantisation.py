"""Encoders in 8-bit integers for CPUs: smaller, and on most CPUs faster; what it costs is measured, not assumed."""

from __future__ import annotations

import warnings

from torch import nn

from mistere.model.encoders.utterance_encoder import UtteranceEncoder


def quantised(encoder: UtteranceEncoder) -> UtteranceEncoder:
    """The encoder with its backbone's linear layers in int8: weights once, activations as they come (dynamic quantisation).

    What was trained on top of the backbone stays in float32.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this moves to another package
        encoder.backbone = torch.ao.quantization.quantize_dynamic(encoder.backbone, {nn.Linear}, dtype=torch.qint8)
    return encoder
