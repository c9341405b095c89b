"""The sections ``deployment.gateway`` and ``deployment.canary``: how a release shares the requests with the deployed version."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final

from pydantic import Field, field_validator

from mistere.config.base import OBJECT_NAME, Section

_HOSTNAME: Final = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""What an HTTPRoute takes as a host name (kubernetes-sigs/gateway-api, config/crd, ``spec.hostnames``)."""


class GatewayConfig(Section):
    """The Gateway (Gateway API) that passes requests on to the predictor.

    Attributes:
        name: of the Gateway; empty for none: a release then replaces the pods one by one, without shares.
        namespace: of the Gateway; empty for ``deployment.namespace``.
        listener: the Gateway's listener that the route is attached to; empty for all that admit it.
        hostnames: host names of the endpoint; empty for those of the listener. KServe's own routes must not have them.
    """

    name: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    namespace: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    listener: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    hostnames: list[Annotated[str, Field(max_length=253, pattern=_HOSTNAME)]] = Field(
        default_factory=list, max_length=16
    )


class CanaryConfig(Section):
    """The shares of the requests that a new model gets one after the other, and the live checks between them.

    Attributes:
        steps: percentages of the requests for the new model, ascending; each lasts a window. Empty for shares by hand only.
        window_seconds: duration of a step.
        min_requests: requests that both must have answered in a window for their latency and labels to be compared.
        max_errors: by how much its share of errors, of refused requests, or of requests whose client left before the answer, may exceed
            that of the deployed version, 0 to 1.
        max_slowdown: how many times as long as that of the deployed version its 99th percentile may be.
        max_label_shift: largest Jensen-Shannon distance (0 to 1) between the labels of both. A label whose share goes from 45 % to
            35 % is a distance of 0.09.
    """

    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=lambda: [10, 50, 100], max_length=20)
    window_seconds: float = Field(default=300.0, gt=0, le=86400)
    min_requests: int = Field(default=100, ge=1)
    max_errors: float = Field(default=0.01, ge=0, le=1)
    max_slowdown: float = Field(default=2.0, ge=1)
    max_label_shift: float = Field(default=0.15, ge=0, le=1)

    @field_validator("steps")
    @classmethod
    def _ascend(cls, steps: list[int]) -> list[int]:
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError("the steps must ascend, such as [10, 50, 100]")
        return steps
