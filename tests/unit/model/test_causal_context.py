"""The mixture's causal context: a turn's prediction does not depend on later turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistere.artifacts.manifests import ModelBundle
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.model.dialogue_model import EmotionModel
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.context import ContextLayers
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.mixture.prediction import (
    CalibratedMixture,
    DialoguePrediction,
    load_mixture,
    make_batch,
    predict,
    save_mixture,
)
from mistere.model.mixture.recurrence import DialogueGRU
from mistere.model.mixture.training import train_mixture
from tests.unit.model.fixed_settings import FIXED

CLASSES = 4
DIMENSIONS = [{"text": 6}, {"speech": 5, "text": 7}, {"speech": 5, "text": 7, "video": 3}]
FUSIONS = ["co_attention", "feed_forward"]
GATES = ["learned", "mean"]
Dialogue = dict[str, np.ndarray]

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(mode: str, **changes: object) -> MixtureConfig:
    small = {
        "context_mode": mode,
        "hidden": 6,
        "gru_layers": 2,
        "fusion_width": 12,
        "fusion_blocks": 2,
        "attention_width": 6,
    }
    return MixtureConfig.model_validate(FIXED | small | changes)


def model_of(mode: str, dimensions: Mapping[str, int], seed: int = 0, **changes: object) -> MixtureOfExperts:
    torch.manual_seed(seed)
    model = MixtureOfExperts(config_of(mode, **changes), dimensions, CLASSES)
    for missing in getattr(model.cross_modal, "missing", []):
        torch.nn.init.normal_(missing)
    return model.eval()


def dialogue_of(draw: np.random.Generator, dimensions: Mapping[str, int], turns: int, missing: float = 0.4) -> Dialogue:
    """Random embeddings; a share of the rows of each modality is missing."""
    rows = {name: draw.normal(size=(turns, width)).astype(np.float32) for name, width in dimensions.items()}
    for matrix in rows.values():
        matrix[draw.random(turns) < missing] = np.nan
    return rows


def first_turns(dialogue: Dialogue, turns: int) -> Dialogue:
    return {name: matrix[:turns] for name, matrix in dialogue.items()}


def assert_agree(one: DialoguePrediction, other: DialoguePrediction, turns: int) -> None:
    for name in ("probabilities", "expert_weights", "expert_probabilities"):
        np.testing.assert_allclose(getattr(one, name)[:turns], getattr(other, name)[:turns], atol=1e-5, err_msg=name)
    assert one.modalities[:turns] == other.modalities[:turns]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("fusion", FUSIONS)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    dimensions=st.sampled_from(DIMENSIONS),
    seed=st.integers(0, 2**16),
)
def test_causal_predictions_do_not_change_when_turns_follow(
    fusion: str, gate: str, lengths: list[int], dimensions: dict[str, int], seed: int
) -> None:
    model = model_of("causal", dimensions, seed, fusion=fusion, gate=gate)
    draw = np.random.default_rng(seed)
    dialogues = [dialogue_of(draw, dimensions, turns) for turns in lengths]
    wholes = predict(model, dialogues, 1.3)
    for dialogue, whole, length in zip(dialogues, wholes, lengths, strict=True):
        beginnings = [first_turns(dialogue, turns) for turns in range(1, length + 1)]
        for turns, answer in enumerate(predict(model, beginnings, 1.3), start=1):
            assert_agree(answer, whole, turns)
        assert_agree(predict(model, [dialogue], 1.3)[0], whole, length)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_full_mode_predictions_depend_on_later_turns(fusion: str) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of("full", dimensions, fusion=fusion)
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 6, missing=0)
    (whole,) = predict(model, [dialogue], 1.0)
    for turns in range(1, 6):
        (answer,) = predict(model, [first_turns(dialogue, turns)], 1.0)
        assert np.abs(answer.probabilities - whole.probabilities[:turns]).max() > 1e-4


@pytest.mark.parametrize("mode", ["full", "causal"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_turn_output_has_gradients_in_exactly_its_visible_turns(fusion: str, mode: str) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of(mode, dimensions, fusion=fusion)
    batch = make_batch([dialogue_of(np.random.default_rng(0), dimensions, 7, missing=0)], dimensions)
    for turn in range(7):
        inputs = {name: rows.clone().requires_grad_() for name, rows in batch.inputs.items()}
        model(DialogueBatch(inputs, batch.present, batch.turns)).logits[turn].square().sum().backward()
        for rows in inputs.values():
            assert rows.grad is not None
            seen = rows.grad.abs().sum(1) > 0
            assert seen.tolist() == [mode == "full" or other <= turn for other in range(7)]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_weight_of_a_causal_mixture_has_a_gradient(fusion: str) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of("causal", dimensions, fusion=fusion)
    draw = np.random.default_rng(0)
    lengths = [1, 4, 9]
    dialogues = [dialogue_of(draw, dimensions, turns) for turns in lengths]
    batch = make_batch(dialogues, dimensions, [draw.integers(0, CLASSES, turns) for turns in lengths])
    model.loss(batch, model(batch)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A key bias adds a constant to all scores of a query; softmax ignores it.
        assert name.endswith("key.bias") or parameter.grad.any(), name


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2**16))
def test_causal_gru_and_convolutions_match_torch(lengths: list[int], layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    turns = PackedDialogues(lengths)
    ours = DialogueGRU(5, 4, layers, 0.0, bidirectional=False)
    rows = torch.randn(len(turns), 5, requires_grad=True)
    weight = torch.randn(len(turns), 4)
    (ours(rows, turns) * weight).sum().backward()
    actual = [rows.grad, *(p.grad.clone() for p in ours.parameters())]  # type: ignore[union-attr]
    rows.grad = None
    ours.zero_grad()
    (torch.cat([ours.gru(one)[0] for one in rows.split(lengths)]) * weight).sum().backward()
    for one, other in zip(actual, [rows.grad, *(p.grad for p in ours.parameters())], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    weights = torch.randn(3, 5, 3)  # [out, in, kernel]
    windows = turns.windows(rows.detach(), 3, causal=True) @ weights.permute(2, 1, 0).flatten(0, 1)
    for own, one in zip(windows.split(lengths), rows.detach().split(lengths), strict=True):
        padded = torch.nn.functional.pad(one.T, (2, 0))
        torch.testing.assert_close(own, torch.conv1d(padded, weights).T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_context_convolution_sees_as_many_turns_as_its_kernel(causal: bool) -> None:
    torch.manual_seed(0)
    layers = ContextLayers(4, 3, 1, [1, 5, 3], 0.0, causal=causal)
    rows, turns = torch.randn(9, 4), PackedDialogues([9])
    mixed = torch.zeros(9, 6)
    for kernel, convolution in zip(layers.kernels, layers.convolutions, strict=True):
        weight = convolution.weight.view(6, kernel, 4).transpose(1, 2)  # type: ignore[operator, union-attr]
        ends = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        padded = torch.nn.functional.pad(rows.T, ends)
        mixed += torch.conv1d(padded, weight, convolution.bias).T.relu()  # type: ignore[arg-type]
    torch.testing.assert_close(layers.before(rows, turns), mixed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_causal_prediction_is_uniform_before_the_first_input(fusion: str, gate: str) -> None:
    dimensions = DIMENSIONS[1]
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 5, missing=0)
    for matrix in dialogue.values():
        matrix[:2] = np.nan
    dialogue["speech"][3] = np.nan
    for matrix in dialogue.values():
        matrix[4] = np.nan
    (answer,) = predict(model_of("causal", dimensions, fusion=fusion, gate=gate), [dialogue], 1.0)
    assert answer.modalities == ["none", "none", "speech+text", "text", "none"]
    assert (answer.expert_weights[:2] == 0).all()
    np.testing.assert_allclose(answer.probabilities[:2], 1 / CLASSES, atol=1e-6)
    np.testing.assert_allclose(answer.expert_probabilities[:2], 1 / CLASSES, atol=1e-6)
    assert ((answer.expert_weights[2:] > 0) == [[True] * 3, [False, True, True], [False, False, True]]).all()
    np.testing.assert_allclose(answer.expert_weights[2:].sum(1), 1, atol=1e-6)
    (full,) = predict(model_of("full", dimensions, fusion=fusion, gate=gate), [dialogue], 1.0)
    assert full.expert_weights[:2].tolist() == [[0, 0, 1]] * 2


def test_causal_gradients_are_finite_before_the_first_input() -> None:
    dimensions = DIMENSIONS[1]
    model = model_of("causal", dimensions)
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 4, missing=0)
    for matrix in dialogue.values():
        matrix[:2] = np.nan
    batch = make_batch([dialogue], dimensions, [np.arange(4)])
    loss = model.loss(batch, model(batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("mode", ["full", "causal"])
def test_utterance_context_is_the_same_in_both_modes(mode: str) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of(mode, dimensions, context="utterance")
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 5)
    (whole,) = predict(model, [dialogue], 1.0)
    single = predict(model, [{n: x[t : t + 1] for n, x in dialogue.items()} for t in range(5)], 1.0)
    np.testing.assert_allclose(whole.probabilities, np.concatenate([s.probabilities for s in single]), atol=1e-6)


# Parameters and files


def test_full_mixture_keeps_its_parameter_names_and_shapes() -> None:
    published = {"standardise": False, "gate": "learned"}
    model = model_of("full", {"speech": 5, "text": 7}, hidden=2, fusion_width=3, fusion_blocks=1, **published)
    assert MixtureConfig().context_mode == "full"
    shapes: dict[str, tuple[int, ...]] = {}
    for name, width in (("speech", 5), ("text", 7)):
        for index, kernel in enumerate((1, 3, 5)):
            shapes[f"unimodal.{name}.context.convolutions.{index}.weight"] = (4, kernel * width)
            shapes[f"unimodal.{name}.context.convolutions.{index}.bias"] = (4,)
        for cell in ("l0", "l0_reverse", "l1", "l1_reverse"):
            shapes[f"unimodal.{name}.context.gru.gru.weight_ih_{cell}"] = (6, 4)
            shapes[f"unimodal.{name}.context.gru.gru.weight_hh_{cell}"] = (6, 2)
            shapes[f"unimodal.{name}.context.gru.gru.bias_ih_{cell}"] = (6,)
            shapes[f"unimodal.{name}.context.gru.gru.bias_hh_{cell}"] = (6,)
        shapes |= {
            f"unimodal.{name}.context.skip.weight": (4, width),
            f"unimodal.{name}.context.skip.bias": (4,),
            f"unimodal.{name}.output.weight": (4, 4),
            f"unimodal.{name}.output.bias": (4,),
        }
    for index, width in enumerate((5, 7)):
        shapes |= {
            f"cross_modal.projections.{index}.weight": (3, width),
            f"cross_modal.projections.{index}.bias": (3,),
            f"cross_modal.missing.{index}": (3,),
            f"cross_modal.skips.{index}.weight": (3, 3),
            f"cross_modal.skips.{index}.bias": (3,),
        }
        for kind in ("cross", "own"):
            layer = f"cross_modal.blocks.0.{kind}.{index}"
            for part in ("query", "key", "value"):
                shapes |= {f"{layer}.attention.{part}.weight": (6, 3), f"{layer}.attention.{part}.bias": (6,)}
            shapes |= {f"{layer}.attention.output.weight": (3, 6), f"{layer}.attention.output.bias": (3,)}
            shapes |= {f"{layer}.norm.weight": (3,), f"{layer}.norm.bias": (3,)}
    shapes |= {
        "cross_modal.norm.weight": (6,),
        "cross_modal.norm.bias": (6,),
        "cross_modal.hidden.weight": (3, 6),
        "cross_modal.hidden.bias": (3,),
        "cross_modal.output.weight": (4, 3),
        "cross_modal.output.bias": (4,),
        "gate.layers.0.weight": (10, 12),
        "gate.layers.0.bias": (10,),
        "gate.layers.2.weight": (3, 10),
        "gate.layers.2.bias": (3,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes


@pytest.mark.parametrize("mode", ["full", "causal"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_mixture_keeps_its_mode_and_predictions(fusion: str, mode: str, tmp_path: Path) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of(mode, dimensions, fusion=fusion)
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 6)
    save_mixture(model, tmp_path)
    again = load_mixture(tmp_path)
    (one,), (other,) = predict(model, [dialogue], 1.0), predict(again, [dialogue], 1.0)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    bundle = ModelBundle(
        name="mistere",
        labels=list("abcd"),
        experts=again.experts,
        encoders={},
        temperature=1.0,
        test_digest="",
        metrics={},
        dvc_digest="",
    )
    assert EmotionModel(bundle, CalibratedMixture(again, 1.0), {}).context_mode == mode


def test_mixture_saved_without_a_mode_loads_in_full_mode(tmp_path: Path) -> None:
    save_mixture(model_of("full", DIMENSIONS[1]), tmp_path)
    description = json.loads((tmp_path / "mixture.json").read_text(encoding="utf-8"))
    del description["config"]["context_mode"]
    (tmp_path / "mixture.json").write_text(json.dumps(description), encoding="utf-8")
    assert load_mixture(tmp_path).config.context_mode == "full"


# Training


def neighbours_decide(shift: int) -> EmbeddedDialogues:
    """Dialogues whose turns each show a random class, the label being what the turn ``shift`` away from it shows.

    The dialogues are cut out of longer ones, so that the first or the last label is not to be known.
    """
    draw = np.random.default_rng(0)
    dialogues: dict[str, list[EmbeddedDialogue]] = {"train": [], "dev": [], "test": []}
    shown: list[int] = []
    for index in range(70):
        turns = int(draw.integers(4, 9))
        classes = draw.integers(0, 3, turns + 2)
        split = "train" if index < 40 else "dev" if index < 55 else "test"
        rows = slice(len(shown), len(shown) + turns)
        dialogues[split].append(EmbeddedDialogue(f"d{index}", rows, classes[1 + shift : 1 + shift + turns]))
        shown += classes[1:-1].tolist()
    matrices = {}
    for name in ("speech", "text"):
        noise = draw.normal(size=(len(shown), 6)) * 0.3
        matrices[name] = (2 * draw.normal(size=(3, 6))[shown] + noise).astype(np.float32)
    return EmbeddedDialogues(dialogues, matrices, list("abc"))


@pytest.mark.long
@pytest.mark.parametrize("fusion", ["co_attention", pytest.param("feed_forward", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("mode", "shift", "learns"),
    [
        pytest.param("causal", -1, True, marks=pytest.mark.long),
        ("causal", 1, False),
        pytest.param("full", 1, True, marks=pytest.mark.long),
    ],
)
def test_only_full_mode_learns_labels_decided_by_the_next_turn(
    mode: str, shift: int, learns: bool, fusion: str
) -> None:
    data = neighbours_decide(shift)
    config = config_of(
        mode, fusion=fusion, gru_layers=1, fusion_blocks=1, fusion_dropout=0.1, learning_rate=1e-2, epochs=12
    )
    trained = train_mixture(config, data, progress=Progress("train_moe"))
    dialogues = data.split("test")
    answers = predict(trained.model, [data.read(dialogue) for dialogue in dialogues], trained.temperature)
    right = np.concatenate([a.probabilities.argmax(1) == d.labels for a, d in zip(answers, dialogues, strict=True)])
    assert right.mean() > 0.7 if learns else right.mean() < 0.5
    if learns:
        assert trained.history[-1]["loss"] < trained.history[0]["loss"]
