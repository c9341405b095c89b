"""Every profile loads; the profile `paper` has the published hyperparameters."""

from __future__ import annotations

from typing import Any

import pytest

from mistere.common.modalities import IMPLICIT_KINDS
from mistere.config.loader import Config, available_profiles, load_config
from mistere.model.encoders.families import families
from pipelines.profiles import PIPELINE_CONFIG, PROFILES

PUBLISHED: dict[str, dict[str, Any]] = {
    "speech": {
        "source": "hub:Qwen/Qwen2-Audio-7B",
        "prompt": "<|audio_bos|><|AUDIO|><|audio_eos|>What is the emotion of the person?:",
        "layer_norm": "before_pooling",
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "tuning": "lora",
        "pooling": "mean",
        "projection": 2048,
        "dropout": 0.5,
        "loss": "focal",
        "focal_gamma": 2.0,
        "learning_rate": 1e-5,
        "head_learning_rate": 1e-5,
        "batch_size": 2,
        "accumulation": 8,
        "epochs": 20,
        "min_seconds": 1,
        "max_seconds": 30,
        "excerpt_seconds": 5,
    },
    "text": {
        "source": "hub:Qwen/Qwen2.5-7B",
        "attentive_width": "backbone",
        "layer_norm": "before_pooling",
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "tuning": "lora",
        "pooling": "attentive",
        "projection": 2048,
        "dropout": 0.5,
        "loss": "focal",
        "focal_gamma": 2.0,
        "learning_rate": 1e-5,
        "head_learning_rate": 1e-5,
        "batch_size": 8,
        "accumulation": 1,
        "epochs": 20,
        "max_tokens": 128,
    },
    "mixture": {
        "hidden": 512,
        "gru_layers": 3,
        "fusion": "co_attention",
        "fusion_width": 1024,
        "fusion_blocks": 4,
        "attention_width": 120,
        "attention_heads": 3,
        "gate_temperature": 2.0,
        "focal_gamma": 3.0,
        "contrastive_weight": 2.0,
        "consistency_weight": 0.1,
        "learning_rate": 1e-5,
        "batch_dialogues": 8,
        "epochs": 100,
    },
}
ADAPTERS = {
    "speech": {"rank": 16, "alpha": 8, "dropout": 0.05, "target_modules": ["q_proj", "k_proj"]},
    "text": {"rank": 8, "alpha": 32, "dropout": 0.1, "target_modules": []},
}


@pytest.mark.parametrize("profile", available_profiles(PROFILES))
def test_profile_loads(profile: str) -> None:
    assert isinstance(load_config(profile, directory=PROFILES, schema=PIPELINE_CONFIG), Config)


@pytest.mark.parametrize("section", sorted(PUBLISHED))
def test_paper_profile_has_the_published_values(section: str) -> None:
    settings = getattr(load_config("paper", directory=PROFILES, schema=PIPELINE_CONFIG), section).model_dump()
    assert {name: settings[name] for name in PUBLISHED[section]} == PUBLISHED[section]
    if section in ADAPTERS:
        assert settings["lora"] == ADAPTERS[section]


def test_each_backbone_of_a_profile_has_a_family() -> None:
    kinds = {"gpu": ("wavlm", "roberta"), "paper": ("qwen2_audio", "qwen2")}
    for types in kinds.values():
        for modality, model_type in zip(("speech", "text"), types, strict=True):
            assert [
                cls for cls in families().values() if cls.kind == IMPLICIT_KINDS[modality] and cls.handles(model_type)
            ]


def test_estimates_cover_each_encoder_of_the_gpu_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.bench.encoder_estimates import MODELS, main

    main()
    table = capsys.readouterr().out
    assert all(source.rpartition("/")[2] in table for source in MODELS)
    assert {line.split(":")[0] for line in table.splitlines() if " M" in line} == {"gpu", "paper"}
    assert "no GPU" not in table
