"""The manifest of each kind of artifact; :mod:`mistere.artifacts.manifest` has what they share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from mistere.artifacts.identities import (
    RUN_FIELDS,
    DatasetIdentity,
    EncoderDescription,
    EncoderIdentity,
    RunIdentity,
    Teacher,
    TranscriptionModel,
    gather_encoders,
    gather_fields,
)
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.usage import Usage
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.common.names import Md5, OneLine, RelativeName, Segment
from mistere.common.splits import Split


class DatasetShard(BaseModel):
    """A parquet shard in the DVC remote, addressed by its MD5 as DVC does."""

    name: RelativeName
    md5: Md5
    size: int
    split: Split
    rows: int


class Transcription(BaseModel):
    """What a transcription added to a dataset. The transcripts are a file of the artifact, ``transcripts.parquet``."""

    model: TranscriptionModel
    added: dict[str, int] = Field(description="Transcribed utterances without text, per split.")
    replaced: int = Field(
        default=0, description="Train utterances whose text is replaced by a transcript (``asr_share``)."
    )
    empty: int = Field(default=0, description="Utterances in whose audio the model heard no words.")
    undecodable: int = Field(default=0, description="Utterances whose audio does not decode.")


class UtteranceSet(Manifest):
    """A reference to a dataset version; the artifact holds none of the data but the transcripts that a model made of it."""

    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"remote"}

    name: str
    dvc_digest: str
    remote: OneLine
    info_md5: str = Field(description="MD5 of dataset.yaml.")
    labels: list[str]
    description: str = ""
    language: str
    licence: str = ""
    speaker_disjoint: bool
    synthetic: bool
    shards: list[DatasetShard]
    rows: dict[str, int] = Field(description="Utterances per split, after the selection of dialogues.")
    dialogues: dict[str, int]
    modalities: list[str] = Field(description="The modalities of which a shard has a value.")
    kinds: dict[Segment, str] = Field(
        default_factory=lambda: dict(IMPLICIT_KINDS),
        exclude_if=lambda kinds: kinds == IMPLICIT_KINDS,  # manifests without others keep their digests
        description="The kind of every modality that the dataset declares, present or not.",
    )
    max_dialogues: int | None = None
    predict_roles: list[str] = Field(
        default_factory=list,
        exclude_if=lambda roles: not roles,  # references without roles keep their digests
        description="Roles whose turns are predicted, the turns of others being context; empty for all turns.",
    )
    quarantined: dict[str, list[str]] = Field(
        default_factory=dict, description="Dialogues per split that validation excluded; no stage reads them."
    )
    test_digest: str = Field(description="Identifies the test split; models are compared only on equal test splits.")
    transcription: Transcription | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # datasets without it keep their digests
        description="Transcripts by a model, which readers merge with the dataset's own.",
    )

    @property
    def dataset(self) -> DatasetIdentity:
        """The dataset version that this artifact refers to."""
        return DatasetIdentity(name=self.name, dvc_digest=self.dvc_digest, remote=self.remote)

    def refers_to(self) -> list[tuple[str, str]]:
        """The weights of the transcription model, which a bundle of the run needs."""
        return [("BaseEncoder", self.transcription.model.base_digest)] if self.transcription else []


class ValidationReport(Manifest):
    """The verdict on a dataset. Files: the page, the verdict and Great Expectations' results as JSON, and the quarantine."""

    verdict: Literal["pass", "warn", "reject"]
    failed: list[str] = Field(default_factory=list, description="A sentence for each finding that rejects the dataset.")
    warnings: list[str] = Field(
        default_factory=list, description="A sentence for each finding that does not reject it."
    )
    quarantined: int = Field(default=0, description="Excluded utterances.")
    expectations: int
    utterances: int
    audio_seconds: float


class DataProfile(Manifest):
    """Statistics of a dataset, ``data_profile.json``. A bundle includes them, so that later data can be compared."""

    name: str
    dvc_digest: str
    scripts: dict[str, int] = Field(
        default_factory=dict,
        exclude_if=lambda scripts: not scripts,  # profiles of earlier versions keep their digests
        description="How many texts of train have each main script, such as ``Latin``.",
    )


