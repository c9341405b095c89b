"""A bundle as a model of MLflow: a folder with its description and a reference to it, never the bundle's own folder.

MLflow writes a file into the folder of a model that it loads from a local registry, which would damage a bundle.
"""

from __future__ import annotations

import base64
import io
import json
import math
import platform
import re
import shutil
import struct
import tempfile
import time
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.artifacts.bundle_reference import BundleReference
from mistere.common.modalities import SPEECH, TEXT
from mistere.common.parsing.documents import load_json, read_yaml
from mistere.registry.lineage import Lineage
from mistere.registry.mlflow.run_logging import (
    TAG_PREFIX,
    LoggedRun,
    RunRecord,
    metric_name,
    parameter_texts,
    run_tags,
    short_digest,
    storing,
)
from mistere.serving.protocol import embedding_name

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models.model import Model
    from mlflow.tracking import MlflowClient

MODEL_FILE, CARD_FILE = "MLmodel", "README.md"
_DIGEST_TAG: Final = f"{TAG_PREFIX}bundle_digest"
_VERSIONS_TAG: Final = "mlflow.modelVersions"
_EXAMPLE_FILE, _SERVING_EXAMPLE_FILE = "input_example.json", "serving_input_example.json"
_EXAMPLE_TURNS = ("How was your day?", "It could not be better, I got the job!")
_METRICS_PER_CALL = 1000


def log_model(
    client: MlflowClient, run: LoggedRun, lineage: Lineage, record: RunRecord, store: str, bundle: Path
) -> LoggedModel:
    """Log a bundle as a model of its run; a bundle is one model, which a rerun that gives the same bundle finds.

    Args:
        client: of the tracking server.
        run: the MLflow run.
        lineage: of the bundle.
        record: what is logged of the run.
        store: URI of the store that holds the bundle.
        bundle: the bundle's folder on this machine.

    Raises:
        MistereError: the model's files cannot be stored.
    """
    from mlflow.entities import LoggedModelOutput

    known = client.search_logged_models([run.experiment_id], f"tags.`{_DIGEST_TAG}` = '{lineage.bundle_digest}'")
    complete = [model for model in known if str(model.status) == "READY"]
    model = complete[0] if complete else _create(client, run, lineage, record, store, bundle)
    outputs = client.get_run(run.run_id).outputs
    if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def link_version(client: MlflowClient, model: LoggedModel, name: str, version: str) -> None:
    """Name a registered version in the model, for the columns of MLflow's user interface; a server has done it itself."""
    current = client.get_logged_model(model.model_id).tags.get(_VERSIONS_TAG, "[]")
    versions = load_json(current)
    if {"name": name, "version": str(version)} not in [{**one, "version": str(one.get("version"))} for one in versions]:
        entry = {"name": name, "version": str(version)}
        client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: json.dumps([*versions, entry])})


def _create(
    client: MlflowClient, run: LoggedRun, lineage: Lineage, record: RunRecord, store: str, bundle: Path
) -> LoggedModel:
    source = {name: value for name, value in record.tags.items() if name.startswith("mlflow.source.")}
    created = client.create_logged_model(
        run.experiment_id,
        name=re.sub(r"[/:.%\"']", "_", lineage.model_name),
        source_run_id=run.run_id,
        tags={_DIGEST_TAG: lineage.bundle_digest, **run_tags(lineage.run), **source},
        params=parameter_texts(record.parameters),
        model_type="emotion recognition in conversations",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        BundleReference(bundle_digest=lineage.bundle_digest, store=store).write(folder)
        _describe(folder, bundle, created.model_id, run.run_id, list(lineage.encoders))
        with storing(f"model {created.model_id}"):
            client.log_model_artifacts(created.model_id, str(folder))
    _log_metrics(client, created.model_id, run, record)
    return client.finalize_logged_model(created.model_id, "READY")


def _describe(folder: Path, bundle: Path, model_id: str, run_id: str, modalities: Sequence[str]) -> None:
    """Write the model card, ``MLmodel`` with the ids of MLflow, and an input example."""
    from mlflow.models.model import Model

    shutil.copyfile(bundle / CARD_FILE, folder / CARD_FILE)
    model = Model.from_dict(read_yaml(bundle / MODEL_FILE))  # its `load` decodes the path like a URL
    model.model_id = model.model_uuid = model_id
    model.run_id = run_id
    model.utc_time_created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    model.flavors.setdefault("python_function", {})["python_version"] = platform.python_version()
    vectors = (model.metadata or {}).get("vectors") or {}
    if vectors or {SPEECH, TEXT} & set(modalities):  # of other modalities there is nothing to invent
        _write_example(folder, model, _vectors_example(vectors) if vectors else _example(modalities))
    model.save(str(folder / MODEL_FILE))


def _write_example(folder: Path, model: Model, table: Mapping[str, list[object]]) -> None:
    """Write an input example and name it in ``MLmodel``."""
    (folder / _EXAMPLE_FILE).write_text(json.dumps(table), encoding="utf-8")
    (folder / _SERVING_EXAMPLE_FILE).write_text(json.dumps({"dataframe_split": table}, indent=1), encoding="utf-8")
    model.saved_input_example_info = {
        "artifact_path": _EXAMPLE_FILE,
        "serving_input_path": _SERVING_EXAMPLE_FILE,
        "type": "dataframe",
        "pandas_orient": "split",
    }


def _example(modalities: Sequence[str]) -> dict[str, list[object]]:
    """A dialogue as MLflow stores a table. It is invented: a bundle's own example may be a private recording."""
    audio = base64.b64encode(_tone()).decode() if SPEECH in modalities else None
    rows = [["example", turn, text, audio] for turn, text in enumerate(_EXAMPLE_TURNS)]
    return {"columns": ["dialogue_id", "turn", "text", "audio"], "data": [*rows]}


def _vectors_example(widths: Mapping[str, int]) -> dict[str, list[object]]:
    """A dialogue of zero vectors as MLflow stores a table.

    Args:
        widths: numbers of a vector, by modality.
    """
    rows = [["example", turn, *([0.0] * width for width in widths.values())] for turn in range(len(_EXAMPLE_TURNS))]
    return {"columns": ["dialogue_id", "turn", *map(embedding_name, widths)], "data": [*rows]}


def _tone() -> bytes:
    """Half a second of a quiet tone as a WAV file (8 kHz, 16 bit)."""
    rate = 8000
    samples = [int(1000 * math.sin(2 * math.pi * 220 * index / rate)) for index in range(rate // 2)]
    file = io.BytesIO()
    with wave.open(file, "wb") as clip:
        clip.setparams((1, 2, rate, len(samples), "NONE", ""))
        clip.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()


def _log_metrics(client: MlflowClient, model_id: str, run: LoggedRun, record: RunRecord) -> None:
    """Attach the run's evaluation to the model, so that MLflow's table of models can show and sort by it."""
    from mlflow.entities import Metric

    names = [name for name in record.metrics if name.startswith("test.")]
    if not names:
        return
    # the same point of the same curve: with another time, the run would have each metric twice
    logged_at = client.get_metric_history(run.run_id, metric_name(names[0]))[-1].timestamp
    dataset = record.dataset if record.dataset.dvc_digest else None
    metrics = [
        Metric(
            metric_name(name),
            record.metrics[name],
            logged_at,
            0,
            model_id=model_id,
            dataset_name=dataset.name if dataset else None,
            dataset_digest=short_digest(dataset) if dataset else None,
            run_id=run.run_id,
        )
        for name in names
    ]
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
