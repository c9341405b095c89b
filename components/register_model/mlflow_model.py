"""The bundle's ``MLmodel`` file, with the signature of inputs and outputs, and the module that loads the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mistere.serving.protocol import embedding_name

FILE = "MLmodel"
_EPOCH = "1970-01-01 00:00:00"


def write_mlflow_model(
    folder: Path, labels: Sequence[str], experts: Sequence[str], vectors: Mapping[str, int] | None = None
) -> None:
    """Write ``MLmodel``: input and output are tables with a row for each utterance; equal models give equal bytes.

    Args:
        folder: the bundle's folder.
        labels: in the order of the probabilities.
        experts: in the order of the weights.
        vectors: for a model that takes vectors only, the width of each modality's.
    """
    from mlflow.models import ModelSignature
    from mlflow.models.model import Model
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.float)
    taken = [ColSpec("string", "text", required=False), ColSpec("binary", "audio", required=False)]
    if vectors:
        taken = [ColSpec(numbers, embedding_name(modality), required=False) for modality in vectors]
    signature = ModelSignature(
        inputs=Schema(
            [ColSpec("string", "dialogue_id", required=False), ColSpec("long", "turn", required=False), *taken]
        ),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec(numbers, "probabilities"),
                ColSpec(numbers, "expert_weights"),
                ColSpec("string", "modalities_used"),
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
            "labels": list(labels),
            "experts": list(experts),
            **({"vectors": dict(vectors)} if vectors else {}),
        },
    )
    model.utc_time_created = _EPOCH
    (folder / FILE).write_text(model.to_yaml(), encoding="utf-8")
