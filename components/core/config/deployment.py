"""The ``deployment`` section."""

from __future__ import annotations

from pydantic import Field

from components.core.config.base import Section


class DeploymentConfig(Section):
    """The inference service and its smoke test."""

    service: str = Field(default="mistere", pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
    namespace: str = Field(default="mistere", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    ready_timeout: float = Field(default=120.0, gt=0, description="Seconds until the predictor must be ready.")
    tolerance: float = Field(default=1e-4, gt=0, description="Between the endpoint's and the offline probabilities.")
    half_tolerance: float = Field(
        default=0.02, gt=0, description="The same where the offline vectors were made in half precision."
    )
