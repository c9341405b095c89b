"""The counts of the traffic as Prometheus metrics, read when they are scraped, so that a request pays nothing for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mistere.predictor.traffic.recorder import TrafficRecorder
from mistere.serving.traffic.figures import Counts

_COUNTS: Final = {
    "label": ("mistere_traffic_label", "New turns by predicted label."),
    "modality": ("mistere_traffic_modality", "New turns by present modality; none: predicted from the context."),
    "script": ("mistere_traffic_script", "New turns with text by the script of most of its letters."),
}
_HISTOGRAMS: Final = {
    "confidence": ("mistere_traffic_confidence", "Probability of the predicted label of new turns.", "", 2),
    "probability": ("mistere_traffic_probability", "Probability of each label, of new turns.", "label", 1),
    "weight": ("mistere_traffic_expert_weight", "Weight of an expert, of new turns that have it.", "expert", 2),
    "seconds": ("mistere_traffic_seconds", "Duration of the recordings of new turns, seconds.", "", 8),
    "text_length": ("mistere_traffic_text_length", "Length of the texts of new turns, characters.", "", 20),
    "rms_dbfs": (
        "mistere_traffic_level_below_full_scale_db",
        "Level of the recordings of new turns, dB below full scale.",
        "",
        6,
    ),
}
"""By figure: name, meaning, the label that holds the figure's key, and how many of its bins make a bucket."""
_TOTALS: Final = {
    "turns": ("mistere_traffic_turns", "Predicted turns, each turn of a live conversation once."),
    "resent": ("mistere_traffic_resent_turns", "Predicted turns that were counted before."),
    "dialogues": ("mistere_traffic_dialogues", "Dialogues that began."),
}


class TrafficCollector(Collector):
    """Shows the recorder of the served model; nothing before it is loaded."""

    def __init__(self) -> None:
        self.recorder: TrafficRecorder | None = None

    def collect(self) -> Iterable[Metric]:
        """The metrics in Prometheus' form."""
        recorder = self.recorder
        if recorder is None:
            return
        counts = recorder.total
        for key, (name, meaning) in _TOTALS.items():
            yield CounterMetricFamily(name, meaning, value=counts.total(key))
        for figure, (name, meaning) in _COUNTS.items():
            family = CounterMetricFamily(name, meaning, labels=[figure])
            for key, count in counts.by_key(figure).items():
                family.add_metric([key], count)
            yield family
        for figure, (name, meaning, label, width) in _HISTOGRAMS.items():
            yield _histogram(counts, figure, name, meaning, label, width)
        yield CounterMetricFamily(
            "mistere_traffic_store_failures", "Failed writes of the traffic to the store.", value=recorder.failures
        )
        yield GaugeMetricFamily(
            "mistere_traffic_store_written_seconds",
            "Time of the last write of the traffic to the store, seconds since 1970; 0 without a store.",
            value=recorder.written_at,
        )


def _histogram(counts: Counts, figure: str, name: str, meaning: str, label: str, width: int) -> HistogramMetricFamily:
    """A histogram with buckets of several bins. Its sum is that of the bins' middles."""
    layout, table = counts.figures.by_name[figure], counts.table(figure)
    edges = layout.edges
    if layout.high <= 0:  # a histogram of negative values would have neither sum nor count in Prometheus' form
        edges, table = -edges[::-1], table[:, ::-1]
    middles = (edges[1:] + edges[:-1]) / 2
    family = HistogramMetricFamily(name, meaning, labels=[label] if label else [])
    for key, row in zip(layout.keys, table, strict=True):
        cumulative = row.cumsum()[width - 1 :: width].tolist()
        bounds = [f"{edge:g}" for edge in edges[width::width]]
        buckets = [*zip(bounds[:-1], cumulative[:-1], strict=True), ("+Inf", int(row.sum()))]
        family.add_metric([key] if label else [], buckets, sum_value=float(np.dot(row, middles)))
    return family


TRAFFIC: Final = TrafficCollector()
REGISTRY.register(TRAFFIC)
