"""The mixture with the profile ``published`` compared with an independent implementation of the published model."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.losses import expert_consistency_loss, focal_loss, supervised_contrastive_loss
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts, MixtureOutput
from mistere.model.mixture.prediction import load_mixture, make_batch, predict, save_mixture
from mistere.model.mixture.training import MixtureTraining
from pipelines.profiles import load_profile
from tests.bench.reference import published_design
from tests.bench.reference.published_design import (
    EXPERTS,
    MODALITIES,
    PADDING,
    Published,
    PublishedDesign,
    PublishedOutput,
    padded,
    step,
)
from tests.bench.reference.published_weights import from_mixture, to_mixture
from tests.unit.model.fixed_settings import FIXED

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = Published(classes=4, width=(7, 5), context=6, fusion=12, blocks=2, attention=6, learning_rate=1e-3)
DIMENSIONS = dict(zip(MODALITIES, SIZE.width, strict=True))
PUBLISHED = load_profile("published").mixture
CONFIG = PUBLISHED.model_copy(
    update={"hidden": 6, "fusion_width": 12, "fusion_blocks": 2, "attention_width": 6, "learning_rate": 1e-3}
)
NEW_SETTINGS = (
    "attention_projections", "output_dropout", "fusion_skip", "layer_norm_eps", "consistency_scale", "batches"
)  # fmt: skip
EVEN, RAGGED = [9, 9, 9], [2, 9, 5]


@dataclass
class Pair:
    """Both models with the same weights, and the same dialogues for both."""

    ours: MixtureOfExperts
    theirs: PublishedDesign
    dialogues: list[dict[str, np.ndarray]]
    labels: list[np.ndarray]

    @property
    def batch(self) -> DialogueBatch:
        return make_batch(self.dialogues, DIMENSIONS, self.labels)

    @property
    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        speech, text = (padded([dialogue[name] for dialogue in self.dialogues]) for name in MODALITIES)
        return speech, text, padded(self.labels, PADDING)

    @cached_property
    def mask(self) -> Tensor:
        return self.padded[2] != PADDING

    def outputs(self, mask: Tensor | None) -> tuple[MixtureOutput, PublishedOutput]:
        speech, text, _ = self.padded
        return self.ours(self.batch), self.theirs(speech, text, mask)


def data_of(lengths: list[int]) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Dialogues with columns of very different scales, which the published model does not standardise."""
    draw = np.random.default_rng(0)
    scales = {name: np.geomspace(0.05, 20, width) for name, width in DIMENSIONS.items()}
    dialogues = [
        {name: (draw.normal(size=(n, len(scale))) * scale).astype(np.float32) for name, scale in scales.items()}
        for n in lengths
    ]
    return dialogues, [draw.integers(0, SIZE.classes, n) for n in lengths]


def pair_of(lengths: list[int], config: MixtureConfig = CONFIG) -> Pair:
    """Without dropout, and with our model's random weights in both."""
    torch.manual_seed(0)
    ours = MixtureOfExperts(config, DIMENSIONS, SIZE.classes).eval()
    theirs = PublishedDesign(SIZE).eval()
    theirs.load_state_dict(from_mixture(ours.state_dict(), SIZE))
    return Pair(ours, theirs, *data_of(lengths))


def test_the_published_model_is_independent_of_this_project() -> None:
    tree = ast.parse(Path(published_design.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.level or not node.module)]
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert not relative and packages == {"__future__", "collections", "dataclasses", "numpy", "torch"}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"__import__", "exec", "eval"}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


with_and_without_mask = pytest.mark.parametrize(
    ("lengths", "masked"), [(EVEN, False), (EVEN, True), (RAGGED, True)], ids=["even", "even-mask", "ragged-mask"]
)


@with_and_without_mask
def test_outputs_match_the_published_model(lengths: list[int], masked: bool) -> None:
    pair = pair_of(lengths)
    mask = pair.mask if masked else None
    ours, theirs = pair.outputs(mask)
    real = pair.mask
    close(ours.expert_logits, theirs.expert_logits[real])
    close(ours.weights, theirs.weights[real])
    close(ours.logits, theirs.logits[real])
    close(ours.views["speech"], theirs.speech[real])
    close(ours.views["text"], theirs.text[real])


def test_outputs_match_with_the_weights_of_the_published_model() -> None:
    pair = pair_of(RAGGED)
    torch.manual_seed(1)
    theirs = PublishedDesign(SIZE).eval()
    state = to_mixture(theirs.state_dict(), SIZE)
    others = [name for name in pair.ours.state_dict() if name not in state]
    assert others == ["cross_modal.missing.0", "cross_modal.missing.1"]
    pair.ours.load_state_dict({**pair.ours.state_dict(), **state})
    pair.theirs = theirs
    ours, expected = pair.outputs(pair.mask)
    close(ours.logits, expected.logits[pair.mask])
    close(ours.expert_logits, expected.expert_logits[pair.mask])


