"""The standardisation of embeddings: statistics of train, constant columns, absent rows, old bundles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mistere.config.mixture import MixtureConfig
from mistere.model.mixture.input_scaling import InputScaling, column_notes
from mistere.model.mixture.prediction import load_mixture, predict, save_mixture
from mistere.model.mixture.training import MixtureTraining
from tests.unit.model.dialogue_sets import dialogues_of
from tests.unit.model.fixed_settings import FIXED

EARLIER = Path(__file__).parent / "earlier_mixture"
SMALL = MixtureConfig.model_validate(
    FIXED | {"hidden": 4, "gru_layers": 1, "fusion_width": 8, "fusion_blocks": 1, "attention_width": 6, "epochs": 2}
)


def test_columns_get_mean_zero_and_deviation_one_over_all_dialogues() -> None:
    draw = np.random.default_rng(0)
    rows = (draw.normal(size=(400, 3)) * [1e-3, 1.0, 300.0] + [1e4, 0.0, -5.0]).astype(np.float32)
    scaling = InputScaling(3)
    scaling.fit([rows[:100], rows[100:101], rows[101:]])
    scaled = scaling(torch.from_numpy(rows), torch.ones(400, dtype=torch.bool)).numpy()
    assert abs(scaled.mean(0)).max() < 1e-2 and abs(scaled[:, 1:].std(0) - 1).max() < 1e-2


@pytest.mark.parametrize("standardise", [True, False])
def test_columns_of_wild_scale_are_named_whether_they_are_standardised_or_not(standardise: bool) -> None:
    data, config = dialogues_of(seed=0), SMALL.model_copy(update={"standardise": standardise})
    assert column_notes(config, data) == []
    for dialogue in data.split("train"):
        data.read(dialogue)["speech"][:, 0] *= 1e4
    (note,) = column_notes(config, data)
    assert note.startswith("speech: the standard deviations of its columns differ by a factor of ")
    assert note.endswith(
        "they are standardised." if standardise else "set mixture.standardise=true to standardise them."
    )


def test_rows_with_nan_are_left_out_and_absent_rows_stay_zero() -> None:
    rows = np.array([[1.0, 2.0], [np.nan, 7.0], [3.0, 6.0]], dtype=np.float32)
    scaling = InputScaling(2)
    scaling.fit([rows])
    assert scaling.mean.tolist() == [2.0, 4.0]
    present = torch.tensor([True, False, True])
    assert scaling(torch.zeros(3, 2), present)[1].tolist() == [0.0, 0.0]


def test_constant_columns_are_not_used_and_named() -> None:
    scaling = InputScaling(2)
    scaling.fit([np.array([[7.0, 1.0], [7.0, 2.0]], dtype=np.float32)])
    assert scaling(torch.tensor([[900.0, 1.5]]), torch.tensor([True])).tolist() == [[0.0, 0.0]]
    data = dialogues_of(seed=0)
    for dialogue in data.split("train"):
        data.read(dialogue)["speech"][:, 0] = 7.0
    assert column_notes(SMALL, data) == ["speech: 1 of its columns is constant in train and not used."]


def test_outliers_are_clipped() -> None:
    rows = np.random.default_rng(1).normal(size=(100, 1)).astype(np.float32)
    scaling = InputScaling(1)
    scaling.fit([rows])
    assert scaling(torch.tensor([[1e6]]), torch.tensor([True])).item() == 5.0


def test_no_rows_leave_the_scaling_as_it_is() -> None:
    scaling = InputScaling(2)
    scaling.fit([np.full((3, 2), np.nan, np.float32)])
    assert scaling.scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_predictions_do_not_depend_on_a_columns_unit(factor: float) -> None:
    predictions = []
    for data in (dialogues_of(seed=3), dialogues_of(seed=3, speech_factor=factor)):
        torch.manual_seed(0)
        model = MixtureTraining(SMALL, data).model.eval()
        answers = predict(model, [data.read(dialogue) for dialogue in data.split("test")], 1.0)
        predictions.append(np.concatenate([answer.probabilities for answer in answers]))
    np.testing.assert_allclose(*predictions, atol=2e-4)


def test_a_mixture_of_before_the_setting_answers_as_it_did() -> None:
    """The files are of the code of commit 2a250e15, without settings for scaling, dropout of inputs, projections and the published model."""
    stored = json.loads((EARLIER / "answers.json").read_text())
    rows = {
        name: np.array([one or [np.nan] * len(values[0]) for one in values], np.float32)
        for name, values in stored["inputs"].items()
    }
    model = load_mixture(EARLIER)
    assert not model.config.standardise and not model.projections
    (answer,) = predict(model, [rows], stored["temperature"])
    np.testing.assert_allclose(answer.probabilities, stored["probabilities"], atol=1e-5)
    np.testing.assert_allclose(answer.expert_weights, stored["expert_weights"], atol=1e-5)


def test_the_scaling_travels_with_the_model(tmp_path: Path) -> None:
    training = MixtureTraining(SMALL, dialogues_of(seed=4))
    save_mixture(training.model, tmp_path)
    again = load_mixture(tmp_path)
    assert torch.equal(again.scaling["speech"].mean, training.model.scaling["speech"].mean)
    assert again.scaling["speech"].mean.any()
