"""The artifact types of the pipeline for KFP. :mod:`mistere.artifacts.manifests` defines their content."""

from __future__ import annotations

from kfp import dsl


class _PipelineArtifact(dsl.Artifact):
    """An artifact whose ``schema_title`` follows from the name of its class, which is its manifest's with ``Artifact``."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.schema_title = f"system.{cls.__name__.removesuffix('Artifact')}"


class UtteranceSetArtifact(_PipelineArtifact):
    """A reference to a dataset version."""


class ValidationReportArtifact(_PipelineArtifact):
    """The verdict on a dataset."""


class DataProfileArtifact(_PipelineArtifact):
    """Statistics of a dataset."""


class EncoderCheckpointArtifact(_PipelineArtifact):
    """A fine-tuned utterance encoder."""


class EmbeddingShardArtifact(_PipelineArtifact):
    """Part of the utterance vectors of one modality."""


class EmbeddingSetArtifact(_PipelineArtifact):
    """Utterance vectors of one modality."""


class MoEModelArtifact(_PipelineArtifact):
    """A trained mixture of experts."""


class EvaluationReportArtifact(_PipelineArtifact):
    """Evaluation of a model on a test split."""


class GateVerdictArtifact(_PipelineArtifact):
    """The gate's verdict and reasons."""


class ModelBundleArtifact(_PipelineArtifact):
    """Everything the predictor needs."""


class ScoredShardsArtifact(_PipelineArtifact):
    """The scores of a share of an archive."""


class ArchiveScoresArtifact(_PipelineArtifact):
    """The scores of an archive."""