@with_and_without_mask
def test_each_loss_term_matches(lengths: list[int], masked: bool) -> None:
    pair = pair_of(lengths)
    mask = pair.mask if masked else None
    ours, theirs = pair.outputs(mask)
    expected = pair.theirs.losses(theirs, pair.padded[2], mask)
    labels = pair.batch.labels
    assert labels is not None
    terms = {"mixture": focal_loss(ours.logits, labels, CONFIG.focal_gamma)}
    for index, name in enumerate(EXPERTS):
        terms[name] = focal_loss(ours.expert_logits[:, index], labels, CONFIG.focal_gamma)
    views = torch.cat([ours.views[name] for name in MODALITIES])
    terms["contrastive"] = CONFIG.contrastive_weight * supervised_contrastive_loss(
        views, labels.repeat(2), CONFIG.contrastive_temperature
    )
    turns_per_dialogue = sum(lengths) / len(lengths)
    terms["consistency"] = (
        CONFIG.consistency_weight
        * turns_per_dialogue
        * expert_consistency_loss(ours.expert_logits, ours.expert_present)
    )
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        close(term, expected[name])
    close(pair.ours.loss(pair.batch, ours), torch.stack(list(expected.values())).sum())


@with_and_without_mask
def test_gradient_matches(lengths: list[int], masked: bool) -> None:
    pair = pair_of(lengths)
    mask = pair.mask if masked else None
    ours, theirs = pair.outputs(mask)
    pair.ours.loss(pair.batch, ours).backward()
    torch.stack(list(pair.theirs.losses(theirs, pair.padded[2], mask).values())).sum().backward()
    actual = from_mixture({name: p.grad for name, p in pair.ours.named_parameters() if p.grad is not None}, SIZE)
    expected = {name: p.grad for name, p in pair.theirs.named_parameters()}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(actual[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_training_follows_the_published_training() -> None:
    """Our training step against the published loop, over several steps of Adam on the same batches, without dropout."""
    pair = pair_of(EVEN)
    entries = [EmbeddedDialogue(f"d{i}", slice(9 * i, 9 * i + 9), labels) for i, labels in enumerate(pair.labels)]
    matrices = {name: np.concatenate([dialogue[name] for dialogue in pair.dialogues]) for name in MODALITIES}
    data = EmbeddedDialogues({"train": entries, "dev": entries}, matrices, [str(i) for i in range(SIZE.classes)])
    training = MixtureTraining(CONFIG, data)
    training.model.load_state_dict({**training.model.state_dict(), **to_mixture(pair.theirs.state_dict(), SIZE)})
    training.model.eval()
    optimizer = torch.optim.Adam(pair.theirs.parameters(), lr=SIZE.learning_rate)
    ours = [float(training.train_step(entries)) for _ in range(8)]
    theirs = [float(step(pair.theirs, optimizer, pair.padded)) for _ in range(8)]
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert ours[-1] < ours[0] - 0.1


def test_padding_changes_the_published_loss() -> None:
    """What a mask is for: without one each term of the published loss depends on the padding."""
    pair = pair_of(RAGGED)
    terms = []
    for mask in (pair.mask, None):
        _, output = pair.outputs(mask)
        terms.append(pair.theirs.losses(output, pair.padded[2], mask))
    for name, term in terms[0].items():
        assert abs(float((term - terms[1][name]).detach())) > 1e-3, name


@pytest.mark.parametrize(
    "changes",
    [{"fusion_skip": "projection"}, {"attention_projections": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_default_of_ours_has_other_parameters(changes: dict[str, object]) -> None:
    with pytest.raises((KeyError, RuntimeError)):
        pair_of(EVEN, CONFIG.model_copy(update=changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"consistency_scale": "mean"},
        {"gate_temperature": 1.0},
        {"contrastive_temperature": 0.5},
        {"focal_gamma": 2.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_setting_is_another_model(changes: dict[str, object]) -> None:
    pair = pair_of(EVEN, CONFIG.model_copy(update=changes))
    ours, theirs = pair.outputs(None)
    expected = torch.stack(list(pair.theirs.losses(theirs, pair.padded[2]).values())).sum()
    assert abs(float((pair.ours.loss(pair.batch, ours) - expected).detach())) > 1e-2


def test_layer_norms_add_what_the_published_ones_do() -> None:
    pair = pair_of(EVEN)
    added = [
        {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
        for model in (pair.ours, pair.theirs)
    ]
    assert added == [{1e-6}, {1e-6}]


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        ours = MixtureOfExperts(PUBLISHED, {"speech": 2048, "text": 2048}, 6)
        theirs = PublishedDesign(Published())
    fusion = sum(parameter.numel() for parameter in theirs.cross_modal.parameters())
    assert fusion == 19_349_638
    of_missing_modalities = 2 * 1024
    assert sum(parameter.numel() for parameter in ours.cross_modal.parameters()) == fusion + of_missing_modalities
    for part in ("unimodal", "gate"):
        counts = [sum(p.numel() for p in getattr(model, part).parameters()) for model in (ours, theirs)]
        assert counts[0] == counts[1]


@pytest.mark.long
def test_published_model_starts_from_the_same_distribution() -> None:
    torch.manual_seed(0)
    models = [PublishedDesign(SIZE) for _ in range(40)]
    mixtures = [MixtureOfExperts(CONFIG, DIMENSIONS, SIZE.classes) for _ in range(40)]
    states = [model.state_dict() for model in models], [from_mixture(m.state_dict(), SIZE) for m in mixtures]
    for name in states[0][0]:
        theirs, ours = (torch.stack([state[name] for state in part]).flatten() for part in states)
        tolerance = 0.12 if len(theirs) < 1000 else 0.06
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=tolerance, abs=1e-6), name
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.05, abs=1e-6), name


def test_published_profile_trains_as_published() -> None:
    """Without dropout beyond the published, early stopping, decay or a schedule, in random batches."""
    expected = {
        "fusion_dropout": 0.5, "attention_dropout": 0.1, "output_dropout": 0.0, "context_dropout": 0.0,
        "modality_dropout": 0.0, "learning_rate": Published().learning_rate, "weight_decay": 0.0, "schedule": "constant",
        "warmup_epochs": 0.0, "epochs": 100, "patience": 100, "batch_dialogues": 8, "batches": "random",
        "gradient_clip": Published().clip, "precision": "fp32", "class_weights": "none",
    }  # fmt: skip
    settings = PUBLISHED.model_dump()
    assert {name: settings[name] for name in expected} == expected
    dropouts = {
        name: module.p
        for name, module in MixtureOfExperts(CONFIG, DIMENSIONS, 4).named_modules()
        if isinstance(module, torch.nn.Dropout) and module.p
    }
    assert all(name.startswith("cross_modal.blocks") for name in dropouts) and set(dropouts.values()) == {0.5}


def test_paper_profile_has_the_published_mixture() -> None:
    assert load_profile("paper").mixture == PUBLISHED


@pytest.mark.parametrize("dimensions", [{"text": 5}, DIMENSIONS, {**DIMENSIONS, "video": 3}], ids=len)
def test_published_mixture_handles_missing_modalities(dimensions: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = MixtureOfExperts(CONFIG, dimensions, SIZE.classes).eval()
    draw = np.random.default_rng(0)
    dialogues = [
        {name: draw.normal(size=(n, width)).astype(np.float32) for name, width in dimensions.items()} for n in (1, 4, 9)
    ]
    for dialogue in dialogues[1:]:
        for index, rows in enumerate(dialogue.values()):
            rows[index::3] = np.nan
    together = predict(model, dialogues, 1.0)
    for dialogue, answer in zip(dialogues, together, strict=True):
        (alone,) = predict(model, [dialogue], 1.0)
        np.testing.assert_allclose(alone.probabilities, answer.probabilities, atol=1e-5)
        for index, rows in enumerate(dialogue.values()):
            assert (answer.expert_weights[np.isnan(rows).any(1), index] == 0).all()


def test_mixture_without_the_settings_of_the_published_one_still_opens(tmp_path: Path) -> None:
    """A mixture that an earlier version wrote has none of these settings in its file."""
    config = MixtureConfig.model_validate(
        FIXED | {"hidden": 6, "gru_layers": 1, "fusion_width": 12, "fusion_blocks": 1, "attention_width": 6}
    )
    model = MixtureOfExperts(config, DIMENSIONS, SIZE.classes).eval()
    save_mixture(model, tmp_path)
    file = tmp_path / "mixture.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    for name in NEW_SETTINGS:
        del description["config"][name]
    file.write_text(json.dumps(description), encoding="utf-8")
    dialogues, _ = data_of(RAGGED)
    for one, other in zip(predict(model, dialogues, 1.0), predict(load_mixture(tmp_path), dialogues, 1.0), strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
