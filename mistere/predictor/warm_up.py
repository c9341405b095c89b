"""The first predictions of a server: what is loaded or compiled on first use must not delay a client."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.errors import ArtifactError, Interrupted
from mistere.common.parsing.documents import first_line
from mistere.predictor.protocol.codec import RequestTurn

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel


def one_second() -> bytes:
    """One second of a quiet tone as a WAV file (16 kHz, 16 bit)."""
    rate = 16000
    samples = (1000 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as clip:
        clip.setparams((1, 2, rate, rate, "NONE", ""))
        clip.writeframes(samples.tobytes())
    return file.getvalue()


def predict_once(model: EmotionModel) -> None:
    """Predict one utterance, with encoders where the model has some."""
    if model.encoder_digests:
        model.predict([[RequestTurn(text="Hello.", audio=one_second())]])
    else:
        model.predict_embeddings([{name: np.zeros((1, width), np.float32) for name, width in model.dimensions.items()}])


def open_exported(folder: Path, threads: int = 0) -> EmotionModel:
    """Open and verify an exported model, and predict an utterance, which shows whether its parts fit together.

    Args:
        folder: as ``mistere export`` wrote it.
        threads: of an operation; 0 for the cores that this process may use.

    Raises:
        ArtifactError: a file is missing, damaged or refused, or the model cannot predict.
        MissingPackageError: ONNX Runtime is not installed.
    """
    from mistere.model.onnx.loading import load_onnx

    model = load_onnx(folder, threads)
    try:
        predict_once(model)
    except (Interrupted, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library for tokenizers is no Exception
        raise ArtifactError(
            f"the exported model in {folder} cannot predict an utterance ({first_line(Exception(error))})",
            "export the model again with `mistere export`",
        ) from error
    return model
