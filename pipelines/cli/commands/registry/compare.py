"""``mistere compare``: two models on one page, utterance by utterance if both were evaluated on the same test split."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from mistere.artifacts.io import open_artifact, read_manifest
from mistere.artifacts.manifests import EvaluationReport, ModelBundle
from mistere.common.errors import ArtifactError
from mistere.evaluation.gate_timeline import TIMELINES_FILE, read_timelines
from mistere.metrics.predictions import PREDICTIONS_FILE, read_predictions
from mistere.registry.lineage import Lineage
from mistere.registry.mlflow.model_registry import RegisteredVersion
from mistere.registry.release.model_inputs import described_inputs
from pipelines.cli.commands.registry.models import code_of
from pipelines.cli.output.comparison_page import ComparedModel, inputs_note, render_comparison, summary
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.registry_location import RegistryLocation


def compare(location: RegistryLocation, one: str, other: str, model_name: str, page: Path) -> None:
    """Write the page and print its summary.

    Args:
        location: store and registry.
        one: a version.
        other: another version; differences are ``one`` minus ``other``.
        model_name: the model, where a reference names none.
        page: the file to write.
    """
    models = [location.find(reference, model_name) for reference in (one, other)]
    one_name = len({version.name for version, _ in models}) == 1
    first, second = (
        _compared(
            location, version, lineage, f"v{version.version}" if one_name else f"{version.name} v{version.version}"
        )
        for version, lineage in models
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(render_comparison(first, second), encoding="utf-8")
    partial.replace(page)
    console = OutputConsole(highlight=False)
    console.print(summary(first, second), markup=False, soft_wrap=True)
    if note := inputs_note(first, second):
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"report   {page}", markup=False, soft_wrap=True)


def _compared(location: RegistryLocation, version: RegisteredVersion, lineage: Lineage, short: str) -> ComparedModel:
    evaluation = open_artifact(location.store, EvaluationReport, lineage.evaluation_digest)
    timelines = evaluation.file(TIMELINES_FILE)
    inputs = ""
    with suppress(ArtifactError):  # the comparison does not need the bundle
        inputs = described_inputs(read_manifest(location.store, ModelBundle, lineage.bundle_digest))
    made_by = {"run": lineage.run.run_id, "profile": lineage.run.profile}
    if lineage.teacher is not None:
        by_command = lineage.run.run_id.startswith("distill-")  # which is no run of a pipeline
        made_by["run"] = f"{'none' if by_command else lineage.run.run_id}: a student of {lineage.teacher}"
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    return ComparedModel(
        title=f"{version.name}, version {version.version}{aliases}",
        facts={
            "inputs": inputs,
            "bundle": lineage.bundle_digest,
            "code": code_of(lineage.run.commit, lineage.run.dirty),
            "dataset": f"{lineage.dataset}, version {lineage.dvc_digest}" if lineage.dvc_digest else lineage.dataset,
            **made_by,
            "registered": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(version.created)),
        },
        evaluation=evaluation.manifest,
        predictions=read_predictions(evaluation.file(PREDICTIONS_FILE)),
        timelines=read_timelines(timelines) if timelines.is_file() else [],
        short=short,
        digest=lineage.bundle_digest,
        inputs=inputs,
    )
