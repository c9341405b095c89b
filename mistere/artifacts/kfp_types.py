"""The artifact types of the pipeline, as KFP sees them; what is inside is said in :mod:`mistere.artifacts.manifests`."""

from __future__ import annotations

from kfp import dsl


class UtteranceSetArtifact(dsl.Artifact):
    """A reference to a dataset version."""

    schema_title = "system.UtteranceSet"


class ValidationReportArtifact(dsl.Artifact):
    """The verdict on a dataset."""

    schema_title = "system.ValidationReport"


class DataProfileArtifact(dsl.Artifact):
    """A dataset in numbers."""

    schema_title = "system.DataProfile"


class EncoderCheckpointArtifact(dsl.Artifact):
    """A fine-tuned utterance encoder."""

    schema_title = "system.EncoderCheckpoint"


class EmbeddingShardArtifact(dsl.Artifact):
    """A share of the utterance vectors of one modality."""

    schema_title = "system.EmbeddingShard"


class EmbeddingSetArtifact(dsl.Artifact):
    """Utterance vectors of one modality."""

    schema_title = "system.EmbeddingSet"


class MoEModelArtifact(dsl.Artifact):
    """A trained mixture of experts."""

    schema_title = "system.MoEModel"


class EvaluationReportArtifact(dsl.Artifact):
    """One model's results on one test split."""

    schema_title = "system.EvaluationReport"


class GateVerdictArtifact(dsl.Artifact):
    """Promote, hold or reject, and why."""

    schema_title = "system.GateVerdict"


class ModelBundleArtifact(dsl.Artifact):
    """All that the predictor needs."""

    schema_title = "system.ModelBundle"
