"""The profiles of the project."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import create_model

from components.gate_model.config import GateConfig
from components.validate_data.config import ValidationConfig
from mistere.config.loader import Config, load_config
from mistere.config.stages import PipelineName
from mistere.engine.stage import RunContext
from pipelines.catalogue import PIPELINES

PROFILES = Path(__file__).parent / "profiles"
PIPELINE_CONFIG: type[Config] = create_model(
    "PipelineConfig",
    __base__=Config,
    validation=(ValidationConfig, ValidationConfig()),
    gate=(GateConfig, GateConfig()),
)
"""The complete configuration, with all settings that gate rules and expectations declare."""
_LOCAL_DEPLOYMENT: Final = ("deployment.mode=local", "deployment.canary_percent=0")


def load_profile(
    profile: str, settings: Iterable[str] = (), origin: str = "--set", sections: Collection[str] | None = None
) -> Config:
    """Load a profile and apply the ``--set`` options; see :func:`mistere.config.loader.load_config`."""
    return load_config(profile, settings, directory=PROFILES, schema=PIPELINE_CONFIG, origin=origin, sections=sections)


def load_local_profile(profile: str, settings: Iterable[str] = ()) -> Config:
    """Load a profile for a run on this machine, where a deployment is local whatever the profile names.

    ``--set`` is applied afterwards, so that a deployment setting that was typed for this run is refused, not ignored.
    """
    return load_profile(profile, [*_LOCAL_DEPLOYMENT, *settings])


def pipeline_arguments(config: Config, context: RunContext, pipeline: PipelineName = "retraining") -> dict[str, Any]:
    """Arguments of a pipeline: the run's context and its sections."""
    return {"run": context.model_dump(mode="json"), **PIPELINES[pipeline].parameters(config)}
