"""What each artifact says of itself: the ``manifest.json`` that is written last.

The stage fills in the fields its readers need; the engine (:mod:`mistere.engine.execution`) adds who made it, the digests of
its inputs and of each of its files, and the artifact's own digest. That digest covers the content alone (kind, version,
fields, files): the same bytes have the same address whoever made them, and a step that is rerun with an equal result
leaves everything after it untouched.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mistere.artifacts.identities import (
    RUN_FIELDS,
    EncoderDescription,
    EncoderIdentity,
    RunIdentity,
    gather_encoders,
    gather_fields,
)
from mistere.common.splits import Split


class FileEntry(BaseModel):
    """One file of an artifact."""

    sha256: str
    size: int


class MadeBy(BaseModel):
    """What made an artifact."""

    stage: str
    key: str
    code: str = Field(description="Digest of the stage's source and of the lock file.")
    run: RunIdentity = RunIdentity()
    config: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, description="Of the stage's own work, without starting and importing.")
    device: str = Field(default="", description="The GPU's name, or ``cpu``.")

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_fields(values, "run", {"commit": "commit", "dirty": "dirty"})


class Manifest(BaseModel):
    """Base of every artifact's manifest."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    outside_digest: ClassVar[frozenset[str]] = frozenset({"digest", "made_by", "inputs"})

    kind: str = ""
    schema_version: int = 1
    digest: str = ""
    made_by: MadeBy | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry] = Field(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        self.kind = type(self).__name__

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
                raise ValueError(f"{name!r} is no file inside the artifact")
        return files

    def refers_to(self) -> list[tuple[str, str]]:
        """Kind and digest of other artifacts that this one is of no use without."""
        return []

    def content_digest(self) -> str:
        """SHA-256 over everything but who made it and where it lies."""
        content = self.model_dump(mode="json", exclude=set(self.outside_digest))
        return canonical_digest(content)


def canonical_digest(value: Any) -> str:
    """SHA-256 of a JSON value in one canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class DatasetShard(BaseModel):
    """A parquet shard in the DVC remote, addressed by its MD5 as DVC does."""

    name: str
    md5: str
    size: int
    split: Split
    rows: int


class UtteranceSet(Manifest):
    """A reference to a dataset: nothing of the data itself is in the artifact."""

    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"remote"}

    name: str
    dvc_digest: str
    remote: str
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
    modalities: list[str]
    max_dialogues: int | None = None
    quarantined: dict[str, list[str]] = Field(
        default_factory=dict, description="Dialogues per split that validation set aside: nobody reads them."
    )
    test_digest: str = Field(description="Identifies the test split: models are compared only on equal ones.")


class ValidationReport(Manifest):
    """The verdict on a dataset; page, verdict and results of Great Expectations as data, and quarantine are beside it."""

    verdict: Literal["pass", "warn", "reject"]
    failed: list[str] = Field(default_factory=list, description="One sentence for each finding that rejects it.")
    warnings: list[str] = Field(default_factory=list, description="One sentence for each finding that does not.")
    quarantined: int = Field(default=0, description="Utterances that are set aside.")
    expectations: int
    utterances: int
    audio_seconds: float


class DataProfile(Manifest):
    """``data_profile.json``: a dataset in numbers, which a model takes with it so that later data can be compared."""

    name: str
    dvc_digest: str


class EncoderCheckpoint(Manifest):
    """A fine-tuned utterance encoder without its base weights, which are a blob of their own."""

    schema_version: int = 2
    modality: Literal["speech", "text"]
    absent: bool = False
    labels: list[str] = Field(default_factory=list)
    encoder: EncoderDescription = EncoderDescription()
    undecodable: int = Field(default=0, description="Utterances left out of the training because they do not decode.")
    metrics: dict[str, float] = Field(default_factory=dict)
    history: list[dict[str, float]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        names = ("family", "dimension", "base_digest", "source", "encoder_digest", "settings")
        return gather_fields(values, "encoder", {name: name for name in names})

    def refers_to(self) -> list[tuple[str, str]]:
        """Its base weights."""
        return [("BaseEncoder", self.encoder.base_digest)] if self.encoder.base_digest else []


class _Embeddings(Manifest):
    """``utterances.parquet`` and, row-aligned, ``<modality>.npy`` (float32 ``[rows, dimension]``, NaN row = missing)."""

    schema_version: int = 2
    modality: Literal["speech", "text"]
    absent: bool = False
    dimension: int = 0
    labels: list[str] = Field(default_factory=list)
    rows: dict[str, int] = Field(default_factory=dict)
    missing: int = Field(default=0, description="Utterances that lack the modality, undecodable ones among them.")
    undecodable: int = 0
    encoder: EncoderIdentity = EncoderIdentity()

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        flat = {"encoder_digest": "digest", "encoder_source": "source"}
        return gather_fields(values, "encoder", {**flat, "precision": "precision", "test_digest": "test_digest"})


class EmbeddingShard(_Embeddings):
    """A part of a dataset's vectors, in the order of its files."""


class EmbeddingSet(_Embeddings):
    """All of a dataset's vectors, dialogue by dialogue and turn by turn."""


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
    """The champion on the same test split: its predictions are beside the candidate's, or ``incomparable`` says why not."""

    bundle_digest: str
    test_digest: str = Field(default="", description="Of the split that its predictions here are of.")
    incomparable: str = ""


class EvaluationReport(Manifest):
    """``metrics.json``, ``predictions.parquet``, ``timelines.json`` and an example dialogue, of one model on one test split."""

    labels: list[str]
    experts: list[str]
    test_digest: str
    utterances: int
    dialogues: int
    metrics: dict[str, float] = Field(description="Of the model (``test.…``) and of the champion (``champion.…``).")
    runtime: dict[str, float] = Field(
        default_factory=dict, description="Of the model on the machine that evaluated it."
    )
    confusion: list[list[int]]
    champion: ChampionEvaluation | None = None


class RuleResult(BaseModel):
    """One gate rule's answer."""

    rule: str
    outcome: Literal["promote", "hold", "reject", "off"] = Field(description="``off``: the rule was not asked.")
    measured: float | None
    bound: float | None
    sentence: str


class GateVerdict(Manifest):
    """Promote, hold (undecided never passes) or reject, with the reasons in words."""

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
        default_factory=dict, description="By device, of fine-tuning and training."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_fields(values, "run", RUN_FIELDS)


class ModelBundle(Manifest):
    """All that the predictor needs: mixture, fine-tuned encoder parts, and the digests of the base weights.

    Beside them ``README.md`` (a model card), ``MLmodel`` (the signature), ``bundle.json`` (these fields, so that a signature over
    the files covers them), the data's profile, and an example dialogue with the answer it should get.
    """

    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"provenance"}

    schema_version: int = 2
    name: str
    labels: list[str]
    experts: list[str]
    encoders: dict[str, EncoderDescription]
    temperature: float
    test_digest: str
    metrics: dict[str, float]
    dvc_digest: str
    digests: dict[str, str] = Field(default_factory=dict, description="Of every part that the model was made from.")
    provenance: Provenance | None = None

    def refers_to(self) -> list[tuple[str, str]]:
        """Its encoders' base weights."""
        return [("BaseEncoder", encoder.base_digest) for encoder in self.encoders.values()]

    def described(self) -> dict[str, Any]:
        """The fields without what comes and goes with the files: the content of ``bundle.json``."""
        return self.model_dump(mode="json", exclude={*self.outside_digest, "files", "kind", "schema_version"})


class BaseEncoder(Manifest):
    """Base weights, configuration and preprocessing of a pretrained encoder, shared by all that build on it."""

    family: str
    source: str
    outside_digest: ClassVar[frozenset[str]] = Manifest.outside_digest | {"source"}


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
    )
}
