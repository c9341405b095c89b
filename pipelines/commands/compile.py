"""``mistere compile``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.core.steps import RunContext
from pipelines.profiles import load_profile, pipeline_arguments


def compile_pipeline(profile: str, settings: Iterable[str], output: Path) -> None:
    """Write the pipeline as KFP's YAML, with the profile's sections as the parameters' defaults.

    Args:
        profile: settings to start from.
        settings: ``--set`` on top.
        output: the file.
    """
    config = load_profile(profile, settings)
    from kfp.compiler import Compiler

    from pipelines.retraining import retraining

    arguments = pipeline_arguments(config, RunContext(run_id="", store="", tracking_uri="", profile=profile))
    del arguments["run"]
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}")
    Compiler().compile(retraining, str(aside.with_suffix(".yaml")), pipeline_parameters=arguments)
    aside.with_suffix(".yaml").replace(output)
