"""The ``registry`` section."""

from __future__ import annotations

from typing import Literal

from mistere.config.base import Section


class RegistryConfig(Section):
    """The model registry.

    Attributes:
        model_name: name of the registered model.
        experiment: MLflow experiment of the runs.
        log_report: log every run with its report, released or not.
        release: ``automatic``: a model that the gate promotes is deployed; ``approval``: it is registered and waits for
            ``mistere approve``, like a model that the gate holds.
    """

    model_name: str = "mistere"
    experiment: str = "mistere"
    log_report: bool = True
    release: Literal["automatic", "approval"] = "automatic"
