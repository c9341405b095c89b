"""The ``registry`` section."""

from __future__ import annotations

from mistere.config.base import Section


class RegistryConfig(Section):
    """The model registry.

    Attributes:
        model_name: of the versions.
        experiment: that the runs are in.
        log_report: log every run, released or not, with its report.
    """

    model_name: str = "mistere"
    experiment: str = "mistere"
    log_report: bool = True
