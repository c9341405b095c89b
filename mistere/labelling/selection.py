"""Choose the dialogues to label next.

Each dialogue has three figures between 0 and 1, the means over its predicted turns:

* **uncertainty**: entropy of the mixture's probabilities, divided by the logarithm of the number of labels (Lewis and Gale, 1994);
* **disagreement**: Jensen-Shannon divergence of the experts that were present, by their weights: how much the mixture's experts
  contradict each other (query by committee: Seung, Opper and Sompolinsky, 1992), divided by its largest value for so many experts;
* **rarity**: expected information of the label, ``-log share``, under the shares of the labels in a dataset or in the sample itself,
  divided by the largest one.

Figures have different spreads, so each is replaced by its rank among the dialogues. The choice is greedy: each step takes the dialogue
with the highest weighted sum of the ranks and of its **distance** to the nearest dialogue that was chosen before, the cosine distance of
the mean vectors, halved (a facility-location heuristic; Sener and Savarese, 2018, call it core-set). A part of the choice is drawn
by chance, so that shares and error rates can be estimated from it without the bias of the rest. It is drawn from all dialogues, also from
those that were chosen earlier for their figures: without them the easy ones would be left. The same seed gives the same choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mistere.common.errors import UsageError
from mistere.serving.sample.dialogue import KeptDialogue

Reason = Literal["informative", "random"]
FIGURES: Final = ("uncertainty", "disagreement", "rarity", "diversity")
WEIGHTS: Final[Mapping[str, float]] = dict.fromkeys(FIGURES, 1.0)
_LEAST_SHARE: Final = 1e-3
"""Share of a label that nobody has seen."""


@dataclass(frozen=True)
class Candidate:
    """A dialogue that may be chosen.

    Attributes:
        name: of the dialogue.
        uncertainty: 0 to 1.
        disagreement: 0 to 1.
        rarity: 0 to 1.
        vector: the mean vectors of its modalities ``[d]``; None without any.
        space: what made the vector; only vectors of one space are compared.
    """

    name: str
    uncertainty: float
    disagreement: float
    rarity: float
    vector: np.ndarray | None = None
    space: str = ""


@dataclass(frozen=True)
class Choice:
    """A chosen dialogue.

    Attributes:
        candidate: the dialogue.
        reason: whether it was chosen for its figures or by chance.
        distance: to the nearest dialogue that was chosen before, 0 to 1.
    """

    candidate: Candidate
    reason: Reason
    distance: float


def candidate_of(
    name: str, dialogue: KeptDialogue, shares: Mapping[str, float], vectors: Mapping[str, np.ndarray]
) -> Candidate:
    """The figures of a dialogue with at least one predicted turn.

    Args:
        name: of the dialogue.
        dialogue: what was kept.
        shares: share of each label; labels that it lacks are the rarest.
        vectors: modality → ``[n, d]``, NaN for what is missing.
    """
    probabilities = dialogue.array("probabilities")
    space = f"{dialogue.bundle_digest}/{'+'.join(sorted(vectors))}"
    return Candidate(
        name,
        uncertainty=float(entropies(probabilities).mean()),
        disagreement=float(
            disagreements(dialogue.array("expert_probabilities"), dialogue.array("expert_weights")).mean()
        ),
        rarity=float((probabilities @ information(dialogue.labels, shares)).mean()),
        vector=_mean_vector(vectors),
        space=space,
    )


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each row ``[n, C]``, divided by ``log C``: 0 for certainty, 1 for a uniform row."""
    safe = np.where(probabilities > 0, probabilities, 1.0)
    return -(safe * np.log(safe)).sum(-1) / np.log(max(2, probabilities.shape[-1]))


