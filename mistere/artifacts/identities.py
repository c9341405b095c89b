"""The facts that travel from artifact to artifact as one value: what identifies an encoder, a dataset and a run.

Earlier releases wrote the fields of these objects side by side with other fields. :func:`gather_fields` and
:func:`gather_encoders` convert what they wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mistere.common.names import RelativeName, Segment


class EncoderIdentity(BaseModel):
    """What identifies a fine-tuned encoder and the vectors that it makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        default="", description="Where the base weights came from, with the revision that was resolved."
    )
    digest: str = Field(default="", description="Base weights, fine-tuned weights and preprocessing together.")
    precision: str = Field(default="float32", description="Precision in which the backbone computed the vectors.")
    test_digest: str = Field(default="", description="Identifies the test split of the dataset it was fine-tuned on.")


class EncoderDescription(BaseModel):
    """Everything needed to load a fine-tuned encoder, apart from its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: EncoderIdentity = EncoderIdentity()
    family: str = ""
    base_digest: Segment = Field(
        default="", description="Digest of the base encoder: weights, configuration, preprocessing."
    )
    dimension: int = 0
    settings: dict[str, Any] = Field(default_factory=dict, description="The configuration it was fine-tuned with.")

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_fields(
            values, "identity", {"source": "source", "precision": "precision", "encoder_digest": "digest"}
        )


class TranscriptionModel(BaseModel):
    """What identifies a model that transcribes speech, and how it is used.

    Attributes:
        source: where its weights came from, with the revision that was resolved.
        base_digest: digest of its weights, configuration and tokenizer in the store.
        language: code of the spoken language, or ``detect``.
        max_tokens: tokens of the transcript of a window of audio at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = ""
    base_digest: Segment
    language: str
    max_tokens: int = Field(gt=0)


class DatasetIdentity(BaseModel):
    """What identifies a version of a dataset.

    Attributes:
        name: name of the dataset; empty if unknown.
        dvc_digest: the version's DVC digest.
        remote: location of the DVC remote that holds the version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    dvc_digest: str = ""
    remote: str = ""


class RunIdentity(BaseModel):
    """What identifies a run of the pipeline.

    Attributes:
        run_id: names the run in the store.
        profile: the profile it was started with.
        commit: Git commit of the code; empty outside a Git repository.
        dirty: whether the code had uncommitted changes.
        schedule: ``NAME/DEFINITION`` of the schedule that started the run; empty for a run that a person started.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: Segment = ""
    profile: str = ""
    commit: Segment = ""
    dirty: bool = False
    schedule: RelativeName = ""


class Teacher(BaseModel):
    """The model that a student was distilled from.

    Attributes:
        bundle_digest: its bundle.
        settings: the section ``distillation`` with the seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle_digest: Segment
    settings: dict[str, Any] = Field(default_factory=dict)


_FLAT_ENCODERS: Final = frozenset({"encoder_digests", "encoder_sources", "precisions"})
RUN_FIELDS: Final = {name: name for name in RunIdentity.model_fields}
"""The fields of a run's identity where an earlier release wrote them side by side with others."""


def gather_fields(values: Any, into: str, fields: Mapping[str, str]) -> Any:
    """Move the flat fields of an earlier release into one object.

    Args:
        values: a model's input, before validation.
        into: name of the object's field.
        fields: names inside the object, by the flat names.

    Returns:
        The input with the object, or unchanged if it has no flat field or already has the object.
    """
    if not isinstance(values, dict) or into in values or not fields.keys() & values.keys():
        return values
    kept = {name: value for name, value in values.items() if name not in fields}
    return {**kept, into: {inner: values[name] for name, inner in fields.items() if name in values}}


def gather_encoders(values: Any) -> Any:
    """Move ``encoder_digests``, ``encoder_sources`` and ``precisions`` of an earlier release into ``encoders``.

    Args:
        values: a model's input, before validation.

    Returns:
        The input with ``encoders``, or unchanged if it has no ``encoder_digests``.
    """
    if not isinstance(values, dict) or "encoders" in values or "encoder_digests" not in values:
        return values
    flat = [values.get(name, {}) for name in ("encoder_digests", "encoder_sources", "precisions")]
    if not all(isinstance(by_modality, dict) for by_modality in flat):
        return values
    digests, sources, precisions = flat
    encoders = {
        modality: {
            "source": sources.get(modality, ""),
            "digest": digest,
            "precision": precisions.get(modality, "float32"),
            "test_digest": values.get("test_digest", ""),
        }
        for modality, digest in digests.items()
    }
    kept = {name: value for name, value in values.items() if name not in _FLAT_ENCODERS}
    return {**kept, "encoders": encoders}
