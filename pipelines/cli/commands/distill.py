"""``mistere distill``: makes a small student of a released model, says what it costs beside its teacher, and registers it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from components.open_teacher.checks import check_data, check_test_split
from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import DataProfile, ModelBundle, UtteranceSet, ValidationReport
from mistere.artifacts.object_store import MissingObjectError, ObjectStore, open_store
from mistere.artifacts.s3.probe import use_data_endpoint
from mistere.artifacts.signing import verify_bundle
from mistere.common.digests.code import git_state, name_files, uncommitted_files
from mistere.common.errors import ArtifactError, DataError, ExitCode, MistereError, UsageError
from mistere.common.paths import check_folder, missing_folders, removed_if_refused
from mistere.common.processes.command_line import command_line
from mistere.common.progress import EVENTS_VARIABLE
from mistere.engine.stage import RunContext, new_run_id
from mistere.serving.deployment import service_and_bundle
from pipelines.cli.output.tables import output_console
from pipelines.cli.output.task_progress import task_progress
from pipelines.cli.store_session import locked, scratch_folder

if TYPE_CHECKING:
    from mistere.config.loader import Config
    from mistere.registry.lineage import TeacherVersion
    from mistere.runs.outcome import Estimate
    from pipelines.cli.distillation.figures import ModelFigures
    from pipelines.cli.distillation.steps import StudentSteps
    from pipelines.cli.registry_location import RegistryLocation

SECTIONS: Final = ("distillation", "evaluation", "validation", "gate")
"""What `--set` may change here; everything else is the teacher's."""
_PAGE: Final = "validation_report.html"


def distill(
    bundle: str | None,
    data: str | None,
    profile: str,
    settings: Sequence[str],
    output: Path,
    tracking: str | None,
    *,
    register: bool,
) -> int:
    """Make the student, measure both models, write the report and register the student.

    The student's artifacts go to the store of the teacher, which holds what they share, and its version to that store's registry.

    Args:
        bundle: location of the teacher; None for the bundle deployed in ``output``.
        data: a dataset folder, a ``.dvc`` file, a Git revision or a DVC digest; None for the data that the teacher was made with.
        profile: settings to start from.
        settings: ``--set`` on top.
        output: the output directory of ``mistere run``; the report is written below it.
        tracking: the tracking server that belongs to the teacher's store; None for that of the environment or of the output directory.
        register: whether the student becomes a version of the registry.

    Returns:
        0 if the student is shown to be within the margin of the teacher's weighted F1, else 3; also 3 if a person rejected it before.

    Raises:
        UsageError: there is no such bundle, dataset or setting, the bundle takes vectors only, or it is a student that is deployed.
        MistereError: the registry cannot be reached.
        DataError: the dataset is rejected by its validation, has other labels than the teacher, another test split, or none of its
            modalities.
    """
    from pipelines.catalogue import DISTILLATION
    from pipelines.cli.distillation.registration import teacher_in
    from pipelines.cli.registry_location import registry_of
    from pipelines.profiles import load_profile

    config = load_profile(profile, settings, sections=SECTIONS)
    DISTILLATION.check_settings(settings)
    if config.distillation.teacher:
        raise UsageError("distillation.teacher is for the pipeline: name the bundle as the first argument.")
    _, location = service_and_bundle(output, bundle)
    root, digest = split_bundle_location(location, ", or leave it out to distil the deployed one")
    store = open_store(root)
    teacher = open_artifact(store, ModelBundle, digest)
    verify_bundle(store, teacher, config.deployment.bundle_key)
    if not teacher.manifest.encoders:
        raise UsageError(
            f"the bundle {location} takes vectors and has no encoders, so there is nothing to make smaller: name another bundle."
        )
    if bundle is None and teacher.manifest.teacher is not None:
        raise UsageError(
            f"the deployed bundle is a student of {teacher.manifest.teacher.bundle_digest[:12]} itself: name the bundle to distil, "
            f"such as {store.location(artifact_key(ModelBundle.__name__, teacher.manifest.teacher.bundle_digest))}."
        )
    if teacher.manifest.transcription is not None:
        raise UsageError(
            f"the bundle {location} has a model for transcription, which no student has: name another bundle."
        )
    registry = registry_of(store, tracking) if register else None
    version = teacher_in(registry, teacher.manifest) if registry else None
    folder = output.resolve() / "distill" / digest[:12]
    check_folder(folder, "--output")
    created, events = missing_folders(folder), folder / "events.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with removed_if_refused(created, {events.name}), locked(store), scratch_folder(store) as scratch, _events(events):
        return _Distillation(config, store, location, teacher, data, folder, scratch, registry, version).run()