class EncoderCheckpoint(Manifest):
    """A fine-tuned utterance encoder without its base weights, which are a separate artifact."""

    schema_version: int = 2
    modality: Segment
    absent: bool = False
    labels: list[str] = Field(default_factory=list)
    encoder: EncoderDescription = EncoderDescription()
    undecodable: int = Field(
        default=0, description="Utterances left out of training because their audio does not decode."
    )
    metrics: dict[str, float] = Field(default_factory=dict)
    history: list[dict[str, float]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        names = ("family", "dimension", "base_digest", "source", "encoder_digest", "settings")
        return gather_fields(values, "encoder", {name: name for name in names})

    def refers_to(self) -> list[tuple[str, str]]:
        """The base weights."""
        return [("BaseEncoder", self.encoder.base_digest)] if self.encoder.base_digest else []


class _Embeddings(Manifest):
    """``utterances.parquet`` and, row-aligned, ``<modality>.npy`` (float32 ``[rows, dimension]``, NaN row = missing)."""

    schema_version: int = 2
    modality: Segment
    absent: bool = False
    dimension: int = 0
    labels: list[str] = Field(default_factory=list)
    rows: dict[str, int] = Field(default_factory=dict)
    missing: int = Field(default=0, description="Utterances without the modality, including undecodable ones.")
    undecodable: int = 0
    encoder: EncoderIdentity = EncoderIdentity()

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        flat = {"encoder_digest": "digest", "encoder_source": "source"}
        return gather_fields(values, "encoder", {**flat, "precision": "precision", "test_digest": "test_digest"})


class EmbeddingShard(_Embeddings):
    """Part of a dataset's vectors, in the order of the dataset's files."""


class EmbeddingSet(_Embeddings):
    """All of a dataset's vectors, ordered by dialogue and turn."""


class MoEModel(Manifest):
    """The trained mixture: ``model.safetensors`` and ``mixture.json``."""

    schema_version: int = 2
    labels: list[str]
    dimensions: dict[str, int] = Field(description="Input width per modality, in the experts' order.")
    experts: list[str]
    parameters: int
    temperature: float
    encoders: dict[str, EncoderIdentity] = Field(description="By modality, the encoders that made the vectors.")
    metrics: dict[str, float] = Field(default_factory=dict)
    history: list[dict[str, float]] = Field(default_factory=list)
    automatic: dict[str, Any] = Field(default_factory=dict, description="Values of the settings that were ``auto``.")
    notes: list[str] = Field(default_factory=list, description="What is remarkable about the columns of the vectors.")

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        gathered = gather_encoders(values)
        if gathered is not values:
            gathered.pop("test_digest", None)
        return gathered

    @property
    def test_digest(self) -> str:
        """Identifies the test split of the dataset, which all encoders share."""
        return next(iter(self.encoders.values()), EncoderIdentity()).test_digest


class ChampionEvaluation(BaseModel):
    """The champion, or the anchor, on the same test split. Its predictions are a file of the report, unless ``incomparable`` gives a reason."""

    bundle_digest: Segment
    test_digest: str = Field(default="", description="Identifies the test split of its predictions.")
    incomparable: str = ""


class EvaluationReport(Manifest):
    """Evaluation of a model on a test split: ``metrics.json``, ``predictions.parquet``, ``timelines.json``, an example dialogue."""

    labels: list[str]
    experts: list[str]
    test_digest: str
    utterances: int = Field(description="Labelled utterances; all metrics are about these.")
    context: int = Field(
        default=0,
        exclude_if=lambda turns: not turns,  # reports without context turns keep their digests
        description="Further turns of the dialogues, which have no label and are only context.",
    )
    dialogues: int
    metrics: dict[str, float] = Field(
        description="Metrics of the model (``test.…``), of the champion (``champion.…``) and of the anchor (``anchor.…``)."
    )
    runtime: dict[str, float] = Field(
        default_factory=dict, description="Cost of the model on the machine that evaluated it."
    )
    confusion: list[list[int]]
    champion: ChampionEvaluation | None = None
    anchor: ChampionEvaluation | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # reports without an anchor keep their digests
        description="The anchor of the gate, likewise.",
    )


class RuleResult(BaseModel):
    """Outcome of one gate rule."""

    rule: str
    outcome: Literal["promote", "hold", "reject", "off"] = Field(description="``off``: the rule is disabled.")
    measured: float | None
    bound: float | None
    sentence: str
    settings: list[str] = Field(
        default_factory=list,
        exclude_if=lambda names: not names,  # verdicts without it keep their digests
        description="The settings that decide the rule, in the section ``gate``.",
    )
    final: bool = Field(
        default=False,
        exclude_if=lambda final: not final,  # likewise
        description="A model that this rule holds cannot be approved by a person.",
    )


