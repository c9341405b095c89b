"""Which dialogues are chosen: uncertain, disputed, rare and different ones, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from mistere.common.errors import UsageError
from mistere.labelling.selection import (
    FIGURES,
    Candidate,
    candidate_of,
    choose,
    disagreements,
    entropies,
    information,
    parse_weights,
)
from mistere.serving.sample.dialogue import KeptDialogue
from tests.unit.labelling.kept import EXPERTS, LABELS, kept_turn

ONLY = {figure: {name: float(name == figure) for name in FIGURES} for figure in FIGURES}


def test_figures_have_their_limits() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert entropies(rows) == pytest.approx([0, 1])
    certain = np.array([[[1.0, 0, 0], [0, 1.0, 0]], [[0.2, 0.5, 0.3]] * 2, [[1.0, 0, 0], [0, 1.0, 0]]])
    weights = np.array([[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]])
    assert disagreements(certain, weights) == pytest.approx([1, 0, 0], abs=1e-9)
    assert information(["a", "b", "c"], {"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx([0, 1, 1])
    assert information(["a", "b"], {"a": 0.5, "b": 0.5}) == pytest.approx([0, 0])


def candidate(name: str, **figures: float) -> Candidate:
    return Candidate(name, **{"uncertainty": 0.0, "disagreement": 0.0, "rarity": 0.0, **figures})


@pytest.mark.parametrize("figure", FIGURES[:-1])
def test_each_figure_alone_orders_the_choice(figure: str) -> None:
    several = [candidate(f"d{number}", **{figure: number / 10}) for number in range(8)]
    chosen = choose(several, 3, ONLY[figure], 0.0, 1)
    assert [choice.candidate.name for choice in chosen] == ["d7", "d6", "d5"]


def test_diversity_takes_one_of_each_group_first() -> None:
    groups = {"a": [1.0, 0, 0], "b": [0, 1.0, 0], "c": [0, 0, 1.0]}
    draw = np.random.default_rng(0)
    several = [
        Candidate(f"{group}{number}", 0.5, 0, 0, np.array(centre) + draw.normal(0, 0.01, 3), "s")
        for group, centre in groups.items()
        for number in range(10)
    ]
    chosen = choose(several, 6, ONLY["diversity"], 0.0, 4)
    assert sorted(choice.candidate.name[0] for choice in chosen[:3]) == ["a", "b", "c"]
    assert chosen[0].distance == 1 and chosen[5].distance < chosen[2].distance


def test_vectors_of_other_encoders_are_not_compared() -> None:
    one, other = (Candidate(name, 0, 0, 0, np.ones(width), name) for name, width in (("x", 2), ("y", 3)))
    assert [choice.distance for choice in choose([one, other], 2, ONLY["diversity"], 0.0, 0)] == [1, 1]


def test_the_seed_decides_the_part_by_chance_and_equal_dialogues() -> None:
    several = [candidate(f"d{number}", uncertainty=0.5) for number in range(40)]

    def names(seed: int, order: int = 1) -> list[tuple[str, str]]:
        chosen = choose(several[::order], 10, dict.fromkeys(FIGURES, 1.0), 0.3, seed)
        return [(choice.candidate.name, choice.reason) for choice in chosen]

    assert names(1) == names(1, -1) != names(2)
    assert [reason for _, reason in names(1)] == ["informative"] * 7 + ["random"] * 3
    assert len({name for name, _ in names(1)}) == 10
    assert len(choose(several, 100, ONLY["rarity"], 0.1, 0)) == 40


@pytest.mark.parametrize(
    ("count", "share", "drawn"),
    [(5, 0.1, 1), (15, 0.1, 2), (25, 0.1, 3), (2, 0.1, 1), (30, 0.1, 3), (5, 0.0, 0), (5, 1.0, 5)],
)
def test_the_part_by_chance_of_a_small_choice_is_not_rounded_away(count: int, share: float, drawn: int) -> None:
    several = [candidate(f"d{number}", uncertainty=0.5) for number in range(40)]
    chosen = choose(several, count, ONLY["uncertainty"], share, 0)
    assert len(chosen) == count and sum(choice.reason == "random" for choice in chosen) == drawn


def test_chance_draws_from_those_that_were_chosen_before_as_well() -> None:
    difficult = [candidate(f"difficult-{number}", uncertainty=0.9) for number in range(50)]
    easy = [candidate(f"easy-{number}", uncertainty=0.1) for number in range(50)]
    reasons = {"difficult": 0, "easy": 0}
    for seed in range(20):
        for chosen in choose(easy, 30, ONLY["uncertainty"], 0.3, seed, difficult):
            kind = chosen.candidate.name.partition("-")[0]
            assert chosen.reason == "random" or kind == "easy"
            reasons[kind] += chosen.reason == "random"
    assert sum(reasons.values()) == 180 and 65 < reasons["difficult"] < 115
    assert len(choose(easy, 100, ONLY["uncertainty"], 0.3, 0, difficult)) >= 50


def test_figures_of_a_dialogue_leave_context_out() -> None:
    turns = [kept_turn((0.0, 0.0, 0.0), predicted=False), kept_turn((1.0, 0.0, 0.0))]
    dialogue = KeptDialogue(
        began_at=0,
        updated_at=0,
        keep_until="2030-01-01",
        bundle_digest="b",
        labels=LABELS,
        experts=EXPERTS,
        turns=turns,
    )
    vectors = {"text": np.array([[np.nan, np.nan], [0.0, 3.0]], np.float32)}
    found = candidate_of("d", dialogue, {"calm": 1.0}, vectors)
    assert (found.uncertainty, found.disagreement, found.rarity) == (0, 0, 0)
    assert found.vector is not None and found.vector.tolist() == [0, 1]


@pytest.mark.parametrize(
    "typed", [["age=1"], ["rarity"], ["rarity=-1"], ["rarity=nan"], [f"{name}=0" for name in FIGURES]]
)
def test_wrong_weights_are_refused(typed: list[str]) -> None:
    with pytest.raises(UsageError, match="--weight"):
        parse_weights(typed)
    assert parse_weights(["rarity=2.5"])["rarity"] == 2.5
