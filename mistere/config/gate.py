"""The ``gate`` section: the thresholds of a release."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from mistere.config.base import Section
from mistere.config.evaluation import CONDITIONS


def _no_truth(value: Any) -> Any:
    """Python takes True for 1, but it is no bound."""
    if isinstance(value, bool):
        raise ValueError("a number, or off")
    return value


def _not_a_number(value: Any) -> Any:
    """Python takes 0 for False, but a bound of 0 is a bound."""
    if value is not False:
        raise ValueError("a number, or off")
    return value


Off = Annotated[Literal[False], BeforeValidator(_not_a_number)]
"""For a rule that is not asked; null would not do, for it does not travel through a pipeline."""


class GateConfig(Section):
    """Thresholds that a candidate must pass to be released. A rule whose threshold is ``off`` (YAML's word for false) is not asked.

    Attributes:
        min_weighted_f1: floor for the lower end of weighted F1's interval.
        min_over_majority: margin over always naming the most frequent label.
        min_class_f1: floor for the F1 of every class with enough test utterances (the point).
        min_class_support: how many are enough.
        champion_mode: ``non_inferiority``: not worse than the champion by more than a margin; ``superiority``: better.
        champion_margin: how much worse than the champion still passes, in ``non_inferiority``.
        max_expert_weight: highest mean gate weight of one expert; beyond, the mixture has collapsed.
        min_contribution: least weighted F1 that every expert must add to the mixture; a little below 0 tolerates an idle one.
        min_retained: least share of weighted F1 that must be left when a modality is gone.
        max_robustness_loss: highest loss of weighted F1 under each of ``robustness_conditions``.
        robustness_conditions: which conditions count; the others are reported only.
        max_ece: highest expected calibration error.
        max_dialogue_ms: highest time for a raw dialogue on the machine that evaluated it (95th percentile), in ms.
        max_bundle_mb: largest size of the bundle without its base weights, in MiB.
        data_warnings: whether a dataset with warnings lets a model pass.
        allow_uncommitted: release models of code that no commit holds; they can't be made again.
    """

    min_weighted_f1: float = Field(default=0.40, ge=0, le=1)
    min_over_majority: float = Field(default=0.05, ge=-1, le=1)
    min_class_f1: Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1)] | Off = 0.10
    min_class_support: int = Field(default=20, ge=1)
    champion_mode: Literal["non_inferiority", "superiority"] = "non_inferiority"
    champion_margin: float = Field(default=0.01, ge=0, le=1)
    max_expert_weight: Annotated[float, BeforeValidator(_no_truth), Field(gt=0, le=1)] | Off = 0.95
    min_contribution: Annotated[float, BeforeValidator(_no_truth), Field(ge=-1, le=1)] | Off = -0.02
    min_retained: Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1)] | Off = 0.5
    max_robustness_loss: Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1)] | Off = False
    robustness_conditions: list[str] = Field(default=["noise_20db", "telephone_codec", "words_10"], min_length=1)
    max_ece: Annotated[float, BeforeValidator(_no_truth), Field(ge=0, le=1)] | Off = 0.15
    max_dialogue_ms: Annotated[float, BeforeValidator(_no_truth), Field(gt=0)] | Off = False
    max_bundle_mb: Annotated[float, BeforeValidator(_no_truth), Field(gt=0)] | Off = False
    data_warnings: Literal["pass", "hold"] = "pass"
    allow_uncommitted: bool = False

    @field_validator("robustness_conditions")
    @classmethod
    def _conditions_are_known(cls, conditions: list[str]) -> list[str]:
        for name in conditions:
            if name not in CONDITIONS:
                raise ValueError(f"there is no condition {name!r}; there are {', '.join(CONDITIONS)}")
        return conditions