class _Distillation:
    """One distillation.

    Args:
        config: sections ``distillation``, ``evaluation`` and ``validation``.
        store: of the teacher, and of the student.
        location: of the teacher.
        teacher: the bundle.
        data: source of the data; None for the teacher's own.
        folder: of the report.
        scratch: for files that are being written.
        registry: where the student is registered; None if it is not.
        version: the teacher's version there.
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        location: str,
        teacher: ArtifactHandle[ModelBundle],
        data: str | None,
        folder: Path,
        scratch: Path,
        registry: RegistryLocation | None,
        version: TeacherVersion | None,
    ) -> None:
        self._config, self._store, self._location, self._teacher = config, store, location, teacher
        self._data, self._folder, self._scratch = data, folder, scratch
        self._registry, self._version = registry, version
        self._validation: ValidationReport | None = None
        self._profile: ArtifactHandle[DataProfile] | None = None
        self._console = output_console()

    def run(self) -> int:
        """Run the steps, publish the bundle, measure, report and register; returns the exit code."""
        from components.gate_model.student import decide_student
        from pipelines.cli.distillation.bundle import publish_student
        from pipelines.cli.distillation.figures import as_json, dev_weighted_f1, show, write_json
        from pipelines.cli.distillation.registration import register_student
        from pipelines.cli.distillation.steps import StudentSteps

        settings = self._config.distillation
        context = self._context()
        references, files = self._new("references"), self._new("bundle")
        steps = StudentSteps(self._store, context, self._config, self._teacher, references)
        utterances = self._utterances(steps)
        names = steps.modalities
        taught = {name: steps.teacher_encoder(name) for name in names}
        taught_vectors = {name: steps.vectors(utterances, taught[name], "teacher") for name in names}
        encoders = {name: steps.encoder(utterances, taught[name], taught_vectors[name]) for name in names}
        vectors = {name: steps.vectors(utterances, encoders[name], "student") for name in names}
        teacher = steps.teacher_mixture()
        model = steps.mixture(teacher, taught_vectors, vectors)
        report = steps.evaluation(utterances, vectors, encoders, model)
        verdict = decide_student(
            self._config.gate,
            report.manifest,
            self._validation,
            self._teacher.manifest.digest,
            settings.margin,
            context.code_state,
        )
        result = verdict.rules[0]
        student = publish_student(
            self._store,
            context,
            self._teacher,
            settings,
            utterances,
            encoders,
            model,
            report,
            self._profile,
            verdict.verdict,
            files,
        )
        place = self._store.location(artifact_key(ModelBundle.__name__, student.manifest.digest))
        dev = [
            dev_weighted_f1(mixture, made, self._config.evaluation)
            for mixture, made in ((teacher, taught_vectors), (model, vectors))
        ]
        columns = [
            self._figures(one, where, on_dev, report.manifest.metrics, prefix, utterances.manifest.digest)
            for one, where, on_dev, prefix in (
                (self._teacher.manifest, self._location, dev[0], "champion"),
                (student.manifest, place, dev[1], "test"),
            )
        ]
        content = as_json(columns[0], columns[1], report.manifest, result, settings)
        file = write_json(self._folder, content)
        show(self._console, columns[0], columns[1], content, result)
        registered: Mapping[str, str] = {}
        if verdict.verdict == "reject":
            self._say("It is not registered, as a model that the gate rejects.")
        elif self._registry is not None and self._version is not None:
            registered = register_student(
                self._registry,
                context,
                self._config,
                student,
                place,
                self._version,
                utterances.manifest,
                model.manifest,
                report.manifest,
                verdict,
                content,
                lambda sentence: self._say(f"{sentence[:1].upper()}{sentence[1:]}"),
            )
            self._say(registered["waits_for"])
        lines = [("student", place), ("serve", command_line("mistere", "serve", place)), ("report", str(file))]
        for name, text in (*lines, *self._decisions(registered)):
            self._say(f"{name:<9}{text}")
        passes = result.outcome == "promote" and registered.get("state") != "rejected"
        return 0 if passes else int(ExitCode.NOT_PROMOTED)

    def _say(self, sentence: str) -> None:
        if sentence:
            self._console.print(sentence, markup=False, soft_wrap=True)

    def _decisions(self, registered: Mapping[str, str]) -> list[tuple[str, str]]:
        """The commands that decide on a version that waits."""
        if self._registry is None or not registered.get("approvable") or registered["state"] == "released":
            return []
        options = ("--reason", "…", *self._registry.options)
        return [
            (verb, command_line("mistere", verb, registered["approvable"], *options)) for verb in ("approve", "reject")
        ]

    def _context(self) -> RunContext:
        from mistere.data.versions import pin

        commit, dirty = git_state()
        context = RunContext(
            run_id=new_run_id(),
            store=self._store.uri,
            tracking_uri="",
            commit=commit,
            dirty=dirty,
            uncommitted=name_files(uncommitted_files()) if dirty else "",
        )
        if self._data is None:
            return context
        pinned = pin(self._data, self._store.location("data-remote"))
        use_data_endpoint(pinned.endpoint)
        return context.model_copy(update={"data_remote": pinned.remote, "data_digest": pinned.digest})

    def _utterances(self, steps: StudentSteps) -> ArtifactHandle[UtteranceSet]:
        """The data to learn from; other data than the teacher's are limited and validated as those of a run.

        Raises:
            UsageError: no data is named, and the store does not know the teacher's.
            DataError: the data do not suit the teacher, or are rejected.
        """
        taught = self._teachers_data()
        if self._data is None:
            if taught is None:
                raise UsageError(
                    f"the store {self._store.uri} does not say what data {self._location} was made with: name it with --data."
                )
            check_data(taught.manifest, self._teacher.manifest)
            check_test_split(taught.manifest, self._teacher.manifest, None)
            return taught
        limits = None if taught is None else taught.manifest
        pulled = steps.pull(None if limits is None else limits.max_dialogues)
        check_data(pulled.manifest, self._teacher.manifest)
        quarantine = self._config.validation.quarantine or (limits is not None and bool(limits.quarantined))
        if not quarantine:  # nothing will be set aside of test, and validating takes longer
            check_test_split(pulled.manifest, self._teacher.manifest, limits)
        report, self._profile, accepted = steps.validated(pulled, quarantine=quarantine)
        self._validation = report.manifest
        if report.manifest.verdict == "reject":
            first, *others = report.manifest.failed
            more = f" ({len(others)} more)" if others else ""
            raise DataError(
                f"{accepted.manifest.name} is rejected, as a run would reject it: {first.rstrip('.')}{more}; the report is "
                f"{report.file(_PAGE)}."
            )
        check_test_split(accepted.manifest, self._teacher.manifest, limits)
        return accepted

    def _teachers_data(self) -> ArtifactHandle[UtteranceSet] | None:
        """The reference to the data that the teacher was made with; None if the store does not hold it."""
        digest = self._teacher.manifest.inputs.get("utterances", "")
        try:
            return open_artifact(self._store, UtteranceSet, digest) if digest else None
        except (ArtifactError, MissingObjectError):
            return None

    def _figures(
        self,
        bundle: ModelBundle,
        location: str,
        on_dev: Estimate,
        metrics: dict[str, float],
        prefix: str,
        utterances: str,
    ) -> ModelFigures:
        from mistere.evaluation.footprint import footprint
        from mistere.runs.outcome import Estimate
        from pipelines.cli.distillation.figures import ModelFigures
        from pipelines.cli.distillation.steps import weights_mb

        whose = "student" if prefix == "test" else "teacher"
        cost = None
        try:
            with task_progress(f"timing the {whose} on one core"):
                cost = footprint(location, self._store.uri, utterances, self._config.distillation.timed_dialogues)
        except MistereError as error:  # the student is finished all the same
            sentence = str(error)
            self._console.print(f"{sentence[:1].upper()}{sentence[1:]}", markup=False, soft_wrap=True)
        estimate = Estimate.of(metrics, f"{prefix}.weighted_f1")
        if estimate is None:
            raise DataError(f"the {whose} was not evaluated on test, which has no comparable labels: name other data.")
        return ModelFigures(location, weights_mb(self._store, bundle), cost, on_dev, estimate)

    def _new(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder


@contextlib.contextmanager
def _events(file: Path) -> Iterator[None]:
    """Write the steps' events to a file instead of standard output, which the result has for itself."""
    before = os.environ.get(EVENTS_VARIABLE)
    os.environ[EVENTS_VARIABLE] = str(file)
    try:
        yield
    finally:
        os.environ.pop(EVENTS_VARIABLE)
        if before is not None:
            os.environ[EVENTS_VARIABLE] = before
