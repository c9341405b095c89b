"""Agreement between annotators: Krippendorff's alpha for nominal data.

Krippendorff, K. (2011). Computing Krippendorff's Alpha-Reliability. https://repository.upenn.edu/asc_papers/43
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree beyond chance.

    Attributes:
        alpha: 1 if all agree, 0 if they agree as often as by chance, below 0 if less often; None if it is not defined: no two
            answers to one unit, or the same answer everywhere.
        observed: share of the pairs of answers to one unit that are equal; None without pairs.
        units: units with at least two answers.
        answers: answers to those units.
    """

    alpha: float | None
    observed: float | None
    units: int
    answers: int


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> Agreement:
    """Krippendorff's alpha of nominal answers, for any number of annotators and with missing answers.

    A unit with m answers adds its m (m - 1) ordered pairs to the coincidence matrix with the weight 1 / (m - 1). With n answers, of which
    n_c are c, and o the weight of the pairs that differ, alpha is ``1 - (n - 1) o / (n² - Σ n_c²)``.

    Args:
        units: the answers to each unit, whoever gave them; those with fewer than two say nothing of agreement.
    """
    totals: Counter[str] = Counter()
    differing, equal_pairs, pairs, count = 0.0, 0, 0, 0
    for answers in units:
        size = len(answers)
        if size < 2:
            continue
        counts = Counter(answers)
        equal = sum(number * (number - 1) for number in counts.values())
        totals.update(counts)
        differing += (size * (size - 1) - equal) / (size - 1)
        equal_pairs += equal
        pairs += size * (size - 1)
        count += 1
    n = totals.total()
    by_chance = n * n - sum(number * number for number in totals.values())
    alpha = 1 - (n - 1) * differing / by_chance if by_chance else None
    return Agreement(alpha, equal_pairs / pairs if pairs else None, count, n)


def agreement_by_label(units: Iterable[Sequence[str]], labels: Sequence[str]) -> dict[str, Agreement]:
    """Alpha of each label against all others: of the answers "this label" and "another one"."""
    kept = list(units)
    return {
        label: krippendorff_alpha([["yes" if answer == label else "no" for answer in answers] for answers in kept])
        for label in labels
    }
