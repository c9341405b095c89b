"""What the weights of the expert gate say about which expert is right, with intervals from resampled dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mistere.common.counting import counted
from mistere.metrics.classification import DialogueBootstrap, Interval

_LEADERS = ("leader", "average", "most_confident")


class GateTrust:
    """Gate weights beside which experts are right.

    Experts *differ* in an utterance if, of the experts present, some predict the true class and some do not; only there can a
    weight help or harm.

    Args:
        weights: ``[N, E]``, exactly 0 where an expert is absent.
        by_expert: the experts' probabilities ``[N, E, C]``.
        true: classes ``[N]``.
    """

    def __init__(self, weights: np.ndarray, by_expert: np.ndarray, true: np.ndarray) -> None:
        self._weights = weights.astype(np.float64)
        self._confidence = by_expert.max(-1).astype(np.float64)
        self._present = weights > 0
        self._right = (by_expert.argmax(-1) == true[:, None]) & self._present
        self._wrong = ~self._right & self._present
        self.differing = self._right.any(1) & self._wrong.any(1)

    def pooled_auc(self, bootstrap: DialogueBootstrap | None = None) -> Interval:
        """AUC of trust: over all pairs of a right and a wrong expert in one utterance, the share in which the right one has the
        larger weight; ties count half. NaN if experts differ nowhere.
        """
        pairs = self._right[:, :, None] & self._wrong[:, None, :]
        gap = self._weights[:, :, None] - self._weights[:, None, :]
        won = (((gap > 0) + 0.5 * (gap == 0)) * pairs).sum((1, 2))
        return _ratio(won, pairs.sum((1, 2)), bootstrap)

    def expert_auc(self, expert: int) -> float:
        """AUC of one expert's weight: over all pairs of an utterance in which the expert is right and one in which it is wrong,
        the share in which its weight is larger in the former; ties count half.

        Only utterances with several experts count, since a single expert always has the weight 1. NaN if the expert is always
        right or always wrong.
        """
        return self._auc(self._weights, expert)

    def expert_confidence_auc(self, expert: int) -> float:
        """As :meth:`expert_auc`, for the expert's own confidence (its largest probability) instead of its weight."""
        return self._auc(self._confidence, expert)

    def right_shares(self, bootstrap: DialogueBootstrap | None = None) -> dict[str, Interval]:
        """Where experts differ, how often an expert is right.

        ``leader``: the one with the largest weight; ``average``: one drawn at random; ``most_confident``: the one with the
        largest probability. Ties are split. NaN if experts differ nowhere.
        """
        scores = {"leader": self._weights, "average": np.zeros_like(self._weights), "most_confident": self._confidence}
        count = self.differing.astype(np.float64)
        return {name: _ratio(self._chosen_right(values) * count, count, bootstrap) for name, values in scores.items()}

    def metrics(self, experts: Sequence[str], bootstrap: DialogueBootstrap, prefix: str = "") -> dict[str, float]:
        """All figures, flat; undefined ones are left out.

        ``gate.differing`` (number of utterances), ``gate.auc``, ``gate.<expert>.auc``, ``gate.<expert>.confidence_auc``,
        ``gate.leader_right``, ``gate.average_right``, ``gate.most_confident_right``.
        """
        flat = {"gate.differing": float(self.differing.sum())}
        for index, name in enumerate(experts):
            flat[f"gate.{name}.auc"] = self.expert_auc(index)
            flat[f"gate.{name}.confidence_auc"] = self.expert_confidence_auc(index)
        if self.differing.any():
            named = {"auc": self.pooled_auc(bootstrap)}
            named |= {f"{name}_right": share for name, share in self.right_shares(bootstrap).items()}
            for name, one in named.items():
                flat |= {f"gate.{name}": one.value, f"gate.{name}.low": one.low, f"gate.{name}.high": one.high}
        return {f"{prefix}{name}": value for name, value in flat.items() if np.isfinite(value)}

    def _auc(self, scores: np.ndarray, expert: int) -> float:
        counted = self._present[:, expert] & (self._present.sum(1) > 1)
        right = self._right[counted, expert]
        _, ranks, sizes = np.unique(scores[counted, expert], return_inverse=True, return_counts=True)
        # The mean rank of equal scores counts their ties half (Mann-Whitney U).
        mean_rank = (np.cumsum(sizes) - (sizes - 1) / 2)[ranks]
        hits, misses = int(right.sum()), int((~right).sum())
        if not hits or not misses:
            return float("nan")
        return float((mean_rank[right].sum() - hits * (hits + 1) / 2) / (hits * misses))

    def _chosen_right(self, scores: np.ndarray) -> np.ndarray:
        """For each utterance the share of right experts ``[N]`` among the present experts with the largest score."""
        ranked = np.where(self._present, scores, -np.inf)
        chosen = (ranked == ranked.max(1, keepdims=True)) & self._present
        return np.asarray((chosen & self._right).sum(1) / np.maximum(chosen.sum(1), 1))


def _ratio(part: np.ndarray, whole: np.ndarray, bootstrap: DialogueBootstrap | None) -> Interval:
    """Sum of ``part`` over sum of ``whole``, both ``[N]``; resamples in which the latter is 0 are left out."""
    total = float(whole.sum())
    if not total:
        return Interval(float("nan"), float("nan"), float("nan"))
    value = float(part.sum()) / total
    if bootstrap is None:
        return Interval(value, value, value)
    sums = bootstrap.sums(np.stack([part, whole], axis=1))
    draws = sums[sums[:, 1] > 0]
    return bootstrap.interval(value, draws[:, 0] / draws[:, 1]) if len(draws) else Interval(value, value, value)


def trust_sentence(metrics: Mapping[str, float], experts: Sequence[str] = ()) -> str:
    """What the gate's weights say about who is right, in words; empty if the metrics lack it, as those of earlier reports do.

    Args:
        metrics: with ``test.gate.…``.
        experts: names of the experts whose own AUC is added; none where a table shows it.
    """
    auc = metrics.get("test.gate.auc")
    shares = {name: metrics.get(f"test.gate.{name}_right") for name in _LEADERS}
    if auc is None or None in shares.values():
        return ""
    low, high = metrics.get("test.gate.auc.low"), metrics.get("test.gate.auc.high")
    bounds = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    leader, average, confident = (100 * (shares[name] or 0.0) for name in _LEADERS)
    sentence = (
        f"Where experts differ in being right ({counted(int(metrics.get('test.gate.differing', 0)), 'test utterance')}), AUC of trust is "
        f"{auc:.2f}{bounds} (the share of pairs in which the right expert has the larger weight; 0.5 is chance); the expert with "
        f"the largest weight is right in {leader:.0f} %, an average one in {average:.0f} %, the most confident one in "
        f"{confident:.0f} %."
    )
    own = ", ".join(
        f"{name.replace('_', '-')} {metrics[weight]:.2f} ({metrics[confidence]:.2f})"
        for name in experts
        if (weight := f"test.gate.{name}.auc") in metrics
        and (confidence := f"test.gate.{name}.confidence_auc") in metrics
    )
    return f"{sentence} AUC of each expert's weight, and of its confidence: {own}." if own else sentence
