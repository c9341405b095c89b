"""``mistere register``: makes a model version of what ``mistere train`` wrote, unless the release gate rejects it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact, publish
from mistere.artifacts.manifest import MadeBy
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ModelBundle, MoEModel, Provenance, UtteranceSet
from mistere.common.counting import counted
from mistere.common.errors import ExitCode
from mistere.common.processes.command_line import command_line
from mistere.common.progress import Progress
from mistere.reports.evaluated_model import bounds_text
from mistere.reports.rule_rows import rule_rows
from mistere.runs.outcome import EXAMPLE, Estimate
from pipelines.cli.output.tables import Column, output_console, print_table
from pipelines.cli.store_session import locked, scratch_folder

if TYPE_CHECKING:
    from components.register_model.model_card import TrainingData
    from mistere.artifacts.identities import DatasetIdentity, RunIdentity
    from mistere.config.loader import Config
    from mistere.registry.lineage import Lineage
    from mistere.registry.mlflow.run_logging import RunRecord
    from pipelines.cli.experiments.finished_training import FinishedTraining
    from pipelines.cli.experiments.source import EmbeddingSource
    from pipelines.cli.registry_location import RegistryLocation

SECTIONS = ("gate", "registry")
"""What `--set` may change here; everything else is decided by the training."""
_COLUMNS = (Column("gate"), Column("rule"), Column("explanation", folds=True))


def register(
    folder: Path,
    embeddings: Path | None,
    profile: str | None,
    settings: Sequence[str],
    location: RegistryLocation,
) -> int:
    """Evaluate a finished training, decide on it by the gate's rules and, unless they reject it, register its bundle.

    Args:
        folder: output folder of ``mistere train``.
        embeddings: folder of the embeddings; None for the one that the training read.
        profile: settings of the gate to start from; None for the training's profile.
        settings: ``--set`` on top.
        location: store and registry.

    Returns:
        The exit code: 0 registered, 3 the gate held or rejected it, 6 registered and waiting for approval.

    Raises:
        UsageError: the folder holds no finished training, its embeddings are missing or others, or a setting is invalid.
        MistereError: the MLflow server cannot be reached, or the store cannot be written.
    """
    from mistere.registry.mlflow.connection import check_tracking
    from pipelines.cli.experiments.finished_training import FinishedTraining
    from pipelines.cli.output.task_progress import task_progress
    from pipelines.profiles import load_profile

    training = FinishedTraining.open(folder)
    config = load_profile(profile or training.origin.profile or "sample", settings, sections=SECTIONS)
    with task_progress("reading the embeddings"):
        source = training.source(embeddings)
    check_tracking(location.tracking_uri)
    with locked(location.store), scratch_folder(location.store) as scratch:
        return _Registering(training, source, config, location, scratch).run()


class _Notes(Progress):
    """A progress that prints its notes as sentences."""

    def __init__(self, console: Console) -> None:
        super().__init__("register")
        self._console = console

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Ignore the progress, which takes seconds."""

    def note(self, message: str) -> None:
        """Print a sentence."""
        self._console.print(f"{message[:1].upper()}{message[1:]}", markup=False)


