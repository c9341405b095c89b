"""The main metrics of an evaluation, for the user interface of Kubeflow Pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import MANIFEST
from mistere.artifacts.manifests import EvaluationReport

_MAIN: Final = ("weighted_f1", "weighted_f1.low", "weighted_f1.high", "macro_f1", "accuracy", "ece")
_CHAMPION: Final = (
    "weighted_f1",
    "difference.weighted_f1",
    "difference.weighted_f1.low",
    "difference.weighted_f1.high",
)


def show(report: str, metrics: Any, confusion: Any) -> None:
    """Fill KFP's artifacts from a task's report.

    Args:
        report: folder with the report's manifest.
        metrics: a ``kfp.dsl.Metrics``.
        confusion: a ``kfp.dsl.ClassificationMetrics``; rows are the true labels.
    """
    manifest = EvaluationReport.model_validate_json((Path(report) / MANIFEST).read_text(encoding="utf-8"))
    names = [f"test.{name}" for name in _MAIN] + [f"champion.{name}" for name in _CHAMPION]
    for name in names:
        if name in manifest.metrics:
            metrics.log_metric(name, manifest.metrics[name])
    confusion.log_confusion_matrix(manifest.labels, manifest.confusion)
