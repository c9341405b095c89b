"""The ``monitoring`` section: how live traffic is compared with what the model was tested on."""

from __future__ import annotations

from pydantic import Field

from mistere.config.base import Section


class MonitoringConfig(Section):
    """Settings of the monitoring pipeline.

    Attributes:
        since: how far it looks back: days or hours, such as ``7d`` or ``36h``.
    """

    since: str = Field(default="7d", pattern=r"^[1-9][0-9]{0,3}[hd]$")
