"""The mixture: unaffected by padding and missing modalities; interrupted training is reproducible."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mistere.artifacts import checkpoint_writing
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.errors import ArtifactError, DataError, MistereError
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.losses import expert_consistency_loss, focal_loss, supervised_contrastive_loss
from mistere.model.mixture.context import ContextLayers
from mistere.model.mixture.fitting.batches import dialogue_batches, drop_modalities
from mistere.model.mixture.fusion import AttentionLayer
from mistere.model.mixture.mixture import CROSS_MODAL, DialogueBatch, MixtureOfExperts
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.mixture.prediction import load_mixture, make_batch, predict, save_mixture
from mistere.model.mixture.recurrence import BlockDiagonalGRU, DialogueGRU
from mistere.model.mixture.training import (
    calibrate,
    class_weights,
    evaluate_on_dev,
    rate_factor,
    train_mixture,
)
from tests.unit.model.fixed_settings import FIXED

CLASSES = 4
DIMENSIONS = [{"text": 6}, {"speech": 5, "text": 7}, {"speech": 5, "text": 7, "video": 3}]
FUSIONS = ["co_attention", "feed_forward"]
every_shape = pytest.mark.parametrize(
    ("fusion", "dimensions"), [(fusion, dimensions) for fusion in FUSIONS for dimensions in DIMENSIONS]
)
Dialogue = dict[str, np.ndarray]


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(fusion: str = "co_attention", **changes: object) -> MixtureConfig:
    small = {
        "hidden": 6,
        "gru_layers": 2,
        "fusion": fusion,
        "fusion_width": 12,
        "fusion_blocks": 2,
        "attention_width": 6,
        "attention_heads": 3,
    }
    return MixtureConfig.model_validate(FIXED | small | changes)


def model_of(dimensions: Mapping[str, int], fusion: str = "co_attention", seed: int = 0) -> MixtureOfExperts:
    torch.manual_seed(seed)
    model = MixtureOfExperts(config_of(fusion), dimensions, CLASSES)
    for missing in getattr(model.cross_modal, "missing", []):
        torch.nn.init.normal_(missing)
    return model.eval()


def dialogue_of(draw: np.random.Generator, dimensions: Mapping[str, int], turns: int, missing: float = 0.3) -> Dialogue:
    """Random embeddings; a share of the rows of each modality is missing."""
    rows = {name: draw.normal(size=(turns, width)).astype(np.float32) for name, width in dimensions.items()}
    for matrix in rows.values():
        matrix[draw.random(turns) < missing] = np.nan
    return rows


def some_dialogues(dimensions: Mapping[str, int], seed: int) -> tuple[list[Dialogue], list[np.ndarray]]:
    draw = np.random.default_rng(seed)
    lengths = [1, 2, int(draw.integers(3, 9)), int(draw.integers(9, 24)), 5]
    dialogues = [dialogue_of(draw, dimensions, turns) for turns in lengths]
    if len(dimensions) > 1:
        del dialogues[-1][next(iter(dimensions))]
    return dialogues, [draw.integers(0, CLASSES, turns) for turns in lengths]


@every_shape
@pytest.mark.parametrize("seed", range(3))
def test_dialogue_output_does_not_depend_on_the_batch(fusion: str, dimensions: dict[str, int], seed: int) -> None:
    model = model_of(dimensions, fusion, seed)
    dialogues, _ = some_dialogues(dimensions, seed)
    together = predict(model, dialogues, 1.3)
    backwards = predict(model, dialogues[::-1], 1.3)[::-1]
    for index, dialogue in enumerate(dialogues):
        (alone,) = predict(model, [dialogue], 1.3)
        for other in (together[index], backwards[index]):
            np.testing.assert_allclose(alone.probabilities, other.probabilities, atol=1e-5)
            np.testing.assert_allclose(alone.expert_weights, other.expert_weights, atol=1e-5)
            np.testing.assert_allclose(alone.expert_probabilities, other.expert_probabilities, atol=1e-5)
            assert alone.modalities == other.modalities
        assert np.abs(alone.probabilities.sum(1) - 1).max() < 1e-5


@every_shape
def test_dialogue_gradient_does_not_depend_on_the_batch(fusion: str, dimensions: dict[str, int]) -> None:
    model = model_of(dimensions, fusion)
    dialogues, labels = some_dialogues(dimensions, 7)
    together = make_batch(dialogues, dimensions, labels)

    def gradients(batch: DialogueBatch, dialogue: int, target: np.ndarray) -> list[Tensor]:
        model.zero_grad()
        focal_loss(model(batch).logits[batch.turns.dialogue == dialogue], torch.as_tensor(target), 2.0).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    for index in (0, 3, 4):
        alone = make_batch([dialogues[index]], dimensions, [labels[index]])
        pairs = zip(gradients(alone, 0, labels[index]), gradients(together, index, labels[index]), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@every_shape
def test_loss_and_gradient_do_not_depend_on_dialogue_order(fusion: str, dimensions: dict[str, int]) -> None:
    model = model_of(dimensions, fusion)
    dialogues, labels = some_dialogues(dimensions, 3)
    results = []
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 1, 2], [4, 3, 2, 1, 0]):
        batch = make_batch([dialogues[i] for i in order], dimensions, [labels[i] for i in order])
        model.zero_grad()
        loss = model.loss(batch, model(batch))
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), flat))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_block_diagonal_gru_matches_separate_grus(layers: int, bidirectional: bool) -> None:
    torch.manual_seed(0)
    several = [DialogueGRU(5, 4, layers, 0.2, bidirectional=bidirectional).eval() for _ in range(3)]
    together = BlockDiagonalGRU()
    calls: list[object] = []
    for one in several:
        one.gru.register_forward_hook(lambda *_: calls.append(1))

    def compare(lengths: list[int]) -> None:
        turns = PackedDialogues(lengths)
        rows = [torch.randn(len(turns), 5) for _ in several]
        actual = together(several, rows, turns)
        calls.clear()
        expected = [one(own, turns) for one, own in zip(several, rows, strict=True)]
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)

    with torch.inference_mode():
        for lengths in ([7], [1], [3, 3], [5, 1, 9]):
            compare(lengths)
        together(several, [torch.randn(4, 5) for _ in several], PackedDialogues([4]))
        calls.clear()
        together(several, [torch.randn(4, 5) for _ in several], PackedDialogues([4]))
        assert not calls, "a single fused recurrence"
        together(several, [torch.randn(40, 5) for _ in several], PackedDialogues([1] * 40))
        assert len(calls) == 3, "large batches compute the recurrences one after the other"
    several[1].load_state_dict(DialogueGRU(5, 4, layers, 0.0, bidirectional=bidirectional).state_dict())
    with torch.inference_mode():
        compare([6])
    optimiser = torch.optim.AdamW([p for one in several for p in one.parameters()], lr=0.1, fused=True)
    learnt = together([one.train() for one in several], [torch.randn(4, 5) for _ in several], PackedDialogues([4]))
    sum(one.square().sum() for one in learnt).backward()  # type: ignore[union-attr]
    optimiser.step()
    for one in several:
        one.eval()
    with torch.inference_mode():
        compare([6])


@pytest.mark.long
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=6), st.integers(0, 2**16))
def test_each_layer_output_does_not_depend_on_the_batch(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    turns, config = PackedDialogues(lengths), config_of()
    rows, present = torch.randn(len(turns), 12), torch.rand(len(turns)) > 0.3
    context = ContextLayers(12, 6, 2, [1, 3, 5], 0.0)
    recurrence = DialogueGRU(12, 6, 2, 0.0)
    attention = AttentionLayer(config).eval()
    layers: dict[str, tuple[torch.nn.Module, Callable[[Tensor, Tensor, PackedDialogues], Tensor]]] = {
        "context": (context, lambda x, present, turns: context.after(context.gru(context.before(x, turns), turns), x)),
        "recurrence": (recurrence, lambda x, present, turns: recurrence(x, turns)),
        "attention": (attention, lambda x, present, turns: attention(x, [x], [present], turns)),
    }
    for name, (module, layer) in layers.items():

        def answer(
            x: Tensor,
            present: Tensor,
            turns: PackedDialogues,
            own: slice,
            module: torch.nn.Module = module,
            layer: Callable[[Tensor, Tensor, PackedDialogues], Tensor] = layer,
        ) -> list[Tensor]:
            module.zero_grad()
            x = x.clone().requires_grad_()
            actual = layer(x, present, turns)[own]
            (actual * torch.arange(1.0, actual.numel() + 1).view_as(actual).sin()).sum().backward()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]
            return [actual.detach(), x.grad[own], *grads]  # type: ignore[index]

        start = 0
        for length in lengths:
            own = slice(start, start + length)
            together = answer(rows, present, turns, own)
            alone = answer(rows[own], present[own], PackedDialogues([length]), slice(None))
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(
                    one, other, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
                )
            start += length


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 2**16))
def test_gru_and_convolutions_match_torch(lengths: list[int], layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    turns = PackedDialogues(lengths)
    ours = DialogueGRU(5, 4, layers, 0.0)
    rows = torch.randn(len(turns), 5, requires_grad=True)
    weight = torch.randn(len(turns), 8)
    (ours(rows, turns) * weight).sum().backward()
    actual = [rows.grad, *(p.grad.clone() for p in ours.parameters())]  # type: ignore[union-attr]
    rows.grad = None
    ours.zero_grad()
    answers = [ours.gru(one)[0] for one in rows.split(lengths)]
    (torch.cat(answers) * weight).sum().backward()
    wanted = [rows.grad, *(p.grad for p in ours.parameters())]
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    weights = torch.randn(3, 5, 3)  # [out, in, kernel]
    windows = turns.windows(rows.detach(), 3) @ weights.permute(2, 1, 0).flatten(0, 1)
    for own, one in zip(windows.split(lengths), rows.detach().split(lengths), strict=True):
        torch.testing.assert_close(own, torch.conv1d(one.T, weights, padding=1).T, atol=1e-5, rtol=1e-4)


def test_utterance_context_equals_a_single_turn_dialogue() -> None:
    dimensions = DIMENSIONS[1]
    model = model_of(dimensions)
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 5, missing=0)
    model.config = model.config.model_copy(update={"context": "utterance"})
    (whole,) = predict(model, [dialogue], 1.0)
    single = predict(model, [{n: x[t : t + 1] for n, x in dialogue.items()} for t in range(5)], 1.0)
    np.testing.assert_allclose(whole.probabilities, np.concatenate([s.probabilities for s in single]), atol=1e-6)


def test_mixture_without_a_gate_weighs_present_experts_equally() -> None:
    dimensions = DIMENSIONS[1]
    model = MixtureOfExperts(config_of(gate="mean"), dimensions, CLASSES).eval()
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 3, missing=0)
    dialogue["speech"][1] = np.nan
    (answer,) = predict(model, [dialogue], 1.0)
    np.testing.assert_allclose(answer.expert_weights, [[1 / 3] * 3, [0, 0.5, 0.5], [1 / 3] * 3], atol=1e-6)


@every_shape
def test_absent_experts_have_zero_weight(fusion: str, dimensions: dict[str, int]) -> None:
    model = model_of(dimensions, fusion)
    dialogues, _ = some_dialogues(dimensions, 11)
    for dialogue, answer in zip(dialogues, predict(model, dialogues, 1.0), strict=True):
        turns = len(answer.probabilities)
        present = np.stack(
            [~np.isnan(dialogue[n]).any(1) if n in dialogue else np.zeros(turns, bool) for n in dimensions], axis=1
        )
        anything = present.any()
        weights = answer.expert_weights
        assert (weights[:, :-1][~present] == 0).all()
        assert (weights[:, :-1][present] > 0).all() and ((weights[:, -1] > 0) == anything).all()
        np.testing.assert_allclose(weights.sum(1), float(anything), atol=1e-6)
        uniform = answer.expert_probabilities[:, :-1][~present]
        np.testing.assert_allclose(uniform, 1 / CLASSES, atol=1e-6)
        names = ["+".join(n for n, t in zip(dimensions, row, strict=True) if t) or "none" for row in present]
        assert answer.modalities == names


@pytest.mark.parametrize("fusion", FUSIONS)
def test_utterance_without_inputs_is_predicted_from_its_context(fusion: str) -> None:
    dimensions = DIMENSIONS[1]
    model = model_of(dimensions, fusion)
    dialogue = dialogue_of(np.random.default_rng(0), dimensions, 5, missing=0)
    for matrix in dialogue.values():
        matrix[2] = np.nan
    (answer,) = predict(model, [dialogue], 1.0)
    assert model.experts[-1] == CROSS_MODAL
    assert answer.expert_weights[2].tolist() == [0, 0, 1] and answer.modalities[2] == "none"
    np.testing.assert_allclose(answer.probabilities[2], answer.expert_probabilities[2, -1], atol=1e-6)
    dialogue["text"][3] += 1.0
    (other,) = predict(model, [dialogue], 1.0)
    assert np.abs(other.probabilities[2] - answer.probabilities[2]).max() > 1e-6


@every_shape
def test_dialogue_without_inputs_is_uniform_and_does_not_affect_others(fusion: str, dimensions: dict[str, int]) -> None:
    model = model_of(dimensions, fusion)
    nothing = {name: np.full((3, width), np.nan, np.float32) for name, width in dimensions.items()}
    dialogues, labels = some_dialogues(dimensions, 2)
    (alone,) = predict(model, [nothing], 1.0)
    beside = predict(model, [nothing, dialogues[3]], 1.0)
    for answer in (alone, beside[0]):
        assert (answer.expert_weights == 0).all()
        np.testing.assert_allclose(answer.probabilities, 1 / CLASSES, atol=1e-6)
    np.testing.assert_allclose(beside[1].probabilities, predict(model, [dialogues[3]], 1.0)[0].probabilities, atol=1e-5)
    model.zero_grad()
    batch = make_batch([nothing, dialogues[3]], dimensions, [np.array([0, 1, 2]), labels[3]])
    loss = model.loss(batch, model(batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    batch = make_batch([nothing], dimensions, [np.array([0, 1, 2])])
    only = model.loss(batch, model(batch))
    only.backward()
    assert only.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_shape
def test_saved_mixture_gives_the_same_predictions(fusion: str, dimensions: dict[str, int], tmp_path: Path) -> None:
    model = model_of(dimensions, fusion)
    dialogues, _ = some_dialogues(dimensions, 1)
    save_mixture(model, tmp_path)
    again = load_mixture(tmp_path)
    assert again.experts == model.experts and not again.training
    for one, other in zip(predict(model, dialogues, 1.0), predict(again, dialogues, 1.0), strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


# Losses


@pytest.mark.parametrize("seed", range(5))
def test_contrastive_loss_matches_the_reference_in_any_order(seed: int) -> None:
    torch.manual_seed(seed)
    vectors, labels = torch.randn(9, 4), torch.tensor([0, 0, 1, 1, 1, 2, 3, 0, 3])
    order = torch.randperm(9)
    actual = supervised_contrastive_loss(vectors, labels, 0.7)
    torch.testing.assert_close(supervised_contrastive_loss(vectors[order], labels[order], 0.7), actual)
    torch.testing.assert_close(supervised_contrastive_loss(vectors * 3, labels, 0.7), actual)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    anchors = []
    for i in range(9):
        positives = [j for j in range(9) if j != i and labels[j] == labels[i]]
        if positives:
            scores = {j: float(unit[i] @ unit[j]) / 0.7 for j in range(9) if j != i}
            total = math.log(sum(math.exp(score) for score in scores.values()))
            anchors.append(-sum(scores[j] - total for j in positives) / len(positives))
    assert float(actual) == pytest.approx(sum(anchors) / len(anchors), abs=1e-5)


def test_contrastive_loss_without_positives_has_zero_value_and_gradient() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrastive_loss(vectors, torch.tensor([0, 1, 2]), 1.0)
    loss.backward()
    assert float(loss.detach()) == 0 and vectors.grad is not None and not vectors.grad.any()


def test_consistency_loss_covers_present_pairs_in_any_order() -> None:
    torch.manual_seed(0)
    logits, present = torch.randn(7, 3, CLASSES), torch.rand(7, 3) > 0.3
    actual = expert_consistency_loss(logits, present)
    order = torch.randperm(7)
    torch.testing.assert_close(expert_consistency_loss(logits[order], present[order]), actual)
    torch.testing.assert_close(expert_consistency_loss(logits.flip(1), present.flip(1)), actual)
    spoiled = torch.where(present[..., None], logits, 50.0)
    torch.testing.assert_close(expert_consistency_loss(spoiled, present), actual)
    p = logits.softmax(-1)
    pairs = [
        float((p[n, i] * (p[n, i] / p[n, j]).log()).sum() + (p[n, j] * (p[n, j] / p[n, i]).log()).sum())
        for n in range(7)
        for i in range(3)
        for j in range(i + 1, 3)
        if present[n, i] and present[n, j]
    ]
    assert float(actual) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    assert float(expert_consistency_loss(logits, torch.zeros_like(present))) == 0


def test_focal_loss_with_gamma_zero_equals_cross_entropy() -> None:
    logits, labels = torch.randn(8, CLASSES), torch.randint(CLASSES, (8,))
    torch.testing.assert_close(focal_loss(logits, labels, 0), torch.nn.functional.cross_entropy(logits, labels))
    p = logits.softmax(-1)[torch.arange(8), labels]
    torch.testing.assert_close(focal_loss(logits, labels, 2.0), ((1 - p) ** 2 * -p.log()).mean())
    assert focal_loss(logits, labels, 2.0) < focal_loss(logits, labels, 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_focal_loss_of_certain_predictions_has_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [80.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 0, 0]), gamma).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


# Training


def write_toy(folder: Path, *, spoil: float | None = None) -> EmbeddedDialogues:
    """Dialogues whose labels are visible in one of two modalities, with missing rows."""
    draw = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    split, names, turns, labels = [], [], [], []
    for index in range(40):
        for turn in range(int(draw.integers(2, 8))):
            split.append("train" if index < 24 else "dev" if index < 32 else "test")
            names.append(f"d{index}")
            turns.append(turn)
            labels.append(int(draw.integers(0, 3)))
    centres = {name: draw.normal(size=(3, 8)) * 1.5 for name in ("speech", "text")}
    matrices = {}
    for name, centre in centres.items():
        matrix = (centre[labels] + draw.normal(size=(len(labels), 8))).astype(np.float32)
        matrix[draw.random(len(labels)) < 0.15] = np.nan
        if spoil is not None:
            matrix[:, 0] = spoil
        np.save(folder / f"{name}.npy", matrix)
        matrices[name] = folder / f"{name}.npy"
    table = {"split": split, "dialogue_id": names, "turn": turns, "label": [f"l{label}" for label in labels]}
    pq.write_table(pa.table(table), folder / "utterances.parquet")
    return EmbeddedDialogues.read_files(folder / "utterances.parquet", matrices, ["l0", "l1", "l2"])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedDialogues:
    return write_toy(tmp_path_factory.mktemp("toy"))


def toy_config(**changes: object) -> MixtureConfig:
    return config_of(**({"gru_layers": 1, "learning_rate": 3e-3, "epochs": 6, "fusion_dropout": 0.2} | changes))  # type: ignore[arg-type]


def weights_of(model: MixtureOfExperts) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(one: MixtureOfExperts, other: MixtureOfExperts) -> None:
    theirs = weights_of(other)
    for name, values in weights_of(one).items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fusion", "gate"),
    [
        pytest.param("feed_forward", "fitted", marks=pytest.mark.long),
        ("co_attention", "learned"),
        pytest.param("co_attention", "fitted", marks=pytest.mark.long),
    ],
)
def test_training_beats_chance_and_is_reproducible(toy: EmbeddedDialogues, fusion: str, gate: str) -> None:
    config = toy_config(fusion=fusion, gate=gate)
    first = train_mixture(config, toy, progress=Progress("train_moe"))
    dialogues = toy.split("test")
    answers = predict(first.model, [toy.read(dialogue) for dialogue in dialogues], first.temperature)
    predicted = np.concatenate([answer.probabilities.argmax(1) for answer in answers])
    true = np.concatenate([dialogue.labels for dialogue in dialogues])
    assert weighted_f1(confusion(true, predicted, 3)) > 0.6
    assert first.dev_weighted_f1 == evaluate_on_dev(first.model, toy)[0]
    best = max(epoch["dev_weighted_f1"] for epoch in first.history)
    assert gate == "fitted" or round(first.dev_weighted_f1, 6) == best
    assert [epoch["epoch"] for epoch in first.history] == list(range(1, len(first.history) + 1))
    second = train_mixture(config, toy, progress=Progress("train_moe"))
    assert first.history == second.history and first.temperature == second.temperature
    assert_same(first.model, second.model)
    other = train_mixture(toy_config(fusion=fusion, gate=gate, seed=1), toy, progress=Progress("train_moe"))
    assert other.history != first.history


class KilledError(Exception):
    """Simulates a killed process."""


class Interrupting(Progress):
    """Raises when an epoch is reported, before its checkpoint is written."""

    def __init__(self, epoch: int) -> None:
        super().__init__("train_moe")
        self.epoch = epoch

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        if done == self.epoch:
            raise KilledError


@pytest.mark.long
def test_checkpoints_cost_a_bounded_share_of_the_training(
    toy: EmbeddedDialogues, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    class Expensive(Checkpoints):
        """Each write takes longer than the whole training."""

        def save(self, name: str) -> None:
            written.append(name)
            super().save(name)

    monkeypatch.setattr(checkpoint_writing, "LARGEST_SHARE", 1e-9)
    train_mixture(
        toy_config(epochs=4), toy, progress=Progress("train_moe"), checkpoints=Expensive(store, "train_moe", "key")
    )
    assert written == ["epoch"]


@pytest.mark.long
@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.long)], indirect=True)
def test_interrupted_training_resumes_to_the_same_result(
    toy: EmbeddedDialogues, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writing, "LARGEST_SHARE", 1e9)  # one after each epoch
    monkeypatch.setattr(checkpoint_writing, "BYTES_PER_SECOND", 1e12)
    config = toy_config(epochs=5, modality_dropout=0.3, context_dropout=0.1)
    whole = train_mixture(config, toy, progress=Progress("train_moe"))
    for attempt, epoch in enumerate((1, 3, 4)):
        monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"machine-{attempt}"))
        with pytest.raises(KilledError):
            train_mixture(config, toy, progress=Interrupting(epoch), checkpoints=Checkpoints(store, "train_moe", "key"))
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "last-machine"))
    trained: list[float] = []

    class Counting(Progress):
        def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
            trained.append(done)

    resumed = train_mixture(
        config, toy, progress=Counting("train_moe"), checkpoints=Checkpoints(store, "train_moe", "key")
    )
    assert trained == [4, 5]
    assert resumed.history == whole.history
    assert (resumed.epoch, resumed.dev_weighted_f1, resumed.temperature) == (
        whole.epoch,
        whole.dev_weighted_f1,
        whole.temperature,
    )
    assert_same(resumed.model, whole.model)


@pytest.mark.long
def test_truncated_checkpoint_is_skipped(toy: EmbeddedDialogues, tmp_path: Path) -> None:
    config = toy_config(epochs=2)
    checkpoints = Checkpoints(LocalStore(tmp_path), "train_moe", "key")
    checkpoints.directory.mkdir(parents=True)
    (checkpoints.directory / "epoch").write_bytes(b"\x10\x00\x00")
    trained = train_mixture(config, toy, progress=Progress("train_moe"), checkpoints=checkpoints)
    assert_same(trained.model, train_mixture(config, toy, progress=Progress("train_moe")).model)


def test_training_stops_early_and_keeps_the_best_weights(toy: EmbeddedDialogues) -> None:
    config = toy_config(gate="learned", epochs=30, patience=1, learning_rate=3e-2)
    trained = train_mixture(config, toy, progress=Progress("train_moe"))
    scores = [epoch["dev_weighted_f1"] for epoch in trained.history]
    assert len(scores) < 30 and len(scores) == trained.epoch + 1
    assert scores[trained.epoch - 1] == max(scores) == round(trained.dev_weighted_f1, 6)


@pytest.mark.parametrize(("spoil", "standardise"), [(1e38, False), (float("inf"), False), (float("inf"), True)])
def test_diverging_training_raises_a_readable_error(spoil: float, standardise: bool, tmp_path: Path) -> None:
    data = write_toy(tmp_path, spoil=spoil)
    with pytest.raises(
        MistereError, match=r"training diverged in epoch 1 .*lower mixture\.learning_rate.*\.$"
    ) as caught:
        train_mixture(toy_config(standardise=standardise), data, progress=Progress("train_moe"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_empty_split_raises_a_data_error(toy: EmbeddedDialogues, split: str, tmp_path: Path) -> None:
    table = pa.table({"split": ["test"] * 2 + [{"train": "dev", "dev": "train"}[split]], "dialogue_id": list("aab")})
    table = table.append_column("label", pa.array(["x", "y", "x"]))
    pq.write_table(table, tmp_path / "utterances.parquet")
    np.save(tmp_path / "text.npy", np.zeros((3, 4), np.float32))
    data = EmbeddedDialogues.read_files(tmp_path / "utterances.parquet", {"text": tmp_path / "text.npy"}, ["x", "y"])
    with pytest.raises(DataError, match=f"the {split} split has no dialogue"):
        train_mixture(toy_config(), data, progress=Progress("train_moe"))


def test_embeddings_of_other_utterances_are_rejected(tmp_path: Path) -> None:
    write_toy(tmp_path)
    np.save(tmp_path / "text.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(ArtifactError, match="the text embeddings have 3 rows"):
        EmbeddedDialogues.read_files(
            tmp_path / "utterances.parquet", {"text": tmp_path / "text.npy"}, ["l0", "l1", "l2"]
        )


@pytest.mark.long
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 30.0])
def test_calibration_does_not_increase_dev_loss(toy: EmbeddedDialogues, sharpness: float) -> None:
    model = train_mixture(toy_config(epochs=2), toy, progress=Progress("train_moe")).model
    with torch.no_grad():
        for expert in model.unimodal.values():
            expert.output.weight *= sharpness  # type: ignore[union-attr, operator]
        model.cross_modal.output.weight *= sharpness
    dialogues = toy.split("dev")
    true = np.concatenate([dialogue.labels for dialogue in dialogues])

    def negative_log_likelihood(temperature: float) -> float:
        answers = predict(model, [toy.read(dialogue) for dialogue in dialogues], temperature)
        p = np.concatenate([answer.probabilities for answer in answers]).astype(np.float64)
        return float(-np.log(np.clip(p[np.arange(len(true)), true], 1e-12, 1)).mean())

    temperature = calibrate(model, toy)
    assert 0.05 <= temperature <= 20
    assert negative_log_likelihood(temperature) <= negative_log_likelihood(1.0) + 1e-6


def test_modality_dropout_drops_one_modality_and_keeps_the_batch() -> None:
    torch.manual_seed(0)
    dimensions = DIMENSIONS[2]
    batch = make_batch(some_dialogues(dimensions, 1)[0], dimensions)
    before = {name: tensor.clone() for name, tensor in batch.present.items()}
    reduced = drop_modalities(batch, 0.5)
    names = list(dimensions)
    had = torch.stack([batch.present[name] for name in names]).sum(0)
    has = torch.stack([reduced.present[name] for name in names]).sum(0)
    assert ((had - has) <= 1).all() and (has[had > 0] >= 1).all() and (has < had).any()
    for name in names:
        assert not reduced.inputs[name][~reduced.present[name]].any()
        assert torch.equal(batch.present[name], before[name])
    one = make_batch(some_dialogues(DIMENSIONS[0], 1)[0], DIMENSIONS[0])
    assert drop_modalities(one, 0.9) is one and drop_modalities(batch, 0) is batch


def test_learning_rate_follows_the_schedule() -> None:
    config = toy_config(schedule="cosine", warmup_epochs=2, epochs=10)
    assert [round(rate_factor(config, passed), 3) for passed in (0.5, 1, 2, 6, 10)] == [0.25, 0.5, 1.0, 0.5, 0.0]
    assert rate_factor(toy_config(schedule="linear", epochs=4), 3) == 0.25
    assert rate_factor(toy_config(), 3) == 1.0


def test_class_weights_average_one_and_favour_rare_classes(toy: EmbeddedDialogues) -> None:
    assert class_weights(toy_config(), toy) is None
    counts = np.bincount(np.concatenate([d.labels for d in toy.split("train")]))
    for kind in ("balanced", "sqrt"):
        per_class = class_weights(toy_config(class_weights=kind), toy)
        assert per_class is not None
        assert float((per_class.numpy() * counts).sum()) == pytest.approx(counts.sum(), rel=1e-5)
        assert int(per_class.argmax()) == int(counts.argmin())
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = torch.tensor([2.0, 0.5, 0.5])
    single = torch.stack([focal_loss(logits[i : i + 1], labels[i : i + 1], 2.0) for i in range(6)])
    torch.testing.assert_close(focal_loss(logits, labels, 2.0, weights), (single * weights[labels]).mean())


@pytest.mark.long
def test_training_with_schedule_and_bf16_is_reproducible(toy: EmbeddedDialogues) -> None:
    config = toy_config(schedule="cosine", warmup_epochs=1, class_weights="sqrt", precision="bf16")
    first, second = (train_mixture(config, toy, progress=Progress("train_moe")) for _ in range(2))
    assert first.history == second.history and first.dev_weighted_f1 > 0.45
    assert {tensor.dtype for tensor in first.model.state_dict().values()} == {torch.float32}


def test_exception_in_on_epoch_ends_training(toy: EmbeddedDialogues) -> None:
    seen: list[int] = []

    def stop(epoch: int, entry: dict[str, float]) -> None:
        seen.append(epoch)
        assert {"loss", "dev_weighted_f1"} <= entry.keys()
        if epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train_mixture(toy_config(), toy, progress=Progress("train_moe"), on_epoch=stop)
    assert seen == [1, 2]


def test_batches_contain_each_dialogue_once_grouped_by_length(toy: EmbeddedDialogues) -> None:
    dialogues = toy.split("train")
    batches = dialogue_batches(dialogues, 5, random.Random(0))
    assert sorted(d.dialogue_id for batch in batches for d in batch) == sorted(d.dialogue_id for d in dialogues)
    assert max(map(len, batches)) == 5
    spans = sorted((min(map(len, batch)), max(map(len, batch))) for batch in batches)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
    assert dialogue_batches(dialogues, 5, random.Random(1)) != batches


def test_random_batches_mix_lengths(toy: EmbeddedDialogues) -> None:
    dialogues = toy.split("train")
    batches = dialogue_batches(dialogues, 5, random.Random(0), by_length=False)
    assert sorted(d.dialogue_id for batch in batches for d in batch) == sorted(d.dialogue_id for d in dialogues)
    spans = sorted((min(map(len, batch)), max(map(len, batch))) for batch in batches)
    assert any(first[1] > second[0] for first, second in itertools.pairwise(spans))