class GateVerdict(Manifest):
    """Promote, hold (undecided) or reject, with the outcome of every rule."""

    verdict: Literal["promote", "hold", "reject"]
    rules: list[RuleResult]


class Provenance(BaseModel):
    """What made a bundle, enough to make it again. No part of the bundle's digest."""

    run: RunIdentity
    image: str = ""
    lock: str = Field(default="", description="Digest of the lock file.")
    evaluation_digest: str = ""
    verdict: str = ""
    compute_seconds: dict[str, float] = Field(
        default_factory=dict, description="Seconds of fine-tuning and training, by device."
    )
    usage: dict[str, Usage] = Field(default_factory=dict, description="What fine-tuning and training used, by task.")

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_fields(values, "run", RUN_FIELDS)


class ModelBundle(Manifest):
    """Everything the predictor needs: mixture, fine-tuned encoder weights, and the digests of the base weights.

    Further files: ``README.md`` (the model card), ``MLmodel`` (the signature), ``bundle.json`` (these fields, so that a
    signature of the files covers them), the data's profile, and an example dialogue with its expected answer.

    A model that ``mistere register`` made has no encoders: ``vectors`` says what made the vectors that it takes.
    """

    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"provenance"}
    foreign_files: ClassVar[frozenset[str]] = frozenset({"registered_model_meta"})
    """MLflow writes it when it loads a version that an earlier release registered, whose source is the bundle's own folder."""

    schema_version: int = 3
    name: str
    labels: list[str]
    experts: list[str]
    encoders: dict[Segment, EncoderDescription]
    vectors: dict[Segment, EncoderIdentity] = Field(
        default_factory=dict,
        exclude_if=lambda vectors: not vectors,  # bundles with encoders keep their digests
        description="For a model without encoders: by modality, what made the vectors; without a digest if unknown.",
    )
    temperature: float
    test_digest: str
    metrics: dict[str, float]
    dvc_digest: str
    digests: dict[str, str] = Field(
        default_factory=dict, description="Digest of every part that the model was made from."
    )
    scripts: list[str] = Field(
        default_factory=list,
        exclude_if=lambda scripts: not scripts,  # bundles of earlier versions keep their digests
        description="Scripts of the texts that it was trained on; empty if none is recorded, or it reads no text.",
    )
    transcription: TranscriptionModel | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # bundles without it keep their digests
        description="Transcribes utterances that have audio and no text.",
    )
    teacher: Teacher | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # likewise
        description="The model that it was distilled from.",
    )
    provenance: Provenance | None = None

    def refers_to(self) -> list[tuple[str, str]]:
        """The weights of the encoders' bases and of the transcription model."""
        digests = [encoder.base_digest for encoder in self.encoders.values()]
        if self.transcription is not None:
            digests.append(self.transcription.base_digest)
        return [("BaseEncoder", digest) for digest in digests]

    def described(self) -> dict[str, Any]:
        """The fields that do not depend on the files: the content of ``bundle.json``."""
        return self.model_dump(mode="json", exclude={*self.outside_digest, "files", "kind", "schema_version"})


class BaseEncoder(Manifest):
    """Weights, configuration and preprocessing of a pretrained model: the base of fine-tuned encoders, or a transcription model."""

    family: str
    source: str
    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"source"}


class ScoredShards(Manifest):
    """The scores of some shards of an archive: ``turns/SHARD.parquet`` and ``calls/SHARD.parquet`` of each."""

    dataset: str
    labels: list[str]
    bundle_digest: str
    model_version: str = ""
    shards: list[dict[str, Any]] = Field(description="What was scored of each shard, in order.")


class ArchiveScores(Manifest):
    """The scores of an archive: ``calls.parquet``, ``scores.html`` and ``plan.json``; the turns are in the parts."""

    dataset: str
    bundle_digest: str
    model_version: str = ""
    turns: int
    calls: int
    parts: list[Segment] = Field(description="Digests of the artifacts with the tables of turns.")

    def refers_to(self) -> list[tuple[str, str]]:
        """The tables of turns."""
        return [("ScoredShards", digest) for digest in self.parts]


MANIFESTS: dict[str, type[Manifest]] = {
    cls.__name__: cls
    for cls in (
        UtteranceSet,
        ValidationReport,
        DataProfile,
        EncoderCheckpoint,
        EmbeddingShard,
        EmbeddingSet,
        MoEModel,
        EvaluationReport,
        GateVerdict,
        ModelBundle,
        BaseEncoder,
        ScoredShards,
        ArchiveScores,
    )
}
