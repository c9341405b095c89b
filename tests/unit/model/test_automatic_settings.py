"""Settings that follow from the size of train: values for small and large data, precedence, what is stored and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mistere.common.paths import PROJECT_ROOT
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.model.mixture.automatic_settings import (
    TrainSize,
    automatic_values,
    describe,
    parameter_groups,
    resolve,
    uses_bf16,
)
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts
from mistere.model.mixture.modality_subsets import train_with_modalities
from mistere.model.mixture.prediction import load_mixture, make_batch, save_mixture
from mistere.model.mixture.training import MixtureTraining
from pipelines.profiles import load_profile
from tests.unit.model.dialogue_sets import dialogues_of
from tests.unit.model.fixed_settings import FIXED

SMALL = TrainSize(80, 1_000, {"speech": 20, "text": 384})
LARGE = TrainSize(8_000, 100_000, {"speech": 4_096, "text": 4_096})
TINY = {"hidden": 4, "gru_layers": 1, "fusion_width": 8, "fusion_blocks": 1, "attention_width": 6}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [SMALL, LARGE, TrainSize(1, 1, {"text": 1}), TrainSize(25, 300, {"speech": 4_096})])
def test_every_automatic_setting_gets_a_valid_value(size: TrainSize) -> None:
    config = resolve(MixtureConfig(), size)
    MixtureConfig.model_validate(config.model_dump())
    assert "auto" not in config.model_dump(exclude={"precision"}).values()
    assert (
        MixtureConfig().model_dump().keys() - {"precision"}
        > automatic_values(MixtureConfig(), size).keys()
        == FIXED.keys()
    )


def test_rules_follow_the_size_of_train() -> None:
    small, large = (automatic_values(MixtureConfig(hidden=64), size) for size in (SMALL, LARGE))
    assert large["epochs"] < small["epochs"] and large["patience"] < small["patience"]
    assert large["input_dropout"] < small["input_dropout"]
    assert small["expert_rates"]["speech"] > 1 and large["expert_rates"] == {}
    assert large["learning_rate"] < small["learning_rate"] and small["projection"] == large["projection"] == {}
    wide = automatic_values(MixtureConfig(hidden=64), TrainSize(80, 1_000, {"speech": 20, "text": 4_096}))
    assert list(wide["projection"]) == ["text"] and wide["learning_rate"] == small["learning_rate"]
    unprojected = automatic_values(
        MixtureConfig(hidden=64, projection=0), TrainSize(80, 1_000, {"speech": 20, "text": 4_096})
    )
    assert unprojected["learning_rate"] < wide["learning_rate"]
    rates = [automatic_values(MixtureConfig(hidden=hidden), SMALL)["learning_rate"] for hidden in (64, 512)]
    assert rates[1] < rates[0]


def test_values_are_those_of_the_guides_table() -> None:
    page = (PROJECT_ROOT / "docs" / "guides" / "mixture.md").read_text(encoding="utf-8")
    rows = page.partition("### Settings that follow from the size of train")[2].partition("\n| setting |")[2]
    stated: tuple[dict[str, Any], ...] = ({}, {})
    for row in rows.partition("\n\n")[0].splitlines()[2:]:
        setting, _, *columns = (cell.strip() for cell in row.strip("|").split("|"))
        names = re.findall(r"`(\w+)`", setting)
        for values, cell in zip(stated, columns, strict=True):
            each = [yaml.safe_load(one.strip("` ")) for one in cell.split(";")]
            values |= zip(names, each if len(each) > 1 else each * len(names), strict=True)
    for size, values in zip((SMALL, LARGE), stated, strict=True):
        numbers = {name: float(value) if isinstance(value, str) else value for name, value in values.items()}
        assert numbers == automatic_values(MixtureConfig(hidden=64), size)


def test_a_stated_value_wins() -> None:
    stated = MixtureConfig.model_validate(FIXED)
    assert automatic_values(stated, SMALL) == {} and resolve(stated, SMALL) == stated
    assert describe({}, SMALL) == ""
    one = MixtureConfig(input_dropout=0.25, projection={"text": 64}, epochs=7)
    config = resolve(one, SMALL)
    assert (config.input_dropout, config.projection, config.epochs) == (0.25, {"text": 64}, 7)
    for profile in ("published", "paper"):
        assert automatic_values(load_profile(profile).mixture, LARGE) == {}
    assert automatic_values(load_profile("gpu").mixture, LARGE).keys() >= {"learning_rate", "epochs", "patience"}
    chosen = automatic_values(
        load_profile("sample", ["mixture.learning_rate=1e-3", "mixture.projection=0"]).mixture, SMALL
    )
    assert chosen and not chosen.keys() & {"learning_rate", "projection"}


def test_the_values_are_trained_with_noted_and_stored(tmp_path: Path) -> None:
    data = dialogues_of(seed=4)
    notes: list[str] = []

    class Noting(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    config = MixtureConfig(**TINY, gate="mean", epochs=1, projection={"text": 3})  # type: ignore[arg-type]
    trained, _ = train_with_modalities(config, data, progress=Noting("train_moe"))
    size = TrainSize.of(data)
    values = automatic_values(config, size)
    assert describe(values, size) in notes and f"learning_rate {values['learning_rate']:g}" in notes[0]
    assert f"{size.utterances} utterances in {size.dialogues} dialogues" in notes[0]
    assert trained.model.config == resolve(config, size)
    save_mixture(trained.model, tmp_path)
    again = load_mixture(tmp_path)
    assert again.config == resolve(config, size) and again.projections["text"].out_features == 3


def test_a_model_with_an_open_setting_is_refused() -> None:
    for name in ("input_dropout", "projection", "context_dropout"):
        config = MixtureConfig.model_validate(FIXED | TINY | {name: "auto"})
        with pytest.raises(ValueError, match="still 'auto'"):
            MixtureOfExperts(config, {"text": 4}, 3)


def test_absent_rows_stay_zero_behind_a_projection() -> None:
    torch.manual_seed(0)
    config = MixtureConfig.model_validate(FIXED | TINY | {"projection": 3})
    model = MixtureOfExperts(config, {"speech": 5, "text": 4}, 3).eval()
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    rows[1] = np.nan
    batch: DialogueBatch = make_batch([{"speech": rows}], model.dimensions)
    projected = model._input("speech", batch)
    assert projected.shape == (3, 3) and not projected[1].any() and projected[0].any()
    assert not model._input("text", batch).any()


def test_an_experts_rate_moves_only_its_own_weights_faster() -> None:
    moved = []
    for rates in ({}, {"speech": 3.0}):
        # One batch: Adam's first step moves each weight by its rate, later ones depend on the earlier.
        changes = {"expert_rates": rates, "projection": {"speech": 2}, "batch_dialogues": 1000}
        config = MixtureConfig.model_validate(FIXED | TINY | changes)
        torch.manual_seed(0)
        training = MixtureTraining(config, dialogues_of(seed=4))
        groups = {group["factor"]: len(group["params"]) for group in parameter_groups(config, training.model)}
        assert groups.keys() == {1.0, *rates.values()}
        before = {name: tensor.clone() for name, tensor in training.model.named_parameters()}
        training.train_epoch()
        after = dict(training.model.named_parameters())
        moved.append({name: float((after[name] - before[name]).abs().mean()) for name in before})
    plain, fast = moved
    for name, step in plain.items():
        own = name.startswith(("unimodal.speech.", "projections.speech."))
        assert fast[name] == pytest.approx((3 if own else 1) * step, rel=0.25, abs=1e-6), name


def test_bf16_is_chosen_for_large_models_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    auto, forced = MixtureConfig(), MixtureConfig(precision="bf16")
    assert uses_bf16(auto, gpu, 90_000_000) and not uses_bf16(auto, gpu, 1_000_000)
    assert uses_bf16(forced, gpu, 1_000_000) and not uses_bf16(auto, cpu, 90_000_000)
