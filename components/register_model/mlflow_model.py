"""The bundle's ``MLmodel`` file, with the signature of inputs and outputs, and the module that loads the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistere.artifacts.manifests import ModelBundle
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.data.kinds import kind_of
from mistere.serving.protocol import PREDICT, TEXT_SOURCE, embedding_name

if TYPE_CHECKING:
    from mlflow.types import ColSpec

FILE = "MLmodel"
_EPOCH = "1970-01-01 00:00:00"


def write_mlflow_model(
    folder: Path, bundle: ModelBundle, kinds: Mapping[str, str], vectors: Mapping[str, int] | None = None
) -> None:
    """Write ``MLmodel``: input and output are tables with a row for each utterance; equal models give equal bytes.

    Args:
        folder: the bundle's folder.
        bundle: its manifest.
        kinds: the kinds of the dataset's modalities.
        vectors: for a model that takes vectors only, the width of each modality's.
    """
    from mlflow.models import ModelSignature
    from mlflow.models.model import Model
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.float)
    taken = [ColSpec("string", "text", required=False), ColSpec("binary", "audio", required=False)]
    taken += [_column(name, kinds[name]) for name in bundle.encoders if name not in IMPLICIT_KINDS]
    if vectors:
        values = Array(DataType.double)  # what Python and numpy have by themselves; float would refuse them
        taken = [ColSpec(values, embedding_name(modality), required=False) for modality in vectors]
    order = [ColSpec("string", "dialogue_id", required=False), ColSpec("long", "turn", required=False)]
    source = [ColSpec("string", TEXT_SOURCE)] if bundle.transcription is not None else []
    signature = ModelSignature(
        inputs=Schema([*order, ColSpec("boolean", PREDICT, required=False), *taken]),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec(numbers, "probabilities"),
                ColSpec(numbers, "expert_weights"),
                ColSpec("string", "modalities_used"),
                *source,
            ]
        ),
    )
    model = Model(
        signature=signature,
        flavors={
            "mistere": {"server": "kserve", "protocols": ["v1", "v2"]},
            "python_function": {"loader_module": "mistere.predictor.mlflow_model"},
        },
        model_uuid=None,
        metadata={
            "labels": bundle.labels,
            "experts": bundle.experts,
            **({"vectors": dict(vectors)} if vectors else {}),
        },
    )
    model.utc_time_created = _EPOCH
    (folder / FILE).write_text(model.to_yaml(), encoding="utf-8")


def _column(modality: str, kind_name: str) -> ColSpec:
    """The column of a further modality, in the form of its kind's tensor."""
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array

    kind = kind_of(kind_name)
    cell: Any = DataType.string if kind.plain_text else DataType.binary
    if kind.datatype == "FP32":
        cell = Array(DataType.double)
    elif kind.several:
        cell = Array(cell)
    return ColSpec(cell, modality, required=False)
