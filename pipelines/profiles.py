"""The profiles that come with the project."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mistere.config.loader import SECTIONS, Config, load_config
from mistere.engine.stage import RunContext

PROFILES = Path(__file__).parent / "profiles"


def load_profile(profile: str, settings: Iterable[str] = ()) -> Config:
    """A profile with ``--set`` on top; see :func:`mistere.config.loader.load_config`."""
    return load_config(profile, settings, directory=PROFILES)


def pipeline_arguments(config: Config, context: RunContext) -> dict[str, Any]:
    """What the pipeline is called with: the run's context and every section."""
    return {"run": context.model_dump(mode="json"), **{name: config.section(name) for name in SECTIONS}}
