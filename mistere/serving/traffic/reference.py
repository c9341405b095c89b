"""The reference of a bundle's traffic: what the model answered for its test split, and the profile of its data.

``traffic_profile.json`` in the bundle holds the same figures as the traffic, counted over the predictions for the test split, so that a
model's mistakes are no drift. Durations, levels and lengths are those of the data profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.common.parsing.parquet import read_parquet
from mistere.data.profile import EDGES, PROFILE_FILE, load_profile
from mistere.metrics.predictions import PREDICTIONS_FILE
from mistere.serving.traffic.figures import (
    OTHER,
    TOTAL_POSITIONS,
    Counts,
    Figures,
    pair_counts,
    prediction_positions,
)

if TYPE_CHECKING:
    from mistere.artifacts.io import ArtifactHandle
    from mistere.artifacts.manifests import EvaluationReport, ModelBundle

TRAFFIC_PROFILE_FILE: Final = "traffic_profile.json"
_OF_PREDICTIONS: Final = ("total", "label", "probability", "confidence", "weight", "modality", "script", "label_pairs")
_LATER: Final = ("label_pairs",)
"""Figures that bundles of earlier versions lack."""


def prediction_counts(predictions: Path, figures: Figures, scripts: Mapping[str, int]) -> Counts:
    """The counts of a predictions file, as if the test split had been traffic.

    Args:
        predictions: what :func:`mistere.evaluation.split_metrics.write_predictions` wrote.
        figures: of the bundle.
        scripts: how many texts of train have each script.

    Raises:
        ArtifactError: the file is not readable.
    """
    columns = ["dialogue_id", "probabilities", "expert_weights", "modalities"]
    try:
        table = read_parquet(predictions, columns).combine_chunks()
    except ParseError as error:
        raise ArtifactError(f"{predictions} is not readable parquet: {error}", "run the pipeline again") from error
    turns = len(table)
    probabilities, weights = (
        table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(turns, -1)
        for name in ("probabilities", "expert_weights")
    )
    counts = figures.empty()
    positions = prediction_positions(figures, probabilities, weights, table["modalities"].to_pylist())
    counts.values[:] = np.bincount(positions, minlength=figures.size)
    dialogues = np.asarray(table["dialogue_id"].to_pylist(), dtype=object)
    names, groups = np.unique(dialogues, return_inverse=True)
    predicted = probabilities.argmax(1)
    for number in range(len(names)):
        own = predicted[groups == number]
        counts.table("label_pairs")[:] += pair_counts(own, np.ones(len(own), bool), len(figures.labels))
    pairs = int(counts.table("label_pairs")[0].sum())
    totals = {"dialogues": len(names), "turns": turns, "pairs": pairs}
    for key, count in totals.items():
        counts.values[TOTAL_POSITIONS[key]] = count
    for script, count in scripts.items():
        counts.values[figures.script_positions.get(script, figures.script_positions[OTHER])] += count
    return counts


def write_traffic_profile(counts: Counts, path: Path) -> None:
    """Write the reference; deterministic."""
    content = {
        name: dict(zip(counts.figures.by_name[name].keys, counts.table(name).tolist(), strict=True))
        for name in _OF_PREDICTIONS
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def write_reference(
    bundle: ModelBundle, report: ArtifactHandle[EvaluationReport], scripts: Mapping[str, int], folder: Path
) -> None:
    """Write what a model answered for its test split into its bundle's folder; nothing if the evaluation kept no predictions.

    Args:
        bundle: the bundle's manifest.
        report: the evaluation.
        scripts: how many texts of train have each script; empty for a model that reads no text.
        folder: of the bundle.
    """
    if PREDICTIONS_FILE in report.manifest.files:
        counts = prediction_counts(report.file(PREDICTIONS_FILE), Figures.of(bundle), scripts)
        write_traffic_profile(counts, folder / TRAFFIC_PROFILE_FILE)


def read_traffic_profile(path: Path, figures: Figures) -> Counts:
    """Read what :func:`write_traffic_profile` wrote.

    Raises:
        ArtifactError: the file is damaged, or that of another model.
    """
    counts = figures.empty()
    try:
        content = read_json(path)
        for name in _OF_PREDICTIONS:
            if name in _LATER and name not in content:
                continue
            figure = figures.by_name[name]
            rows = np.array([content[name][key] for key in figure.keys], np.int64)
            counts.table(name)[:] = rows.reshape(len(figure.keys), figure.bins)
    except (OSError, ParseError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(
            f"{path} is not a valid profile of predictions", "download or register the model again"
        ) from error
    return counts


def bundle_reference(bundle: ArtifactHandle[ModelBundle]) -> tuple[Counts, list[str]]:
    """The reference of a bundle's traffic, and a sentence for each part that the bundle lacks.

    Raises:
        ArtifactError: a file of the bundle is damaged.
    """
    figures = Figures.of(bundle.manifest)
    counts, missing = figures.empty(), []
    if TRAFFIC_PROFILE_FILE in bundle.manifest.files:
        counts = read_traffic_profile(bundle.file(TRAFFIC_PROFILE_FILE), figures)
    else:
        missing.append(
            "the bundle was made before models recorded their predictions, so labels, confidence, weights, modalities and scripts are "
            "not compared: the next run registers a model that does."
        )
    if PROFILE_FILE in bundle.manifest.files:
        profile = load_profile(bundle.file(PROFILE_FILE))
        for name in EDGES:
            values = profile.histograms.get(name)
            if values is not None and len(values) == figures.by_name[name].bins:
                counts.table(name)[0] = values
    else:
        missing.append("the bundle has no profile of its data, so durations, levels and lengths are not compared.")
    return counts, missing
