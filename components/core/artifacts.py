"""The artifact types of the pipeline, as KFP sees them; what is inside is said in :mod:`components.core.manifests`."""

from __future__ import annotations

from kfp import dsl


class UtteranceSet(dsl.Artifact):
    """A reference to a dataset version."""

    schema_title = "system.UtteranceSet"


class ValidationReport(dsl.Artifact):
    """The verdict on a dataset."""

    schema_title = "system.ValidationReport"


class DataProfile(dsl.Artifact):
    """A dataset in numbers."""

    schema_title = "system.DataProfile"


class EncoderCheckpoint(dsl.Artifact):
    """A fine-tuned utterance encoder."""

    schema_title = "system.EncoderCheckpoint"


class EmbeddingShard(dsl.Artifact):
    """A share of the utterance vectors of one modality."""

    schema_title = "system.EmbeddingShard"


class EmbeddingSet(dsl.Artifact):
    """Utterance vectors of one modality."""

    schema_title = "system.EmbeddingSet"


class MoEModel(dsl.Artifact):
    """A trained mixture of experts."""

    schema_title = "system.MoEModel"


class EvaluationReport(dsl.Artifact):
    """One model's results on one test split."""

    schema_title = "system.EvaluationReport"


class GateVerdict(dsl.Artifact):
    """Promote, hold or reject, and why."""

    schema_title = "system.GateVerdict"


class ModelBundle(dsl.Artifact):
    """All that the predictor needs."""

    schema_title = "system.ModelBundle"
