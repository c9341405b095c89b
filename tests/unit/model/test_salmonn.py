"""SALMONN's network against other implementations of its parts, and the folder that its weights are read from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.finetune_encoder.fine_tuning import fine_tune
from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.progress import Progress
from mistere.config.encoder import EncoderConfig, SpeechConfig
from mistere.data.kinds.audio import RATE
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step
from mistere.model.embedders import open_embedder
from mistere.model.encoders.families import families
from mistere.model.encoders.salmonn.beats import Beats, BeatsConfig, position_buckets
from mistere.model.encoders.salmonn.checkpoint import stored_name
from mistere.model.encoders.salmonn.filter_banks import filter_banks
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from tests.local.workshop import make_dataset, rows

SALMONN = families()["salmonn"]
SETTINGS = EncoderConfig.model_validate({"source": "random:salmonn", "projection": 8})
GUIDE = PROJECT_ROOT / "docs" / "guides" / "encoders.md"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as users make it, with SALMONN's own names."""
    folder = tmp_path_factory.mktemp("salmonn") / "raw"
    SALMONN.write_random(folder, 0)
    return folder


def wave(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def encoder_of(base: Path, **changes: Any) -> UtteranceEncoder:
    settings = EncoderConfig.model_validate(SETTINGS.model_dump() | changes)
    torch.manual_seed(1)
    return UtteranceEncoder(SALMONN(base, settings), settings, 4).eval()


def exported(source: Path, target: Path) -> Path:
    SALMONN.export_base(source, target)
    return target


# BEATs


@pytest.mark.parametrize("samples", [400, 559, 560, 8000, 16001])
def test_filter_banks_are_kaldis(samples: int) -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    audio = wave(2)[:samples]
    filters = mel_filter_bank(257, 128, 20, 8000, 16000, mel_scale="kaldi", triangularize_in_mel_space=True)
    expected = spectrogram(
        audio * 2**15, window_function(400, "povey", periodic=False), 400, 160, fft_length=512, power=2.0, center=False,
        preemphasis=0.97, mel_filters=filters, log_mel="log", mel_floor=1.192092955078125e-07, remove_dc_offset=True,
    ).T  # fmt: skip
    actual = filter_banks(audio)
    assert actual.shape == (1 + (samples - 400) // 160, 128)
    np.testing.assert_allclose(actual, (expected - 15.41663) / (2 * 6.55582), atol=1e-4)
    assert filter_banks(audio[:399]).shape == (0, 128)
    np.testing.assert_allclose(filter_banks(np.zeros(400, np.float32)), (np.log(2.0**-23) - 15.41663) / (2 * 6.55582))


def test_position_buckets_are_wavlms() -> None:
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    distance = torch.arange(-1500, 1501)
    other = WavLMAttention(8, 2, num_buckets=320, max_distance=800)._relative_positions_bucket(distance)
    assert torch.equal(position_buckets(distance, 320, 800), other)


def beats_of(seed: int = 0) -> tuple[Beats, BeatsConfig]:
    config = BeatsConfig(
        embed_dim=16, encoder_layers=2, encoder_embed_dim=24, encoder_ffn_embed_dim=40, encoder_attention_heads=3,
        conv_pos=6, conv_pos_groups=4, num_buckets=16, max_distance=20,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Beats(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model, config


def beats_by_hand(weights: dict[str, np.ndarray], banks: np.ndarray) -> np.ndarray:
    """The states ``[S, D]`` of filter banks ``[T, 128]``, one number after another where that is practical."""
    from scipy.special import erf, expit, softmax

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    patches = [
        np.tensordot(weights["patch_embedding.weight"][:, 0], banks[t * 16 : t * 16 + 16, f * 16 : f * 16 + 16], 2)
        for t in range(len(banks) // 16)
        for f in range(8)
    ]
    x = linear(norm(np.array(patches), "layer_norm"), "post_extract_proj")
    count, width = x.shape
    v, g = weights["encoder.pos_conv.0.weight_v"], weights["encoder.pos_conv.0.weight_g"]
    kernel = v / np.sqrt((v**2).sum((0, 1), keepdims=True)) * g
    inputs, size = kernel.shape[1:]
    around = np.pad(x, ((size // 2, size // 2), (0, 0)))
    embedded = np.array(
        [
            [
                (kernel[out] * around[s : s + size, out // inputs * inputs : out // inputs * inputs + inputs].T).sum()
                for out in range(width)
            ]
            for s in range(count)
        ]
    )
    x = norm(x + gelu(embedded + weights["encoder.pos_conv.0.bias"]), "encoder.layer_norm")

    def bucket(distance: int) -> int:
        near, half = 4, 8
        size = abs(distance)
        far = near + int(np.log(np.float32(size / near)) / np.log(20 / near) * (half - near)) if size >= near else size
        return (half if distance > 0 else 0) + min(far, half - 1)

    table = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    alpha = (2 * 2) ** 0.25
    for number in range(2):
        name = f"encoder.layers.{number}"
        q, k, values = (linear(x, f"{name}.self_attn.{part}_proj") for part in "qkv")
        heads = []
        for head in range(3):
            part = slice(head * 8, head * 8 + 8)
            gates = linear(q[:, part], f"{name}.self_attn.grep_linear")
            update, reset = expit(gates[:, :4].sum(1)), expit(gates[:, 4:].sum(1))
            factor = update * (reset * weights[f"{name}.self_attn.grep_a"][0, head, 0, 0] - 1) + 2
            bias = np.array([[table[bucket(key - query), head] for key in range(count)] for query in range(count)])
            scores = q[:, part] @ k[:, part].T / np.sqrt(8) + factor[:, None] * bias
            heads.append(softmax(scores, axis=1) @ values[:, part])
        x = norm(
            alpha * x + linear(np.concatenate(heads, 1), f"{name}.self_attn.out_proj"), f"{name}.self_attn_layer_norm"
        )
        x = norm(alpha * x + linear(gelu(linear(x, f"{name}.fc1")), f"{name}.fc2"), f"{name}.final_layer_norm")
    return x


def test_beats_follows_its_equations() -> None:
    model, _ = beats_of()
    banks = np.random.default_rng(1).normal(size=(85, 128)).astype(np.float32)
    with torch.inference_mode():
        states, mask = model(torch.from_numpy(banks)[None], torch.ones(1, 85, dtype=torch.bool))
    expected = beats_by_hand({name: value.double().numpy() for name, value in model.state_dict().items()}, banks)
    assert states.shape == (1, 40, 24) and mask.all()  # 5 times of 8 frequencies; the last 5 frames fill no patch
    np.testing.assert_allclose(states[0].numpy(), expected, atol=2e-4)


def test_padding_and_unfinished_patches_are_not_heard() -> None:
    model, _ = beats_of()
    banks = torch.randn(2, 96, 128)
    heard = torch.arange(96) < torch.tensor([[96], [39]])
    with torch.inference_mode():
        states, mask = model(banks, heard)
        alone, _ = model(banks[1:, :39], heard[1:, :39])
    assert mask.sum(1).tolist() == [48, 16] and alone.shape[1] == 16
    torch.testing.assert_close(states[1, :16], alone[0], atol=1e-5, rtol=0)


# The whole


def published_words(weights: dict[str, Tensor], config: dict[str, Any], audio: np.ndarray, beats: nn.Module) -> Tensor:
    """What the language model reads of the audio ``[W, D]``, from SALMONN's own weights, through other classes of transformers."""
    from transformers import BertConfig, BertModel, WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    def part(beginning: str) -> dict[str, Tensor]:
        return {name.removeprefix(beginning): tensor for name, tensor in weights.items() if name.startswith(beginning)}

    whisper = WhisperEncoder(WhisperConfig(**config["whisper_config"])).eval()
    whisper.load_state_dict(part("speech_encoder."))
    longest = 2 * config["whisper_config"]["max_source_positions"] * 160
    padded = np.pad(audio, (0, longest - len(audio)))
    mel = WhisperFeatureExtractor(feature_size=16)(
        padded, sampling_rate=RATE, return_tensors="pt", padding="do_not_pad"
    )["input_features"]
    speech = whisper(mel).last_hidden_state
    beats.load_state_dict(part("beats."))
    banks = torch.from_numpy(filter_banks(audio))[None]
    heard, _ = beats(banks, torch.ones(banks.shape[:2], dtype=torch.bool))
    norms = {name: nn.LayerNorm(speech.shape[2]) for name in ("ln_speech", "ln_audio")}
    for name, norm in norms.items():
        norm.load_state_dict(part(f"{name}."))
    speech, heard = norms["ln_speech"](speech), norms["ln_audio"](heard)
    both = torch.cat([speech, nn.functional.pad(heard, (0, 0, 0, speech.shape[1] - heard.shape[1]))], dim=2)
    unfolded = nn.functional.unfold(both.transpose(1, 2)[:, :, None], (1, 17), stride=(1, 17))
    windows = unfolded[0].unflatten(0, (both.shape[2], 17)).permute(2, 1, 0)
    size = config["qformer_config"]
    bert = BertModel(
        BertConfig(
            hidden_size=size["hidden_size"], num_attention_heads=2, intermediate_size=64, num_hidden_layers=2,
            is_decoder=True, add_cross_attention=True, vocab_size=2, type_vocab_size=1,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    for layer in bert.encoder.layer:
        for name in ("key", "value"):
            setattr(layer.crossattention.self, name, nn.Linear(both.shape[2], size["hidden_size"]))
    qformer = {name.replace("_query.", "."): tensor for name, tensor in part("speech_Qformer.bert.").items()}
    embeddings = {
        f"embeddings.{name}.weight": torch.zeros_like(module.weight)
        for name, module in bert.embeddings.named_children()
        if name.endswith("_embeddings")
    }
    bert.load_state_dict(qformer | embeddings)
    query = weights["speech_query_tokens"].expand(len(windows), -1, -1)
    output = bert(inputs_embeds=query, encoder_hidden_states=windows, use_cache=False).last_hidden_state
    return nn.functional.linear(output[:, 0], weights["speech_llama_proj.weight"], weights["speech_llama_proj.bias"])


@pytest.mark.parametrize("seconds", [0.4, 1.3, 2.95])
def test_states_are_those_of_the_published_computation(raw: Path, tmp_path: Path, seconds: float) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    weights, config = load_file(raw / "model.safetensors"), json.loads((raw / "config.json").read_text())
    beats = Beats(BeatsConfig(**config["beats_config"])).eval()
    audio = wave(seconds, seed=3)
    llama = LlamaModel(LlamaConfig(**config["text_config"])).eval()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "v_proj"]), llama)
    own = {
        re.sub(r"^llama_model\.(base_model\.model\.)?model\.", "", name): tensor
        for name, tensor in weights.items()
        if name.startswith("llama_model.")
    }
    llama.load_state_dict({re.sub(r"([qv]_proj)\.weight$", r"\1.base_layer.weight", n): t for n, t in own.items()})
    tokenizer = AutoTokenizer.from_pretrained(raw)
    prompt = "USER: <Speech><SpeechHere></Speech> Describe the emotion of the speaker in one word.\nASSISTANT:"
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompt.split("<SpeechHere>"))
    with torch.inference_mode():
        words = published_words(weights, config, audio, beats)
        assert len(words) == 170 // 17
        around = [llama.embed_tokens(torch.tensor(ids)) for ids in ([tokenizer.bos_token_id, *before], after)]
        expected = llama(inputs_embeds=torch.cat([around[0], words, around[1]])[None]).last_hidden_state
        encoder = encoder_of(exported(raw, tmp_path / "base"))
        batch = encoder.family.collate([encoder.family.prepare(audio), encoder.family.prepare(wave(2))])
        actual = encoder.family.audio_states(encoder.backbone, batch["frames"], batch["frame_mask"])
        states, mask = encoder.family.hidden_states(encoder.backbone, batch)
    torch.testing.assert_close(actual[:10], words, atol=1e-4, rtol=0)
    assert words.std(0).mean() > 0.2  # the windows differ, so the comparison says something
    torch.testing.assert_close(states[-1][:1], expected, atol=2e-4, rtol=0)
    spoken = -(-(len(audio) + 400) // (34 * 160))  # the windows that the utterance reaches into, with a margin of 25 ms
    place = len(before) + 1
    pooled = [*range(place, place + spoken), *range(place + 10, place + 10 + len(after))]
    assert mask[0].nonzero()[:, 0].tolist() == pooled


def test_audio_decides_the_states(raw: Path, tmp_path: Path) -> None:
    encoder = encoder_of(exported(raw, tmp_path / "base"))
    family = encoder.family
    features = family.prepare(wave(1))
    frames = features["frames"]
    with torch.inference_mode():
        vector = encoder.embed(family.collate([features]))
        for column, effect in ((3, 0.1), (50, 5e-3)):  # of Whisper's frames, and of those of BEATs
            changed = frames.copy()
            changed[:, column] += 3
            other = encoder.embed(family.collate([features | {"frames": changed}]))
            assert (other - vector).abs().max() > effect


def test_longest_utterance_is_as_long_as_whisper_hears(raw: Path, tmp_path: Path) -> None:
    encoder = encoder_of(exported(raw, tmp_path / "base"))
    features = [encoder.family.prepare(wave(seconds)) for seconds in (3.4, 9.0)]
    assert [feature["length"] for feature in features] == [340, 340]
    with torch.inference_mode():
        assert encoder.embed(encoder.family.collate(features)).isfinite().all()


def test_many_utterances_pass_in_groups(raw: Path, tmp_path: Path) -> None:
    encoder = encoder_of(exported(raw, tmp_path / "base"))
    features = [encoder.family.prepare(wave(0.3 + 0.2 * number, number)) for number in range(9)]
    with torch.inference_mode():
        together = encoder.embed(encoder.family.collate(features))
        alone = torch.cat([encoder.embed(encoder.family.collate([feature])) for feature in features])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_adapters_and_training_leave_whisper_and_beats_alone(raw: Path, tmp_path: Path) -> None:
    from components.finetune_encoder.training.trainable import choose_trainable

    base = exported(raw, tmp_path / "base")
    trainable = {}
    for tuning in ("full", "lora"):
        encoder = encoder_of(base, tuning=tuning)
        choose_trainable(encoder, encoder.settings)
        names = [name for name, value in encoder.backbone.named_parameters() if value.requires_grad]
        trainable[tuning] = {name.partition(".")[0] for name in names}
        if tuning == "lora":
            assert {name.split(".")[4] for name in names} == {"q_proj", "v_proj"}
    assert trainable["lora"] == {"language_model"}
    assert trainable["full"] == {"speech_query_tokens", "ln_speech", "ln_audio", "speech_Qformer",
                                 "speech_llama_proj", "language_model"}  # fmt: skip


def test_prompt_without_the_place_of_the_audio_is_rejected(raw: Path, tmp_path: Path) -> None:
    base = exported(raw, tmp_path / "base")
    for prompt in ("What do you hear?", "<SpeechHere> and <SpeechHere>"):
        family = SALMONN(base, EncoderConfig.model_validate(SETTINGS.model_dump() | {"prompt": prompt}))
        with pytest.raises(UsageError, match=r"speech\.prompt must hold <SpeechHere> once"):
            family.collate([family.prepare(wave(1))])
    family = SALMONN(base, EncoderConfig.model_validate(SETTINGS.model_dump() | {"prompt": "<SpeechHere>"}))
    assert family.collate([family.prepare(wave(1))])["input_ids"].shape == (1, 11)


def test_stage_fine_tunes_it_and_another_computes_its_vectors(tmp_path: Path) -> None:
    pinned = pin(str(make_dataset(tmp_path / "tones", rows())), str(tmp_path / "remote"))
    data = describe(pinned.remote, pinned.digest)
    store = LocalStore(tmp_path / "store")
    settings = SpeechConfig(
        source="random:salmonn", tuning="lora", pooling="mean", layer_norm="before_pooling", projection=8, epochs=2,
        batch_size=4, accumulation=2, learning_rate=1e-3, head_learning_rate=1e-2, min_seconds=0.2, excerpt_seconds=0.4,
        gradient_checkpointing=True, class_weights="balanced",
    )  # fmt: skip

    def step(name: str) -> Step:
        context = RunContext(run_id="test", store=store.uri, tracking_uri="")
        return Step(name, "key", context, store, Progress(name), Checkpoints(store, name, "key"))

    tuned = tmp_path / "tuned"
    tuned.mkdir()
    manifest = fine_tune(settings, step("finetune_encoder-speech"), data, tuned, "speech")
    assert len(manifest.history) == 2 and manifest.encoder.family == "salmonn"
    file = tuned / "tuned.safetensors"
    assert file.stat().st_size < 120_000  # adapters and head, without the base
    family = SALMONN(resolve_base(settings, "audio", store).path, settings)
    vectors = []
    for int8 in (False, True):
        embedder = open_embedder(store, "speech", manifest.encoder, file, len(manifest.labels), int8=int8)
        vectors.append(embedder.embed([family.prepare(wave(0.5 + number)) for number in range(3)]))
    assert vectors[0].shape == (3, 8) and np.isfinite(vectors[0]).all()
    assert 0 < np.abs(vectors[1] - vectors[0]).max() < 0.2 * np.abs(vectors[0]).max()


# Its folder


def changed(raw: Path, target: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """A copy of the folder with another configuration or other weights."""
    target.mkdir(exist_ok=True)
    for file in raw.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    config, weights = json.loads((raw / "config.json").read_text()), load_file(raw / "model.safetensors")
    change(config, weights)
    (target / "config.json").write_text(json.dumps(config))
    save_file(weights, target / "model.safetensors")
    return target


def without(beginning: str) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(_: dict[str, Any], weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith(beginning)]:
            del weights[name]

    return change


def setting(*path: str, value: object) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(config: dict[str, Any], _: dict[str, Tensor]) -> None:
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("beats."), "lack BEATs, and BEATs_iter3.pt is a pickle, which is never loaded: convert it as"),
        (without("speech_Qformer."), "lack the Q-Former, and"),
        (without("llama_model.model.layers.0.self_attn.q_proj"), "has an adapter of .*q_proj, but not the weights"),
        (without("llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A"), "does not fit its weights"),
        (setting("beats_config", value=None), "config.json has no beats_config"),
        (setting("beats_config", "deep_norm", value=False), "beats_config.deep_norm is False; only"),
        (setting("lora_alpha", value=True), "lora_alpha of its config.json is no positive number"),
        (setting("lora_alpha", value="high"), "lora_alpha of its config.json is no positive number"),
    ],
)  # fmt: skip
def test_folder_that_holds_no_whole_model_is_refused(
    raw: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], message: str
) -> None:
    folder = changed(raw, tmp_path / "folder", change)
    (folder / "BEATs_iter3.pt").write_bytes(b"\x80\x02}.")
    with pytest.raises(UsageError, match=message) as caught:
        resolve_base(EncoderConfig(source=f"path:{folder}"), "audio", LocalStore(tmp_path / "store"))
    assert caught.value.exit_code == ExitCode.USAGE and "\n" not in str(caught.value)


def test_weights_of_another_size_are_refused(raw: Path, tmp_path: Path) -> None:
    folder = changed(raw, tmp_path / "folder", setting("beats_config", "encoder_embed_dim", value=48))
    base = resolve_base(EncoderConfig(source=f"path:{folder}"), "audio", LocalStore(tmp_path / "store"))
    with pytest.raises(UsageError, match=r"its weights (do not load|do not have the sizes)"):
        SALMONN(base.path, SETTINGS).load_backbone()


def test_adapters_are_optional_and_shards_may_be_many(raw: Path, tmp_path: Path) -> None:
    plain = changed(raw, tmp_path / "plain", without("llama_model.base_model."))
    adapted, bare = (exported(folder, tmp_path / f"{folder.name}-base") for folder in (raw, plain))
    one, other = load_file(adapted / "model.safetensors"), load_file(bare / "model.safetensors")
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert one.keys() == other.keys()
    assert {name.rpartition("self_attn.")[2] for name in differing} == {"q_proj.weight", "v_proj.weight"}
    weights = load_file(raw / "model.safetensors")
    (tmp_path / "sharded").mkdir()
    for file in raw.glob("*.json"):
        (tmp_path / "sharded" / file.name).write_bytes(file.read_bytes())
    names = sorted(weights)
    for number in range(3):  # the adapters are apart from what they adapt
        save_file({n: weights[n] for n in names[number::3]}, tmp_path / "sharded" / f"part-{number}.safetensors")
    vectors = []
    for base in (adapted, exported(tmp_path / "sharded", tmp_path / "sharded-base")):
        encoder = encoder_of(base)
        with torch.inference_mode():
            vectors.append(encoder.embed(encoder.family.collate([encoder.family.prepare(wave(1))])))
    assert torch.equal(*vectors)


@pytest.mark.parametrize(
    ("published", "stored"),
    [
        ("speech_encoder.layers.31.fc1.weight", "speech_encoder.layers.31.fc1.weight"),
        ("beats.encoder.pos_conv.0.weight_g", "beats.encoder.pos_conv.0.weight_g"),
        ("beats.encoder.layers.0.self_attn.relative_attention_bias.weight",) * 2,
        ("beats.encoder.layers.11.self_attn.relative_attention_bias.weight", None),
        ("beats.predictor.weight", None),
        ("speech_query_tokens", "speech_query_tokens"),
        ("speech_Qformer.bert.embeddings.LayerNorm.weight", "speech_Qformer.layernorm.weight"),
        ("speech_Qformer.bert.embeddings.position_ids", None),
        ("speech_Qformer.bert.encoder.layer.1.crossattention.self.key.weight",
         "speech_Qformer.encoder.layer.1.crossattention.attention.key.weight"),
        ("speech_Qformer.bert.encoder.layer.1.attention.output.LayerNorm.bias",
         "speech_Qformer.encoder.layer.1.attention.output.LayerNorm.bias"),
        ("speech_Qformer.bert.encoder.layer.0.output_query.dense.weight",
         "speech_Qformer.encoder.layer.0.output_query.dense.weight"),
        ("speech_Qformer.bert.encoder.layer.0.output.dense.weight", None),
        ("llama_model.base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight",
         "language_model.layers.3.self_attn.q_proj.lora_A.default.weight"),
        ("llama_model.base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight",
         "language_model.layers.3.self_attn.q_proj.weight"),
        ("llama_model.model.norm.weight", "language_model.norm.weight"),
        ("llama_model.base_model.model.lm_head.weight", None),
        ("llama_model.model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("optimizer.state", None),
    ],
)  # fmt: skip
def test_published_names_are_mapped(published: str, stored: str | None) -> None:
    assert stored_name(published) == stored


def test_documented_conversion_makes_such_a_folder(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, config = load_file(raw / "model.safetensors"), json.loads((raw / "config.json").read_text())
    downloads = tmp_path / "downloads"
    whisper, vicuna = downloads / "whisper", downloads / "vicuna"
    for folder in (whisper, vicuna):
        folder.mkdir(parents=True)

    def part(beginning: str, instead: str = "") -> dict[str, Tensor]:
        return {f"{instead}{n.removeprefix(beginning)}": t for n, t in weights.items() if n.startswith(beginning)}

    decoder = {
        "model.decoder.layers.0.fc1.weight": torch.ones(2),
        "model.decoder.layers.0.encoder_attn.x": torch.ones(2),
    }
    save_file(part("speech_encoder.", "model.encoder.") | decoder, whisper / "model.safetensors")
    (whisper / "config.json").write_text(json.dumps(config["whisper_config"] | {"model_type": "whisper"}))
    (whisper / "preprocessor_config.json").write_bytes((raw / "preprocessor_config.json").read_bytes())
    table = weights["beats.encoder.layers.0.self_attn.relative_attention_bias.weight"]
    more = {"encoder.layers.1.self_attn.relative_attention_bias.weight": table, "predictor.bias": torch.ones(2)}
    torch.save(
        {"cfg": config["beats_config"] | {"finetuned_model": True}, "model": part("beats.") | more},
        downloads / "beats.pt",
    )
    trained = {
        n: t
        for n, t in weights.items()
        if n.startswith(("ln_", "speech_q", "speech_Q", "speech_l", "llama_model.base"))
    }
    torch.save({"model": trained, "optimizer": {}}, downloads / "salmonn.pth")
    llama = part("llama_model.model.", "model.") | {"lm_head.weight": torch.ones(2)}
    for number in range(2):
        shard = dict(sorted(llama.items())[number::2])
        torch.save(shard, vicuna / f"pytorch_model-0000{number + 1}-of-00002.bin")
    (vicuna / "config.json").write_text(json.dumps(config["text_config"] | {"model_type": "llama"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (vicuna / name).write_bytes((raw / name).read_bytes())
    script = re.search(r"```python\n(.+?)```", GUIDE.read_text().partition("## SALMONN")[2], re.S)
    assert script is not None
    written = script[1].replace('"lora_alpha": 32', '"lora_alpha": 16')
    written = written.replace('"text_config"', f'"qformer_config": {config["qformer_config"]!r}, "text_config"')
    monkeypatch.chdir(tmp_path)
    exec(compile(written, "convert", "exec"), {})
    base = resolve_base(EncoderConfig(source="path:salmonn"), "audio", LocalStore(tmp_path / "store"))
    direct = exported(raw, tmp_path / "direct")
    vectors = []
    for folder in (base.path, direct):
        encoder = encoder_of(folder)
        with torch.inference_mode():
            vectors.append(encoder.embed(encoder.family.collate([encoder.family.prepare(wave(1))])))
    assert base.manifest.family == "salmonn" and torch.equal(*vectors)
