"""Power spectra in operations that a graph can hold: the Fourier transform of the windows is a convolution with cosines and sines."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def power_spectra(samples: Tensor, window: int, hop: int, size: int) -> Tensor:
    """Power spectra ``[1, F, T]`` of all whole windows of samples ``[1, N]``, F being ``size // 2 + 1``.

    Args:
        samples: the samples.
        window: length of a window, which is weighted as by Hann's (periodic).
        hop: samples from window to window.
        size: of the transform; a shorter window is filled up with zeros.
    """
    bands = size // 2 + 1
    time = np.arange(window)
    angles = 2 * np.pi * np.outer(np.arange(bands), time) / size
    weights = 0.5 - 0.5 * np.cos(2 * np.pi * time / window)
    kernels = (np.concatenate([np.cos(angles), np.sin(angles)]) * weights).astype(np.float32)
    parts = nn.functional.conv1d(samples[:, None], torch.from_numpy(kernels)[:, None], stride=hop).square()
    return parts[:, :bands] + parts[:, bands:]
