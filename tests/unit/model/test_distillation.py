"""What students are made of: the small speech encoder, shortened text encoders, and the losses on a teacher's answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import DataError, UsageError
from mistere.common.progress import Progress
from mistere.config.encoder import EncoderConfig
from mistere.config.mixture import MixtureConfig
from mistere.data.kinds.text import Transcript
from mistere.model.encoders.families import families
from mistere.model.encoders.families.convolutional import Convolutional, log_mel_frames, mel_filters
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.losses import distillation_loss
from mistere.model.mixture.fitting.teacher import MixtureTeacher
from mistere.model.mixture.prediction import predict
from mistere.model.mixture.training import train_mixture
from tests.unit.model.dialogue_sets import dialogues_of

pytestmark = pytest.mark.usefixtures("one_thread")
SPEECH = EncoderConfig(source="measured:convolutional", projection=8)
TINY: dict[str, Any] = {
    "hidden": 8,
    "gru_layers": 1,
    "fusion_width": 12,
    "fusion_blocks": 1,
    "attention_width": 12,
    "epochs": 6,
    "learning_rate": 5e-3,
}


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16000)) / 16000)).astype(np.float32)


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 4000.0])
def test_a_tone_is_loudest_in_its_mel_band(hertz: float) -> None:
    frames = log_mel_frames(tone(hertz), 80, 4)
    assert frames.dtype == np.float32 and frames.shape == (100, 80)
    loudest = int(frames[50].argmax())
    bins = np.flatnonzero(mel_filters(80)[:, loudest]) * 16000 / 512
    assert bins.min() - 32 <= hertz <= bins.max() + 32
    assert (mel_filters(80).sum(0) > 0).all()  # no band is deaf


def test_frames_cover_all_samples_in_multiples_of_the_stride() -> None:
    assert [len(log_mel_frames(np.zeros(samples, np.float32), 16, 4)) for samples in (0, 1, 640, 641, 1281)] == [
        4,
        4,
        4,
        8,
        12,
    ]
    assert np.isfinite(log_mel_frames(np.zeros(640, np.float32), 16, 4)).all()


def test_the_base_of_a_small_speech_encoder_is_measured_in_train(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    waves = [tone(200), tone(400, 0.5)]
    base = resolve_base(SPEECH, "audio", store, lambda: iter(waves))
    family = families()[base.manifest.family](base.path, SPEECH)
    assert base.manifest.family == "convolutional"
    encoder = UtteranceEncoder(family, SPEECH, 3)
    frames = np.concatenate([family.prepare(wave)["frames"] for wave in waves])
    backbone: Any = encoder.backbone
    np.testing.assert_allclose(backbone.mean.numpy(), frames.mean(0), atol=1e-3)
    np.testing.assert_allclose(backbone.std.numpy(), np.maximum(frames.std(0), 1e-3), rtol=1e-3)
    assert not backbone.mean.requires_grad and backbone.stem.weight.requires_grad
    again = resolve_base(SPEECH, "audio", store, lambda: iter(waves))
    assert again.manifest.digest == base.manifest.digest
    with pytest.raises(DataError, match="no utterance of train has usable audio"):
        resolve_base(SPEECH, "audio", store)


@pytest.mark.parametrize(
    "content", ["{}", '{"bands": 80}', "[1]", "not json", '{"model_type": "convolutional", "bands": -1}']
)
def test_sizes_that_are_none_are_one_sentence(content: str, tmp_path: Path) -> None:
    Convolutional.write_random(tmp_path, 0)
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"its config\.json holds no usable sizes"):
        Convolutional(tmp_path, SPEECH).load_backbone()


def test_altered_frames_have_the_same_shape_and_come_from_the_seed(tmp_path: Path) -> None:
    Convolutional.write_random(tmp_path, 0)
    family = Convolutional(tmp_path, SPEECH)
    features = family.prepare(tone(300))
    one, other = (family.altered(features, random.Random(seed)) for seed in (1, 2))
    assert one["frames"].shape == features["frames"].shape and one["length"] == features["length"]
    np.testing.assert_array_equal(one["frames"], family.altered(features, random.Random(1))["frames"])
    assert not np.array_equal(one["frames"], other["frames"])


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert"])
def test_a_shortened_text_encoder_computes_the_layers_that_it_keeps(variant: str, tmp_path: Path) -> None:
    cls = families()["bidirectional_text"]
    settings = EncoderConfig(source="random:bidirectional_text", projection=8, max_tokens=32)
    cls.write_random(tmp_path / "raw", 0, variant)
    cls.export_base(tmp_path / "raw", tmp_path / "base")
    family = cls(tmp_path / "base", settings)
    backbone = family.load_backbone()
    batch = family.collate([family.prepare(Transcript("well, what now?"))])
    with torch.inference_mode():
        expected = family.hidden_states(backbone, batch)[0][1]
    family.write_shortened(backbone, [0], 4, tmp_path / "short")
    small = cls(tmp_path / "short", settings)
    shortened = small.load_backbone()
    assert len(small.layers(shortened)) == 1 and next(shortened.parameters()).dtype == torch.float32
    with torch.inference_mode():
        states, _ = small.hidden_states(shortened, small.collate([small.prepare(Transcript("well, what now?"))]))
    assert len(states) == 2
    torch.testing.assert_close(states[-1], expected, atol=5e-3, rtol=5e-3)  # half precision on the disk


def test_a_shortened_whisper_averages_positions_before_the_layers_that_it_keeps(tmp_path: Path) -> None:
    cls = families()["whisper"]
    settings = EncoderConfig(source="random:whisper", projection=8)
    cls.write_random(tmp_path / "raw", 0)
    cls.export_base(tmp_path / "raw", tmp_path / "base")
    family = cls(tmp_path / "base", settings)
    backbone = family.load_backbone()
    family.write_shortened(backbone, [1], 4, tmp_path / "short")
    small = cls(tmp_path / "short", settings)
    encoder = UtteranceEncoder(small, settings, 3).eval()
    features = [small.prepare(tone(300, seconds)) for seconds in (0.5, 1.1)]
    assert all(one["length"] % 8 == 0 for one in features)
    with torch.inference_mode():
        states, mask = small.hidden_states(encoder.backbone, small.collate(features))
        assert len(states) == 2 and mask.sum(1).tolist() == [one["length"] // 8 for one in features]
        plain = encoder.embed(small.collate(features))
        alone = torch.cat([encoder.embed(small.collate([one])) for one in features])
        small.fuse(encoder.backbone)
        fused = encoder.embed(small.collate(features))
    torch.testing.assert_close(plain, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, fused, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooled", ["0", "33", "true", '"4"', "2.0"])
def test_pooled_positions_that_are_no_usable_number_are_one_sentence(pooled: str, tmp_path: Path) -> None:
    cls = families()["whisper"]
    cls.write_random(tmp_path, 0)
    config = (tmp_path / "config.json").read_text(encoding="utf-8").rstrip().removesuffix("}")
    (tmp_path / "config.json").write_text(f'{config}, "pooled_positions": {pooled}}}', encoding="utf-8")
    with pytest.raises(UsageError, match="pooled_positions"):
        cls(tmp_path, EncoderConfig(source="random:whisper")).prepare(tone(300))


def test_the_divergence_is_zero_for_equal_answers_and_ignores_a_constant() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert float(distillation_loss(logits + 3, logits, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(-logits, logits, 2.0)) > 0.1


@pytest.mark.long
def test_a_student_follows_its_teacher_more_than_the_labels_alone_do() -> None:
    data = dialogues_of(sizes=(12, 6, 4))
    config = MixtureConfig(**TINY)
    teacher = train_mixture(config.model_copy(update={"epochs": 20}), data, progress=Progress("teacher"))
    read = [data.read(one) for one in data.split("train")]
    answers = predict(teacher.model, read, teacher.temperature)
    guide = MixtureTeacher(
        teacher.model,
        {one.dialogue_id: answer for one, answer in zip(data.split("train"), answers, strict=True)},
        2.0,
        0.9,
        0.5,
    )

    def distance(guide: MixtureTeacher | None) -> float:
        other = config.model_copy(update={"seed": 1})
        student = train_mixture(other, data, progress=Progress("student"), teacher=guide)
        test = [data.read(one) for one in data.split("test")]
        pairs = zip(
            predict(student.model, test, student.temperature),
            predict(teacher.model, test, teacher.temperature),
            strict=True,
        )
        return float(np.mean([np.abs(one.probabilities - other.probabilities).mean() for one, other in pairs]))

    assert distance(guide) < distance(None)
    assert distance(guide) == distance(guide)
