"""The ``evaluation`` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mistere.config.base import SeededSection
from mistere.config.calls import CallEffect


class EvaluationConfig(SeededSection):
    """``evaluate_model``: optional measurements on the test split, besides the metrics that are always computed.

    Attributes:
        resamples: number of bootstrap resamples of whole dialogues for every interval.
        gain_coverage: coverage of the paired intervals of the mixture's gain over each of its experts and over their plain mean.
        slices: columns of the dataset whose values define slices, besides lengths and modalities.
        runtime: measure time, memory and size with raw dialogues.
        robustness: embed test dialogues again with noise, a telephone's band and codec, dropped words, and what degrades its other modalities.
        calls: embed test dialogues again under ``call_effects``, and predict them with the champion, too.
        call_effects: what happens to conversations on real calls; empty for all effects.
        robustness_dialogues: maximum number of dialogues for ``robustness``, ``calls`` and ``int8``.
        int8: embed test dialogues again with 8-bit integers, to measure the loss of serving with ``--int8``.
        speaker_probe: measure how well a linear probe identifies speakers, if the dataset names them.
        example: the example dialogue that travels with the bundle: ``test`` is a dialogue of the test split, ``synthetic`` one that
            nobody said, ``none`` leaves it out; ``auto`` takes a test dialogue if ``dataset.yaml`` says that the dataset is synthetic, and
            a synthetic one otherwise.
    """

    resamples: int = Field(default=2000, ge=100)
    gain_coverage: float = Field(default=0.95, ge=0.5, lt=1)
    slices: list[str] = Field(default_factory=list)
    runtime: bool = True
    robustness: bool = False
    calls: bool = False
    call_effects: list[CallEffect] = Field(default_factory=list)
    robustness_dialogues: int = Field(default=100, gt=0)
    int8: bool = False
    speaker_probe: bool = True
    example: Literal["auto", "none", "synthetic", "test"] = "auto"
