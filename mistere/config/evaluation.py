"""The ``evaluation`` section."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from mistere.config.base import SeededSection

CONDITIONS: Mapping[str, tuple[str, str]] = {
    "noise_20db": ("speech", "noise 20 dB below the speech"),
    "noise_10db": ("speech", "noise 10 dB below the speech"),
    "noise_0db": ("speech", "noise as loud as the speech"),
    "telephone": ("speech", "a telephone's band, 300 to 3400 Hz"),
    "telephone_codec": ("speech", "a telephone's band and codec (G.711)"),
    "words_10": ("text", "every tenth word lost"),
    "words_20": ("text", "every fifth word lost"),
}
"""Per condition the modality that is degraded, and what it is in words."""


class EvaluationConfig(SeededSection):
    """``evaluate_model``: what is measured on the test split beside the figures that always are.

    Attributes:
        resamples: of whole dialogues, behind every interval.
        slices: columns of the dataset by whose values figures are split, beside lengths and modalities.
        runtime: run raw dialogues through the model and take the time, the memory and the size.
        robustness: embed test dialogues again with noise, a telephone's band and codec, and dropped words.
        robustness_dialogues: how many dialogues that is at most, and for ``int8``.
        int8: embed test dialogues again in 8-bit integers, to see what serving them so (``--int8``) would cost.
        speaker_probe: see how well speakers can be told from the model's representation, where the dataset names any.
    """

    resamples: int = Field(default=2000, ge=100)
    slices: list[str] = Field(default_factory=list)
    runtime: bool = True
    robustness: bool = False
    robustness_dialogues: int = Field(default=100, gt=0)
    int8: bool = False
    speaker_probe: bool = True
