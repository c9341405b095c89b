"""The sizes of the models of a planned run, by what the hub and headers say of their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.errors import UsageError
from mistere.model.encoders.families import families
from mistere.model.encoders.lookup.checkpoint_size import WeightSize, stored_weights
from pipelines.bundle_estimate import check_planned_room, planned_sizes
from pipelines.cli.commands.submit import submit
from pipelines.profiles import load_profile
from tests.stand_ins.hub import GATED, Hub, Tensors, Weights, hub_server, use_hub

SEVEN_BILLION = 7_615_616_512
"""Weights of Qwen2.5-7B."""
OMNI: dict[str, Tensors] = {
    "model-00001-of-00003.safetensors": {
        "thinker.audio_tower.conv1.weight": ("BF16", 640_000_000),
        "thinker.visual.blocks.0.attn.qkv.weight": ("BF16", 670_000_000),
        "thinker.model.embed_tokens.weight": ("BF16", 545_000_000),
    },
    "model-00002-of-00003.safetensors": {
        "thinker.model.layers.0.mlp.up_proj.weight": ("BF16", 6_526_000_000),
        "thinker.lm_head.weight": ("BF16", 545_000_000),
    },
    "model-00003-of-00003.safetensors": {
        "talker.model.layers.0.mlp.up_proj.weight": ("BF16", 1_350_000_000),
        "token2wav.code2wav_dit_model.proj_in.weight": ("F32", 450_000_000),
    },
}
KEPT_OF_OMNI = 640_000_000 + 545_000_000 + 6_526_000_000
WHISPER: Tensors = {
    "model.encoder.layers.0.fc1.weight": ("F16", 637_000_000),
    "model.decoder.layers.0.fc1.weight": ("F16", 906_000_000),
}
VARIANTS = [(name, variant) for name, cls in sorted(families().items()) for variant in cls.variants]


@pytest.fixture(scope="module")
def _server() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.large = {
            "Qwen/Qwen2.5-7B": seven_billion({"model_type": "qwen2", "torch_dtype": "bfloat16"}),
            "some/uncounted": seven_billion({"model_type": "qwen2", "torch_dtype": "bfloat16"}, counted=False),
            "some/uncounted-in-32-bits": seven_billion({"model_type": "qwen2"}, "F32", counted=False),
            "Qwen/Qwen2.5-Omni-7B": Weights({"model_type": "qwen2_5_omni"}, OMNI),
            "openai/whisper-large-v3": Weights(
                {"model_type": "whisper"},
                {
                    "model.safetensors": WHISPER,
                    "model.fp32-00001-of-00001.safetensors": {
                        name: ("F32", count) for name, (_, count) in WHISPER.items()
                    },
                },
            ),
        }
        yield hub


def seven_billion(configuration: dict[str, object], kind: str = "BF16", counted: bool = True) -> Weights:
    """A model of two shards."""
    half: dict[str, Tensors] = {
        f"model-0000{number}-of-00002.safetensors": {
            f"model.layers.{number}.mlp.up_proj.weight": (kind, SEVEN_BILLION // 2)
        }
        for number in (1, 2)
    }
    return Weights(configuration, half, counted)


@pytest.fixture
def hub(_server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The hub's stand-in, with an empty cache."""
    use_hub(monkeypatch, _server.url, tmp_path)
    _server.down = 0
    return _server


def sizes(**sources: str) -> dict[str, WeightSize | None]:
    return planned_sizes(load_profile("tiny", [f"{name}.source={source}" for name, source in sources.items()]))


@pytest.mark.parametrize("source", ["hub:Qwen/Qwen2.5-7B", "some/uncounted"])
def test_a_model_of_the_hub_in_16_bits_takes_twice_as_much_in_float32(source: str, hub: Hub) -> None:
    settings = [f"text.source={source}", "deployment.mode=standard", "deployment.memory_limit=20Gi"]
    with pytest.raises(UsageError, match=r"memory_limit=20Gi is too small: a bundle with .* needs 3\d\.\d GiB"):
        submit("tiny", None, settings)
    half = load_profile("tiny", [*settings, "deployment.predictor.dtype=bfloat16"])
    assert "the models of speech, text (14.2 GiB) fit" in check_planned_room(half)


def test_a_model_of_the_hub_in_32_bits_takes_its_size(hub: Hub) -> None:
    size = sizes(text="some/uncounted-in-32-bits")["text"]
    assert size is not None and size.stored == size.float32 == pytest.approx(4 * SEVEN_BILLION, rel=1e-6)


def test_only_what_a_family_keeps_of_a_model_on_the_hub_is_counted(hub: Hub) -> None:
    found = sizes(speech="hub:Qwen/Qwen2.5-Omni-7B")["speech"]
    assert found == WeightSize(stored=2 * KEPT_OF_OMNI, float32=4 * KEPT_OF_OMNI)
    limits = ["deployment.mode=standard", "deployment.cache=18Gi", "deployment.memory_limit=36Gi"]
    check_planned_room(load_profile("tiny", ["speech.source=hub:Qwen/Qwen2.5-Omni-7B", *limits]))
    encoder = 4 * 637_000_000
    assert sizes(speech="openai/whisper-large-v3")["speech"] == WeightSize(stored=encoder, float32=encoder)


def test_a_hub_that_does_not_tell_leaves_the_size_to_the_deployment(hub: Hub) -> None:
    hub.large["openai/closed"] = Weights({"model_type": "whisper"}, {"model.safetensors": {}})
    hub.large["openai/closed"].header = lambda file: b"\xff" * 20  # type: ignore[method-assign]
    assert sizes(speech="openai/closed", text=GATED) == {"speech": None, "text": None}
    hub.down = 503
    assert sizes(text="hub:Qwen/Qwen2.5-7B")["text"] is None


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=["-".join(filter(None, one)) for one in VARIANTS])
def test_the_estimate_is_the_size_of_the_base_that_the_family_exports(name: str, variant: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    family = families()[name]
    raw = tmp_path / "raw"
    family.write_random(raw, 0, variant)
    for file in raw.glob("*.safetensors"):  # 16 bits, so that the type matters
        weights = {key: one.bfloat16() if one.is_floating_point() else one for key, one in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    described = json.loads((raw / "config.json").read_text(encoding="utf-8"))
    (raw / "config.json").write_text(json.dumps({**described, "dtype": "bfloat16"}), encoding="utf-8")
    family.export_base(raw, tmp_path / "base")
    kept = [weight for file in (tmp_path / "base").glob("*.safetensors") for weight in stored_weights(file)]
    config = load_profile("tiny", [f"text.source=path:{raw}", f"text.kind={family.kind}"])
    exported = WeightSize(sum(one.stored for one in kept), sum(one.float32 for one in kept))
    assert planned_sizes(config)["text"] == exported and exported.stored > 0
