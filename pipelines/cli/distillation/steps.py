"""The steps that make a student of a bundle, run one after the other in this process and found finished by their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from components.open_teacher.parts import mixture_of, publish_encoder
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.manifests import (
    DataProfile,
    EmbeddingSet,
    EmbeddingShard,
    EncoderCheckpoint,
    EvaluationReport,
    ModelBundle,
    MoEModel,
    UtteranceSet,
    ValidationReport,
)
from mistere.artifacts.object_store import ObjectStore
from mistere.config.loader import Config
from mistere.config.stages import task_title
from mistere.engine.execution import execute, read_reference, write_reference
from mistere.engine.stage import RunContext, TaskShard, load_stage
from mistere.registry.release.champion import NO_CHAMPION
from pipelines.cli.output.task_progress import task_progress

M = TypeVar("M", bound=Manifest)


class StudentSteps:
    """Runs the steps.

    Args:
        store: holds the teacher; the student's artifacts are written to it.
        context: of the run.
        config: the sections ``distillation``, ``evaluation`` and ``validation``.
        teacher: the bundle.
        folder: for the references that a step reads and writes.
    """

    def __init__(
        self,
        store: ObjectStore,
        context: RunContext,
        config: Config,
        teacher: ArtifactHandle[ModelBundle],
        folder: Path,
    ) -> None:
        self._store, self._context, self._config = store, context, config
        self._teacher, self._folder = teacher, folder
        self.modalities = teacher.manifest.experts[:-1]

    def pull(self, max_dialogues: int | None) -> ArtifactHandle[UtteranceSet]:
        """The reference to the data that the run's context names, limited as the teacher's were."""
        settings = {} if max_dialogues is None else {"max_dialogues": max_dialogues}
        external = {"data_digest": self._context.data_digest}
        return self._open(
            self._execute("pull_data", settings, {}, "utterances", external_inputs=external), UtteranceSet
        )

    def validated(
        self, utterances: ArtifactHandle[UtteranceSet], *, quarantine: bool
    ) -> tuple[ArtifactHandle[ValidationReport], ArtifactHandle[DataProfile], ArtifactHandle[UtteranceSet]]:
        """The validation of a dataset, its statistics, and the reference to its accepted dialogues.

        Args:
            utterances: the dataset.
            quarantine: whether dialogues with blocking findings are set aside.
        """
        settings = {**self._config.section("validation"), "quarantine": quarantine}
        names, inputs = ("report", "profile", "accepted"), {"utterances": self._reference(utterances)}
        external = {"champion_digest": NO_CHAMPION}
        report, profile, accepted = self._execute_all(
            "validate_data", settings, inputs, names, external_inputs=external
        )
        return (
            self._open(report, ValidationReport),
            self._open(profile, DataProfile),
            self._open(accepted, UtteranceSet),
        )

    def teacher_encoder(self, modality: str) -> ArtifactHandle[EncoderCheckpoint]:
        """The teacher's encoder of a modality, as a step takes it."""
        made = publish_encoder(self._store, self._teacher, modality, self._new(f"teacher-{modality}"))
        return open_artifact(self._store, EncoderCheckpoint, made.digest)

    def teacher_mixture(self) -> ArtifactHandle[MoEModel]:
        """The teacher's mixture, as a step takes it."""
        files = self._new("teacher-mixture-files")
        published = publish(self._store, mixture_of(self._teacher, files), files)
        return open_artifact(self._store, MoEModel, published.digest)

    def vectors(
        self, utterances: ArtifactHandle[UtteranceSet], encoder: ArtifactHandle[EncoderCheckpoint], whose: str
    ) -> ArtifactHandle[EmbeddingSet]:
        """The vectors of a dataset.

        Args:
            utterances: the dataset.
            encoder: the encoder.
            whose: ``teacher`` or ``student``.
        """
        modality, student = encoder.manifest.modality, whose == "student"
        settings = {"undecodable": encoder.manifest.encoder.settings.get("undecodable", "fail")}
        common = {"utterances": self._reference(utterances)}
        shard = self._execute(
            "embed_shard",
            settings,
            {**common, "encoder": self._reference(encoder)},
            "vectors",
            modality=modality,
            shard=TaskShard(0, 1),
            student=student,
            title=f"embedding with the {whose}'s {modality} encoder",
        )
        self._open(shard, EmbeddingShard)
        joined = self._execute(
            "extract_embeddings",
            {},
            {**common, "shards": [str(shard)]},
            "embeddings",
            modality=modality,
            student=student,
            title=f"joining the {whose}'s {modality} vectors",
        )
        return self._open(joined, EmbeddingSet)

    def encoder(
        self,
        utterances: ArtifactHandle[UtteranceSet],
        teacher: ArtifactHandle[EncoderCheckpoint],
        vectors: ArtifactHandle[EmbeddingSet],
    ) -> ArtifactHandle[EncoderCheckpoint]:
        """The student's encoder of the teacher's modality."""
        inputs = {
            "utterances": self._reference(utterances),
            "teacher": self._reference(teacher),
            "vectors": self._reference(vectors),
        }
        section, modality = self._config.section("distillation"), teacher.manifest.modality
        path = self._execute("distill_encoder", section, inputs, "encoder", modality=modality)
        return self._open(path, EncoderCheckpoint)

    def mixture(
        self,
        teacher: ArtifactHandle[MoEModel],
        teacher_vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
        vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
    ) -> ArtifactHandle[MoEModel]:
        """The student's mixture."""
        inputs = {
            "teacher": self._reference(teacher),
            "teacher_vectors": self._references(teacher_vectors),
            "vectors": self._references(vectors),
        }
        path = self._execute("distill_mixture", self._config.section("distillation"), inputs, "model")
        return self._open(path, MoEModel)

    def evaluation(
        self,
        utterances: ArtifactHandle[UtteranceSet],
        vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
        encoders: Mapping[str, ArtifactHandle[EncoderCheckpoint]],
        model: ArtifactHandle[MoEModel],
    ) -> ArtifactHandle[EvaluationReport]:
        """The student's evaluation on test, paired with the teacher's."""
        inputs = {
            "utterances": self._reference(utterances),
            "vectors": self._references(vectors),
            "encoders": self._references(encoders),
            "model": self._reference(model),
        }
        baselines = {"champion_digest": self._teacher.manifest.digest, "anchor_digest": NO_CHAMPION}
        path = self._execute(
            "evaluate_model",
            self._config.section("evaluation"),
            inputs,
            "report",
            external_inputs=baselines,
            title="comparing with the teacher on test",
        )
        return self._open(path, EvaluationReport)

    def _execute(
        self,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        output: str,
        *,
        title: str = "",
        modality: str = "",
        **options: Any,
    ) -> Path:
        """Run one task, or reuse its finished output; returns the folder with the output's manifest."""
        return self._execute_all(stage, config, inputs, (output,), title=title, modality=modality, **options)[0]

    def _execute_all(
        self,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        *,
        title: str = "",
        modality: str = "",
        **options: Any,
    ) -> list[Path]:
        """Run one task, or reuse its finished outputs; returns the folders with the outputs' manifests."""
        paths = [self._new(output) for output in outputs]
        with task_progress(title or task_title(f"{stage}-{modality}" if modality else stage)):
            execute(
                load_stage(stage),
                self._context.model_dump(mode="json"),
                config,
                inputs=inputs,
                outputs={output: str(path) for output, path in zip(outputs, paths, strict=True)},
                modality=modality,
                **options,
            )
        return paths

    def _open(self, path: Path, kind: type[M]) -> ArtifactHandle[M]:
        return open_artifact(self._store, kind, read_reference(path, kind))

    def _reference(self, artifact: ArtifactHandle[Any]) -> str:
        path = self._new("reference")
        write_reference(artifact.manifest, path)
        return str(path)

    def _references(self, artifacts: Mapping[str, ArtifactHandle[Any]]) -> dict[str, str]:
        return {name: self._reference(artifact) for name, artifact in artifacts.items()}

    def _new(self, name: str) -> Path:
        """A new folder."""
        path = self._folder / f"{sum(1 for _ in self._folder.iterdir())}-{name}"
        path.mkdir()
        return path


def weights_mb(store: ObjectStore, bundle: ModelBundle) -> float:
    """Size of a bundle's weights with the bases of its encoders, their configuration and tokenizers, in MiB."""
    from mistere.artifacts.io import read_manifest
    from mistere.artifacts.manifests import BaseEncoder

    own: Sequence[Any] = [file for name, file in bundle.files.items() if name.startswith(("encoders/", "mixture."))]
    bases = {digest for kind, digest in bundle.refers_to() if kind == BaseEncoder.__name__}
    base = [file for digest in sorted(bases) for file in read_manifest(store, BaseEncoder, digest).files.values()]
    return round(sum(file.size for file in [*own, *base]) / 2**20, 2)
