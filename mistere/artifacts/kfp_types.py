"""The artifact types of the pipeline for KFP. :mod:`mistere.artifacts.manifests` defines their content."""

from __future__ import annotations

from kfp import dsl


class UtteranceSetArtifact(dsl.Artifact):
    """A reference to a dataset version."""

    schema_title = "system.UtteranceSet"


class ValidationReportArtifact(dsl.Artifact):
    """The verdict on a dataset."""

    schema_title = "system.ValidationReport"


class DataProfileArtifact(dsl.Artifact):
    """Statistics of a dataset."""

    schema_title = "system.DataProfile"


class EncoderCheckpointArtifact(dsl.Artifact):
    """A fine-tuned utterance encoder."""

    schema_title = "system.EncoderCheckpoint"


class EmbeddingShardArtifact(dsl.Artifact):
    """Part of the utterance vectors of one modality."""

    schema_title = "system.EmbeddingShard"


class EmbeddingSetArtifact(dsl.Artifact):
    """Utterance vectors of one modality."""

    schema_title = "system.EmbeddingSet"


class MoEModelArtifact(dsl.Artifact):
    """A trained mixture of experts."""

    schema_title = "system.MoEModel"


class EvaluationReportArtifact(dsl.Artifact):
    """Evaluation of a model on a test split."""

    schema_title = "system.EvaluationReport"


class GateVerdictArtifact(dsl.Artifact):
    """The gate's verdict and reasons."""

    schema_title = "system.GateVerdict"


class ModelBundleArtifact(dsl.Artifact):
    """Everything the predictor needs."""

    schema_title = "system.ModelBundle"
