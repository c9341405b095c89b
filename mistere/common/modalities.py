"""The modalities of an utterance: the one place that names them all."""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["speech", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
