"""``mistere compile``: compiles a pipeline to the YAML of Kubeflow Pipelines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT, is_checkout
from mistere.config.stages import PipelineName
from pipelines.catalogue import PIPELINES
from pipelines.ir_check import check_pipeline
from pipelines.profiles import load_profile
from pipelines.train_image import check_train_image


def default_output(pipeline: PipelineName = "retraining") -> Path:
    """The compiled file of the checkout if that is the current folder, else a file in the current folder."""
    file = PIPELINES[pipeline].file
    return Path("pipelines") / file if is_checkout() and Path.cwd() == PROJECT_ROOT else Path(file)


def compile_pipeline(
    profile: str, settings: Iterable[str], output: Path, pipeline: PipelineName = "retraining"
) -> None:
    """Write a pipeline as KFP's YAML, with the profile's sections as the parameters' defaults.

    A value given for a parameter replaces its default as a whole, so the sections are also constants of the steps that complete
    a section given in part.

    Args:
        profile: base settings.
        settings: ``--set`` on top.
        output: the file to write.
        pipeline: which pipeline.

    Raises:
        UsageError: an invalid setting, one with which a cluster cannot deploy, or a file in a folder that does not exist.
        MistereError: the file cannot be written, or KFP's driver would refuse the pipeline's types.
    """
    if not output.parent.is_dir():
        raise UsageError(
            f"there is no folder {output.parent} for {output.name}: create it, or write the file elsewhere."
        )
    config = load_profile(profile, settings)
    chosen = PIPELINES[pipeline]
    chosen.check(config)
    check_train_image(config)
    chosen.check_signatures(config)
    import yaml
    from kfp.compiler import Compiler

    definition = chosen.define(config, Path(profile).stem)
    partial = output.with_name(f".{output.stem}.partial.yaml")
    try:
        Compiler().compile(definition, str(partial), pipeline_parameters=chosen.parameters(config))
        text = _DEFAULT.sub("", partial.read_text(encoding="utf-8"))
        check_pipeline(next(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        raise MistereError(f"cannot write {output} ({error.strerror}): write the file elsewhere.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


_DEFAULT = re.compile(r"(?<=: dict) \[Default: .*\]$", re.MULTILINE)
"""kfp repeats each default in a comment, in an order that changes from one compilation to the next."""
