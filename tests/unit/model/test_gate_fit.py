"""The gate that is fitted on dev: better than the mean where experts differ in worth, the mean where dev says nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import DialogueBootstrap
from mistere.metrics.gate_trust import GateTrust
from mistere.model.mixture.gate_fit import _Answers, _fit, _parts, fit_gate
from mistere.model.mixture.mixture import FittedGate, MixtureOfExperts
from mistere.model.mixture.prediction import predict
from mistere.model.mixture.training import train_mixture
from tests.unit.model.dialogue_sets import CLASSES, dialogues_of
from tests.unit.model.fixed_settings import FIXED

CONFIG = MixtureConfig.model_validate(
    FIXED
    | {
        "gate": "fitted", "standardise": True, "hidden": 8, "gru_layers": 1, "fusion_width": 16, "fusion_blocks": 1,
        "attention_width": 6, "learning_rate": 3e-3, "epochs": 12, "average_epochs": 2, "modality_dropout": 0.0,
    }
)  # fmt: skip


def loss_on(model: MixtureOfExperts, data: object, split: str) -> float:
    """Negative log-likelihood of a split."""
    dialogues = data.split(split)  # type: ignore[attr-defined]
    answers = predict(model, [data.read(dialogue) for dialogue in dialogues], 1.0)  # type: ignore[attr-defined]
    probabilities = np.concatenate([answer.probabilities for answer in answers])
    labels = np.concatenate([dialogue.labels for dialogue in dialogues])
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def test_before_the_fit_present_experts_have_equal_weights() -> None:
    weights = FittedGate(3)(torch.randn(2, 3, 4), torch.tensor([[True, True, True], [True, False, True]]))
    np.testing.assert_allclose(weights.numpy(), [[1 / 3] * 3, [0.5, 0, 0.5]], atol=1e-6)


@pytest.mark.long
def test_the_fit_improves_dev_and_does_not_read_test() -> None:
    data = dialogues_of(seed=1, sizes=(20, 20, 20))
    trained = train_mixture(CONFIG.model_copy(update={"gate": "mean"}), data.without("test"), progress=Progress("t"))
    model = MixtureOfExperts(CONFIG, data.dimensions, CLASSES).eval()
    model.load_state_dict(trained.model.state_dict(), strict=False)
    before = loss_on(model, data, "dev")
    fit_gate(model, data.without("test"), seed=0)
    assert loss_on(model, data, "dev") < before


def answers_of(seed: int, dialogues: int = 150) -> _Answers:
    """Two experts with independent evidence, and a third that sees the evidence of both."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(draw.integers(CLASSES, size=2 * dialogues), 4)
    evidence = draw.normal(size=(2, len(labels), CLASSES))
    evidence[:, np.arange(len(labels)), labels] += 1.0
    both = evidence.sum(0) + 0.5 * draw.normal(size=(len(labels), CLASSES))
    log_p = torch.from_numpy(0.5 * np.stack([*evidence, both], axis=1)).log_softmax(-1)
    present = torch.ones(log_p.shape[:2], dtype=torch.bool)
    return _Answers(log_p, present, torch.from_numpy(labels), np.repeat(np.arange(dialogues), 8))


@pytest.mark.long
def test_the_weights_say_which_expert_is_right() -> None:
    dev, test = answers_of(seed=0, dialogues=100), answers_of(seed=10)
    scale, bias, slope = _parts(torch.from_numpy(_fit(dev, 0)), 3)
    gate = FittedGate(3).double()
    gate.bias.copy_(bias)
    gate.slope.copy_(slope)
    logits = test.log_p * scale[:, None]
    weights = gate(logits, test.present)
    trust = GateTrust(weights.numpy(), logits.softmax(-1).numpy(), test.labels.numpy())
    shares = trust.right_shares()
    assert trust.pooled_auc(DialogueBootstrap([str(one) for one in test.dialogues], 200, 0)).low > 0.5
    assert shares["leader"].value > shares["average"].value
    mean = test.log_p.mean(1).argmax(-1)
    right, right_of_mean = (
        (one == test.labels).double().mean() for one in ((weights[..., None] * logits).sum(1).argmax(-1), mean)
    )
    assert (
        right > right_of_mean - 0.005
    )  # the direction of the weights costs likelihood here, so they stay near the mean
    assert 0 < (weights - 1 / 3).abs().max() < 0.1


@pytest.mark.long
def test_a_worthless_expert_loses_its_weight() -> None:
    data = dialogues_of(seed=2, sizes=(20, 40, 20))
    trained = train_mixture(CONFIG, data, progress=Progress("t"))
    model = trained.model
    torch.nn.init.normal_(model.unimodal["speech"].output.weight, std=3.0)  # confident and wrong
    before = loss_on(model, data, "test")
    fit_gate(model, data, seed=0)
    assert loss_on(model, data, "test") < 0.8 * before


@pytest.mark.parametrize("dialogues", [1, 2])
def test_a_dev_split_of_hardly_any_dialogues_is_enough(dialogues: int) -> None:
    data = dialogues_of(seed=3, sizes=(4, dialogues, 2))
    trained = train_mixture(CONFIG.model_copy(update={"epochs": 2}), data, progress=Progress("t"))
    gate = trained.model.gate
    assert isinstance(gate, FittedGate) and torch.isfinite(gate.bias).all() and torch.isfinite(gate.slope).all()


@pytest.mark.parametrize("heard", [0, 1, 2])
def test_dialogues_without_any_expert_do_not_change_the_fit(heard: int) -> None:
    """Of eight dev dialogues, only the first ``heard`` have inputs; the fit is that of a dev split of these alone."""
    data = dialogues_of(seed=5, sizes=(1, 8, 1))
    for dialogue in data.split("dev")[heard:]:
        for rows in data.read(dialogue).values():
            rows[:] = np.nan
    torch.manual_seed(0)
    model = MixtureOfExperts(CONFIG, data.dimensions, CLASSES).eval()
    expected = copy.deepcopy(model)
    if heard:
        fit_gate(expected, data.with_splits({"dev": data.split("dev")[:heard]}), seed=0)
    fit_gate(model, data, seed=0)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_one_dialogue_leaves_nearly_equal_weights() -> None:
    answers = answers_of(seed=0, dialogues=1)
    numbers = _fit(answers, seed=0)
    assert np.isfinite(numbers).all() and np.abs(numbers[3:]).max() < 0.02


@pytest.mark.long
def test_the_fit_is_the_same_again() -> None:
    data = dialogues_of(seed=4)
    one, other = (train_mixture(CONFIG, data, progress=Progress("t")) for _ in range(2))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert one.dev_weighted_f1 == other.dev_weighted_f1
