"""Krippendorff's alpha against the examples of Krippendorff (2011) and against a definition by all pairs of answers."""

from __future__ import annotations

import itertools
import random

import pytest

from mistere.metrics.agreement import agreement_by_label, krippendorff_alpha


def units(*annotators: str) -> list[list[str]]:
    """The answers to each unit of annotators whose answers are given as words; a dot is a missing one."""
    return [[answer for answer in unit if answer != "."] for unit in zip(*map(str.split, annotators), strict=True)]


PUBLISHED = {
    "A: two observers, binary": (units("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
    "B: two observers, nominal": (units("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
    "C: four observers, missing answers": (
        units(
            "1 2 3 3 2 1 4 1 2 . . .",
            "1 2 3 3 2 2 4 1 2 5 . 3",
            ". 3 3 3 2 3 4 2 2 5 1 .",
            "1 2 3 3 2 4 4 1 2 5 1 .",
        ),
        0.743,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name: str) -> None:
    reliability, alpha = PUBLISHED[name]
    assert krippendorff_alpha(reliability).alpha == pytest.approx(alpha, abs=5e-4)


def by_pairs(answers: list[list[str]]) -> float:
    """Alpha as 1 - D_o / D_e, both counted pair by pair."""
    rated = [unit for unit in answers if len(unit) > 1]
    values = list(itertools.chain(*rated))
    observed = sum(sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in rated) / len(
        values
    )
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_it_equals_the_definition_by_pairs() -> None:
    draw = random.Random(3)
    for _ in range(20):
        answers = [[draw.choice("abc") for _ in range(draw.randint(0, 5))] for _ in range(12)]
        assert krippendorff_alpha(answers).alpha == pytest.approx(by_pairs(answers))


def test_limits() -> None:
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]).alpha == 1
    undefined = krippendorff_alpha([["a", "a"], ["a"]])
    assert (undefined.alpha, undefined.observed, undefined.units, undefined.answers) == (None, 1.0, 1, 2)
    assert krippendorff_alpha([]).observed is None
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]).alpha == pytest.approx(-0.5)


def test_by_label() -> None:
    found = agreement_by_label([["a", "a"], ["b", "c"], ["c", "b"]], ["a", "b", "unseen"])
    assert found["a"].alpha == 1 and found["b"].alpha == pytest.approx(-0.25) and found["unseen"].alpha is None