class _Registering:
    """One registration.

    Args:
        training: the finished training.
        source: its embeddings.
        config: the gate's thresholds, and the registry's names.
        location: store and registry.
        scratch: folder for files that are being written.
    """

    def __init__(
        self,
        training: FinishedTraining,
        source: EmbeddingSource,
        config: Config,
        location: RegistryLocation,
        scratch: Path,
    ) -> None:
        self._training, self._source, self._config, self._location = training, source, config, location
        self._store, self._scratch = location.store, scratch
        self._console = output_console()
        self._progress = _Notes(self._console)

    def run(self) -> int:
        """Evaluate, decide, register; returns the exit code."""
        from components.evaluate_model.vectors import evaluate_vectors
        from components.gate_model.run import decide
        from mistere.registry.mlflow.model_registry import resolve_anchor
        from mistere.registry.release.champion import read_champion

        model = self._model()
        data = self._source.data.only(list(model.manifest.dimensions))
        champion = read_champion(self._store).digest
        files = self._folder("report")
        anchor = resolve_anchor(self._config.gate, self._location.tracking_uri, self._config.registry.model_name)
        manifest = evaluate_vectors(
            self._training.evaluation, self._store, self._progress, model, data, files, champion, anchor
        )
        report = self._published(manifest, files)
        code_state = self._training.origin.code_state
        validation = self._source.validation
        decided = decide(
            self._config.gate,
            report.manifest,
            validation,
            champion,
            code_state,
            anchor_digest=anchor,
            takes_vectors=True,
        )
        verdict = self._published(decided, self._folder("verdict"))
        self._show(report.manifest, verdict.manifest)
        if decided.verdict == "reject":
            kept = self._store.location(artifact_key(EvaluationReport.__name__, report.manifest.digest))
            self._console.print(f"evaluation  {kept}", markup=False, soft_wrap=True)
            return int(ExitCode.NOT_PROMOTED)
        state = self._register(model, report, verdict.manifest)
        if decided.verdict == "hold" or state == "rejected":
            return int(ExitCode.NOT_PROMOTED)
        return int(ExitCode.WAITING if state == "waiting" else ExitCode.DEPLOYED)

    def _folder(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder

    def _published(self, manifest: Any, files: Path) -> ArtifactHandle[Any]:
        """Publish an artifact and open it."""
        made_by = MadeBy(stage="register", key="", code="", run=self._identity(""))
        published = publish(self._store, manifest.model_copy(update={"made_by": made_by}), files)
        return open_artifact(self._store, type(manifest), published.digest)

    def _model(self) -> ArtifactHandle[MoEModel]:
        """The mixture as an artifact."""
        from mistere.model.mixture.prediction import load_mixture

        files, training = self._folder("model"), self._training
        for name, file in training.files.items():
            shutil.copyfile(file, files / name)
        mixture = load_mixture(files)
        manifest = MoEModel(
            labels=training.model.labels,
            dimensions=dict(mixture.dimensions),
            experts=mixture.experts,
            parameters=sum(parameter.numel() for parameter in mixture.parameters()),
            temperature=training.model.temperature,
            encoders={name: self._source.encoders[name] for name in mixture.dimensions},
            metrics={"dev.weighted_f1": training.model.dev_weighted_f1},
            history=training.model.history,
            automatic=training.model.automatic,
        )
        return self._published(manifest, files)

    def _identity(self, model_digest: str) -> RunIdentity:
        """The training as a run; the same training has the same id."""
        from mistere.artifacts.identities import RunIdentity

        origin = self._training.origin
        return RunIdentity(
            run_id=f"train-{model_digest[:12]}" if model_digest else "",
            profile=origin.profile,
            commit=origin.commit,
            dirty=origin.dirty,
        )

    def _register(
        self, model: ArtifactHandle[MoEModel], report: ArtifactHandle[EvaluationReport], verdict: GateVerdict
    ) -> str:
        """Register the bundle; returns where the version stands."""
        from components.register_model.model_card import TrainingData
        from components.register_model.registration import register_bundle
        from components.register_model.vectors_bundle import assemble_vectors
        from mistere.registry.lineage import lock_digest

        utterances, fingerprint = self._source.utterances, self._training.fingerprint
        data = (
            TrainingData.of(utterances, fingerprint)
            if utterances
            else TrainingData(self._source.name, embeddings=fingerprint)
        )
        identity, name = self._identity(model.manifest.digest), self._config.registry.model_name
        files = self._folder("bundle")
        manifest = assemble_vectors(name, model, report, self._data_with_rows(data), self._source.profile, files)
        provenance = Provenance(
            run=identity, lock=lock_digest(), evaluation_digest=report.manifest.digest, verdict=verdict.verdict
        )
        bundle = self._published(manifest.model_copy(update={"provenance": provenance}), files)
        place = self._store.location(artifact_key(ModelBundle.__name__, bundle.manifest.digest))
        values = register_bundle(
            self._store,
            self._location.tracking_uri,
            self._config.registry,
            bundle,
            self._lineage(bundle.manifest, place, model.manifest, report.manifest, verdict, identity),
            self._record(model.manifest, report.manifest, identity),
            report.manifest,
            verdict,
            self._progress.note,
        )
        if values["waits_for"]:
            self._console.print(values["waits_for"], markup=False)
        self._next(place, bundle, values)
        return values["state"]

    def _data_with_rows(self, data: TrainingData) -> TrainingData:
        """The training's data with the sizes of the splits that the embeddings have."""
        from dataclasses import replace

        splits = {split: self._source.data.split(split) for split in ("train", "dev", "test")}  # type: ignore[arg-type]
        return replace(
            data,
            rows={split: sum(map(len, dialogues)) for split, dialogues in splits.items()},
            dialogues={split: len(dialogues) for split, dialogues in splits.items()},
        )

    def _lineage(
        self,
        bundle: ModelBundle,
        place: str,
        model: MoEModel,
        report: EvaluationReport,
        verdict: GateVerdict,
        identity: RunIdentity,
    ) -> Lineage:
        from mistere.registry.lineage import Lineage

        return Lineage.of(
            bundle,
            place,
            identity,
            self._dataset(),
            model,
            report,
            verdict,
            {"embeddings": self._training.fingerprint},
            {"mixture": dict(self._training.settings) | {"seed": self._training.model.seed}},
            embeddings=self._training.origin.source,
        )

    def _dataset(self) -> DatasetIdentity:
        from mistere.artifacts.identities import DatasetIdentity

        utterances: UtteranceSet | None = self._source.utterances
        return utterances.dataset if utterances else DatasetIdentity(name=self._source.name)

    def _record(self, model: MoEModel, report: EvaluationReport, identity: RunIdentity) -> RunRecord:
        from mistere.config.differences import changed_settings
        from mistere.config.mixture import MixtureConfig
        from mistere.registry.mlflow.run_logging import RunRecord, start_facts

        mixture = MixtureConfig.model_validate(dict(self._training.settings) | {"seed": self._training.model.seed})
        info = {
            **identity.model_dump(),
            "config": {
                "mixture": mixture.model_dump(mode="json"),
                "evaluation": self._training.evaluation.model_dump(mode="json"),
                "gate": self._config.gate.model_dump(mode="json"),
            },
            "changed": {f"mixture.{name}": value for name, value in changed_settings(mixture).items()},
            "command": self._training.origin.command,
        }
        return RunRecord(
            run_id=identity.run_id,
            metrics={**report.metrics, **report.runtime},
            histories={"train_moe": model.history},
            dataset=self._dataset(),
            **start_facts(info),
        )

    def _show(self, report: EvaluationReport, verdict: GateVerdict) -> None:
        score = Estimate.of(report.metrics, "test.weighted_f1")
        if score is not None:
            self._console.print(
                f"weighted F1 {score.value:.3f} ({bounds_text(score)}) on {counted(report.utterances, 'test utterance')} in "
                f"{counted(report.dialogues, 'dialogue')}",
                markup=False,
            )
        rows = [(row.answer, row.title, row.sentence) for row in rule_rows(verdict.rules) if row.enabled]
        print_table(self._console, _COLUMNS, rows)
        decisions = {"promote": "lets this model pass", "hold": "holds this model", "reject": "rejects this model"}
        self._console.print(f"The release gate {decisions[verdict.verdict]}.", markup=False)

    def _next(self, place: str, bundle: ArtifactHandle[ModelBundle], values: Mapping[str, str]) -> None:
        version = f"{values['model_name']}/{values['model_version']}"
        lines = [("bundle", place), ("serve", command_line("mistere", "serve", place))]
        if EXAMPLE in bundle.manifest.files:
            lines.append(("ask", command_line("mistere", "predict", "--dialogue", f"{place}/{EXAMPLE}")))
        if not values["waits_for"]:
            lines.append(("release", command_line("mistere", "promote", version, *self._location.options)))
        elif values["approvable"]:
            decide = ("--reason", "…", *self._location.options)
            lines.append(("approve", command_line("mistere", "approve", version, *decide)))
            lines.append(("reject", command_line("mistere", "reject", version, *decide)))
        for name, text in lines:
            self._console.print(f"{name:<9}{text}", markup=False, soft_wrap=True)