def disagreements(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Jensen-Shannon divergence of the experts of each turn, divided by the largest one; 0 for a single expert.

    Args:
        probabilities: by expert ``[n, E, C]``.
        weights: of the experts ``[n, E]``; exactly 0 for an absent one.
    """
    total = weights.sum(-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    safe = np.where(shares > 0, shares, 1.0)
    most = -(safe * np.log(safe)).sum(-1)  # the divergence of experts that are certain of different labels
    scale = np.log(max(2, probabilities.shape[-1]))
    mixed = entropies(np.einsum("ne,nec->nc", shares, probabilities)) * scale
    single = (shares * entropies(probabilities) * scale).sum(-1)
    limit = np.minimum(most, scale)
    divergence = np.divide(mixed - single, limit, out=np.zeros_like(limit), where=limit > 1e-9)
    return np.clip(divergence, 0.0, 1.0)


def information(labels: Sequence[str], shares: Mapping[str, float]) -> np.ndarray:
    """``-log share`` of each label ``[C]``, divided by the largest one; zeros if all are equally frequent."""
    values = -np.log([max(_LEAST_SHARE, shares.get(label, 0.0)) for label in labels])
    values -= values.min()
    largest = values.max()
    return values / largest if largest > 0 else values


def predicted_shares(dialogues: Sequence[KeptDialogue]) -> dict[str, float]:
    """The expected share of each label in the predicted turns of dialogues."""
    totals: dict[str, float] = {}
    for dialogue in dialogues:
        for label, total in zip(dialogue.labels, dialogue.array("probabilities").sum(0).tolist(), strict=True):
            totals[label] = totals.get(label, 0.0) + total
    whole = sum(totals.values())
    return {label: total / whole for label, total in totals.items()} if whole else {}


def parse_weights(typed: Sequence[str]) -> dict[str, float]:
    """The weights of the figures, from ``NAME=NUMBER``; those that are not named keep 1.

    Raises:
        UsageError: a name is unknown, a weight is no number from 0 to 100, or all are 0.
    """
    weights = dict(WEIGHTS)
    for each in typed:
        name, _, text = each.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in weights or not 0 <= value <= 100:
            raise UsageError(
                f"--weight {each[:80]}: write it as NAME=NUMBER with a number from 0 to 100; the names are {', '.join(FIGURES)}."
            )
        weights[name] = value
    if not any(weights.values()):
        raise UsageError("every --weight is 0: leave one above 0.")
    return weights


def choose(
    candidates: Sequence[Candidate],
    count: int,
    weights: Mapping[str, float],
    random_share: float,
    seed: int,
    earlier: Sequence[Candidate] = (),
) -> list[Choice]:
    """Choose dialogues, the most informative first and those drawn by chance last.

    Args:
        candidates: the dialogues, in any order.
        count: how many to choose; fewer if there are not so many.
        weights: of the figures and of ``diversity``.
        random_share: part of the choice that is drawn by chance, 0 to 1; at least one dialogue if it is above 0.
        seed: of the draw, and of the order of equal dialogues.
        earlier: dialogues that were chosen before, which are chosen by chance only.
    """
    ordered = sorted((*candidates, *earlier), key=lambda one: _draw(one.name, seed))
    by_chance = _drawn(min(count, len(candidates)), random_share)
    before = {one.name for one in earlier}
    drawn = ordered[:by_chance]  # the order is a draw already
    others = [one for one in ordered[by_chance:] if one.name not in before]
    scores = np.zeros(len(others))
    for figure in FIGURES[:-1]:
        scores += weights[figure] * _ranks(np.array([getattr(one, figure) for one in others]))
    vectors = _unit_vectors(others)
    spaces = np.array([one.space for one in others])
    distances = np.ones(len(others))
    left = np.ones(len(others), bool)
    chosen = []
    for _ in range(min(count - by_chance, len(others))):
        values = np.where(left, scores + weights["diversity"] * distances, -np.inf)
        best = int(np.argmax(values))
        chosen.append(Choice(others[best], "informative", float(distances[best])))
        left[best] = False
        near = np.round((1 - vectors @ vectors[best]) / 2, 9)
        comparable = (spaces == spaces[best]) & bool(vectors[best].any())
        distances = np.where(comparable, np.minimum(distances, near), distances)
    return [*chosen, *(Choice(one, "random", 1.0) for one in drawn)]


def _drawn(count: int, share: float) -> int:
    """The number of dialogues that are drawn by chance, a half rounded up."""
    return max(1, math.floor(count * share + 0.5)) if share > 0 and count > 0 else 0


def _draw(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _ranks(values: np.ndarray) -> np.ndarray:
    """The share of the values that are lower, counting equal ones half, rounded values counting as equal."""
    rounded = np.round(values, 9)
    ordered = np.sort(rounded)
    lower, upper = np.searchsorted(ordered, rounded, "left"), np.searchsorted(ordered, rounded, "right")
    return (lower + upper) / (2 * max(1, len(values)))


def _mean_vector(vectors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The mean vector of each modality, each of length 1, one after the other; zeros for a modality that is missing everywhere."""
    parts = []
    for _, matrix in sorted(vectors.items()):
        present = matrix[np.isfinite(matrix).all(axis=1)]
        mean = present.mean(axis=0) if len(present) else np.zeros(matrix.shape[1], np.float32)
        parts.append(_unit(mean))
    return np.concatenate(parts) if parts else None


def _unit_vectors(candidates: Sequence[Candidate]) -> np.ndarray:
    """The vectors ``[N, d]``, centred in their space and of length 1; zeros for a dialogue without one.

    The vectors of an encoder share a large common part, which would make all distances small.
    """
    width = max((len(one.vector) for one in candidates if one.vector is not None), default=1)
    matrix = np.zeros((len(candidates), width))
    by_space: dict[str, list[int]] = {}
    for index, one in enumerate(candidates):
        if one.vector is not None:
            matrix[index, : len(one.vector)] = one.vector
            by_space.setdefault(one.space, []).append(index)
    for indices in by_space.values():
        centred = matrix[indices] - matrix[indices].mean(axis=0)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        matrix[indices] = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 1e-9)
    return matrix


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
