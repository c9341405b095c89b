"""Requests that a Gateway splits between the pods of a cluster, as the counters of these pods show them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.conftest import Cluster
from tests.stand_ins.gateway import Gateway

PER_TICK = 100
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Some of those of ``request_predict_seconds`` (prometheus_client's default)."""


@dataclass
class Quality:
    """What a model answers.

    Attributes:
        errors: of 100 requests.
        refuses: whether it refuses all others.
        hangs: whether it answers none, so that every client leaves.
        seconds: time of an answer.
        labels: of 100 requests by label, an utterance each.
    """

    errors: int = 0
    refuses: bool = False
    hangs: bool = False
    seconds: float = 0.02
    labels: dict[str, int] = field(default_factory=lambda: {"anger": 30, "joy": 70})


class Traffic:
    """Sends 100 requests each few milliseconds to the pods of the services that the Gateway's weights name."""

    def __init__(self) -> None:
        self.quality: dict[str, Quality] = {}
        self.requests: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, cluster: Cluster, gateway: Gateway) -> None:
        self._thread = threading.Thread(target=self._send, args=(cluster, gateway), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _send(self, cluster: Cluster, gateway: Gateway) -> None:
        while not self._over.wait(0.01):
            for backend, weight in gateway.weights.items():
                live: Any = cluster.api.find("inferenceservices", backend.removesuffix("-predictor"))
                if live is not None and weight:
                    digest = live["spec"]["predictor"]["annotations"]["mistere/bundle-digest"]
                    self.requests[digest] += PER_TICK * weight // 100

    def metrics(self, digest: str) -> str:
        """The page of a pod; the counters of a bundle do not begin at 0, as those of a pod that has served before."""
        count, quality = self.requests[digest] + 1000, self.quality.get(digest, Quality())
        if quality.hangs:
            return f'# TYPE mistere_requests counter\nmistere_requests_total{{protocol="rest_v2",code="499"}} {count}\n'
        errors = quality.errors * count // 100
        lines = [
            "# TYPE mistere_requests counter",
            f'mistere_requests_total{{protocol="rest_v2",code="200"}} {0 if quality.refuses else count - errors}',
            f'mistere_requests_total{{protocol="rest_v2",code="400"}} {count if quality.refuses else count // 10}',
            f'mistere_requests_total{{protocol="rest_v2",code="500"}} {errors}',
            "# TYPE request_predict_seconds histogram",
        ]
        for upper in (*BUCKETS, float("inf")):
            below = count if quality.seconds <= upper else 0
            text = "+Inf" if upper == float("inf") else f"{upper}"
            lines.append(f'request_predict_seconds_bucket{{le="{text}",model_name="mistere"}} {below}')
        lines.append("# TYPE mistere_last_label counter")
        lines += [
            f'mistere_last_label_total{{label="{label}"}} {share * count // 100}'
            for label, share in quality.labels.items()
        ]
        return "\n".join([*lines, ""])
