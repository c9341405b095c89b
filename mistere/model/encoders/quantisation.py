"""Encoders in 8-bit integers for CPUs: smaller, and faster on most CPUs. The evaluation measures the loss in quality."""

from __future__ import annotations

import warnings

from torch import nn

from mistere.model.encoders.utterance_encoder import UtteranceEncoder


def quantised(encoder: UtteranceEncoder) -> UtteranceEncoder:
    """Quantise the backbone's linear layers to int8: weights now, activations at run time (dynamic quantisation).

    Pooling, projection and head stay in float32.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this will move to another package
        encoder.backbone = torch.ao.quantization.quantize_dynamic(encoder.backbone, {nn.Linear}, dtype=torch.qint8)
    return encoder
