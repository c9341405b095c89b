"""Evaluation metrics shown by Kubeflow Pipelines."""

from __future__ import annotations

from pathlib import Path

from kfp.dsl import ClassificationMetrics, Metrics

from components.evaluate_model.headline import show
from mistere.artifacts.io import MANIFEST
from mistere.artifacts.manifests import EvaluationReport


def test_headline_metrics_and_confusion_matrix_use_kfp_types(tmp_path: Path) -> None:
    manifest = EvaluationReport(
        labels=["calm", "angry"],
        experts=["text", "cross_modal"],
        test_digest="t",
        utterances=7,
        dialogues=2,
        metrics={"test.weighted_f1": 0.7, "test.f1.calm": 0.6, "champion.difference.weighted_f1": -0.01},
        confusion=[[3, 1], [0, 3]],
    )
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json())
    metrics, confusion = Metrics(), ClassificationMetrics()
    show(str(tmp_path), metrics, confusion)
    assert metrics.metadata == {"test.weighted_f1": 0.7, "champion.difference.weighted_f1": -0.01}
    matrix = confusion.metadata["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["calm", "angry"]
    assert [row["row"] for row in matrix["rows"]] == [[3, 1], [0, 3]]
