"""``mixture.modalities: auto``: a modality of noise is left out, useful ones are kept, and nothing depends on the order of work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import Interval
from mistere.metrics.modality_choice import (
    ModalityChoice,
    SubsetScore,
    choice_from_metrics,
    compare_subsets,
    subsets_of,
)
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.modality_subsets import selected, train_with_modalities
from tests.unit.model.fixed_settings import FIXED

SMALL = MixtureConfig.model_validate(
    FIXED
    | {
        "modalities": "auto",
        "hidden": 8,
        "gru_layers": 1,
        "kernels": [1],
        "fusion": "feed_forward",
        "fusion_width": 16,
        "context": "utterance",
        "contrastive_weight": 0.0,
        "learning_rate": 1e-2,
        "epochs": 8,
    }
)


def dialogues_with(speech: str, seed: int = 0) -> EmbeddedDialogues:
    """Dialogues of two bits: text tells the first; speech tells the second (``useful``) or nothing, at large values (``noise``)."""
    draw = np.random.default_rng(seed)
    dialogues: dict[str, list[EmbeddedDialogue]] = {}
    rows: dict[str, list[np.ndarray]] = {"speech": [], "text": []}
    start, text_noise = 0, 0.3 if speech == "useful" else 1.5
    for split, count in (("train", 30 if speech == "useful" else 10), ("dev", 40), ("test", 2)):
        for index in range(count):
            bits = draw.integers(2, size=(6, 2))
            labels = 2 * bits[:, 0] + bits[:, 1] if speech == "useful" else bits[:, 0]
            clean, noise = np.zeros((6, 64)), 20 * draw.normal(size=(6, 64))
            clean[:, 0] = 2.0 * bits[:, 1] - 1
            rows["speech"].append((clean if speech == "useful" else noise).astype(np.float32))
            rows["text"].append((2.0 * bits[:, :1] - 1 + text_noise * draw.normal(size=(6, 3))).astype(np.float32))
            dialogues.setdefault(split, []).append(EmbeddedDialogue(f"{split}{index}", slice(start, start + 6), labels))
            start += 6
    labels_of = list("abcd") if speech == "useful" else list("ab")
    return EmbeddedDialogues(dialogues, {name: np.concatenate(parts) for name, parts in rows.items()}, labels_of)


def score(names: tuple[str, ...], value: float, low: float, high: float) -> SubsetScore:
    return SubsetScore(names, Interval(0.6 + value, 0.5, 0.7), Interval(value, low, high))


ALL = score(("speech", "text"), 0.0, 0.0, 0.0)


def test_a_modality_of_noise_is_left_out_and_named(tmp_path: Path) -> None:
    # Without standardisation, speech at large values hurts enough to be seen in few epochs.
    settings = SMALL.model_copy(update={"epochs": 5, "standardise": False, "gate": "learned", "average_epochs": 0.0})
    data, checkpoints = dialogues_with("noise"), Checkpoints(LocalStore(tmp_path), "train_moe", "key")
    trained, choice = train_with_modalities(settings, data, progress=Progress("train_moe"), checkpoints=checkpoints)
    assert choice is not None and choice.left_out == ["speech"]
    assert trained.model.experts == ["text", "cross_modal"] and trained.model.config.modalities == ["text"]
    assert "speech hurts and is left out" in choice.sentence()
    again, same = train_with_modalities(settings, data, progress=Progress("train_moe"))
    assert same == choice and again.history == trained.history


@pytest.mark.long
def test_modalities_that_both_help_are_kept() -> None:
    data = dialogues_with("useful")
    trained, choice = train_with_modalities(SMALL, data, progress=Progress("train_moe"))
    assert choice is not None and trained.model.modalities == ["speech", "text"]
    assert all(brought.low > 0 for brought in choice.contributions().values())
    assert "all are used" in choice.sentence()


@pytest.mark.long
def test_named_modalities_are_trained_once_and_not_compared() -> None:
    settings = SMALL.model_copy(update={"modalities": ["text"], "epochs": 1})
    trained, choice = train_with_modalities(settings, dialogues_with("useful"), progress=Progress("train_moe"))
    assert choice is None and trained.model.modalities == ["text"]


def test_all_modalities_stay_unless_a_subset_is_significantly_better() -> None:
    undecided = ModalityChoice([ALL, score(("speech",), -0.1, -0.2, -0.05), score(("text",), 0.03, -0.01, 0.05)])
    assert undecided.chosen is ALL and undecided.left_out == []
    decided = ModalityChoice([ALL, score(("speech",), 0.01, 0.002, 0.05), score(("text",), 0.03, 0.01, 0.05)])
    assert decided.chosen.modalities == ("text",)
    assert decided.contributions()["speech"] == Interval(-0.03, -0.05, -0.01)


def test_a_choice_is_read_back_from_its_metrics_in_any_order() -> None:
    choice = ModalityChoice([ALL, score(("speech",), -0.1, -0.2, -0.05), score(("text",), 0.03, 0.01, 0.05)])
    read = choice_from_metrics(dict(sorted(choice.metrics().items())))
    assert read is not None and read.chosen == choice.chosen and read.sentence() == choice.sentence()
    assert choice_from_metrics({"dev.weighted_f1": 0.5}) is None


def test_the_same_predictions_differ_by_exactly_nothing() -> None:
    true = np.array([0, 1, 0, 1])
    guess = [np.array([0, 1, 1, 1])]
    choice = compare_subsets({("speech", "text"): guess, ("text",): guess}, true, ["a", "a", "b", "b"], 2, seed=0)
    assert choice.subsets[1].difference == Interval(0.0, 0.0, 0.0) and choice.left_out == []


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 3), (3, 7), (4, 9)])
def test_many_modalities_are_compared_by_all_all_but_one_and_one(count: int, expected: int) -> None:
    names = list("abcd")[:count]
    subsets = subsets_of(names)
    assert len(subsets) == expected and subsets[0] == tuple(names)


@pytest.mark.parametrize(
    "setting", [{"input_dropout": {"spech": 0.1}}, {"projection": {"spech": 8}}, {"expert_rates": {"spech": 2.0}}]
)
def test_a_setting_of_an_unknown_modality_is_rejected(setting: dict[str, dict[str, float]]) -> None:
    config = MixtureConfig.model_validate({"modalities": ["text"], **setting})
    with pytest.raises(UsageError, match=rf"mixture\.{next(iter(setting))}: there are no spech embeddings.*speech"):
        selected(config, dialogues_with("useful"))
    known = {name: {"speech": value["spech"]} for name, value in setting.items()}
    assert list(selected(config.model_copy(update=known), dialogues_with("useful")).dimensions) == ["text"]
