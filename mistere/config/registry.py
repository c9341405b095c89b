"""The ``registry`` section."""

from __future__ import annotations

from typing import ClassVar, Literal

from mistere.config.base import Section
from mistere.config.costs import CostSettings


class RegistryConfig(Section):
    """The model registry.

    Attributes:
        model_name: name of the registered model.
        experiment: MLflow experiment of the runs.
        log_report: log every run with its report, released or not.
        release: ``automatic``: a model that the gate promotes is deployed; ``approval``: it is registered and waits for
            ``mistere approve``, like a model that the gate holds.
        costs: prices and factors of what a run uses, for its report.
    """

    model_name: str = "mistere"
    experiment: str = "mistere"
    log_report: bool = True
    release: Literal["automatic", "approval"] = "automatic"
    costs: CostSettings = CostSettings()

    outside_key: ClassVar[frozenset[str]] = frozenset({"costs"})
