"""The ``registry`` section."""

from __future__ import annotations

from mistere.config.base import Section


class RegistryConfig(Section):
    """The model registry.

    Attributes:
        model_name: name of the registered model.
        experiment: MLflow experiment of the runs.
        log_report: log every run with its report, released or not.
    """

    model_name: str = "mistere"
    experiment: str = "mistere"
    log_report: bool = True
