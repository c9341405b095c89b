"""The ``registry`` section."""

from __future__ import annotations

from components.core.config.base import Section


class RegistryConfig(Section):
    """The model registry."""

    model_name: str = "mistere"
    experiment: str = "mistere"
