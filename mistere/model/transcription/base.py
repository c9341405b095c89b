"""Export a transcription model from its source to the store, and check the language that it is used for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.config.transcription import TranscriptionConfig
from mistere.model.encoders.sources import resolve
from mistere.model.transcription.model_folder import FAMILY, Decoding, Tokens

_RANDOM: Final = {"whisper": True, "whisper_english": False}
"""Random models by name, and whether they are multilingual."""
_WORDS: Final = ("yes", "no", "well", "so", "now", "then", "here", "there", "good", "bad", "come", "go")


class TranscriptionBase:
    """The base of a transcription model; see :class:`mistere.model.encoders.sources.BaseKind`."""

    name = "transcription"

    def export_random(self, name: str, raw: Path, target: Path, seed: int) -> str:
        """Export a tiny random Whisper with a tokenizer of a dozen words."""
        if name not in _RANDOM:
            raise UsageError(
                f"transcription model random:{name}: choose one of {', '.join(f'random:{key}' for key in _RANDOM)}."
            )
        write_random(raw, seed, multilingual=_RANDOM[name])
        return self.export("whisper", raw, target, f"random:{name}")

    def export(self, model_type: str, folder: Path, target: Path, source: str) -> str:
        """Write configuration, weights, feature extractor, tokenizer and the settings of the decoding."""
        import torch
        from safetensors.torch import save_file
        from transformers import WhisperFeatureExtractor, WhisperModel

        from mistere.model.encoders.pretrained import load_pretrained

        if model_type != "whisper":
            raise UsageError(
                f"transcription model {source} is of the type {model_type!r}, which has no decoder of speech to text: name a Whisper."
            )
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.is_file():
            raise UsageError(f"transcription model {source} has no tokenizer.json: name a Whisper with its tokenizer.")
        model: Any = load_pretrained(WhisperModel, folder, source=source, dtype=torch.float32, optional=r"^decoder\.")
        if _lacks_decoder(folder):
            raise UsageError(f"transcription model {source} holds no decoder: name a Whisper with all of its weights.")
        target.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(str(target))
        WhisperFeatureExtractor.from_pretrained(str(folder), local_files_only=True).save_pretrained(str(target))
        save_file(
            {name: _halved(tensor).contiguous() for name, tensor in model.state_dict().items()},
            target / "model.safetensors",
        )
        (target / tokenizer.name).write_bytes(tokenizer.read_bytes())
        decoding = Decoding.read(folder, int(model.config.vocab_size))
        (target / "generation_config.json").write_text(json.dumps(decoding.plain()), encoding="utf-8")
        Tokens.read(target, source)
        return FAMILY


def resolve_transcription(settings: TranscriptionConfig, store: ObjectStore) -> ArtifactHandle[BaseEncoder]:
    """Find the transcription model, write it to the store unless it is there, and open it.

    Raises:
        UsageError: the source does not exist, the hub cannot be reached, or the model cannot transcribe.
        MistereError: the weights of a package do not have the digest ``sha256``.
    """
    return resolve(settings, TranscriptionBase(), store)


def check_language(language: str, decoding: Decoding, tokens: Tokens, source: str, setting: str) -> None:
    """Refuse a language that the model does not transcribe.

    Args:
        language: code of the spoken language, or ``detect``.
        decoding: the model's settings.
        tokens: its special tokens.
        source: names the model.
        setting: where the language comes from.

    Raises:
        UsageError: the model does not transcribe the language.
    """
    if not decoding.multilingual:
        if language not in {"en", "detect"}:
            raise UsageError(
                f"data.transcription.source={source} transcribes English only, and {setting} says {language!r}: name a multilingual "
                "Whisper, or set data.transcription.language=en if the speech is English."
            )
        return
    if language != "detect" and language not in tokens.languages:
        raise UsageError(
            f"data.transcription.source={source} does not transcribe {language!r}, which {setting} says: set "
            f"data.transcription.language to one of its {len(tokens.languages)} languages ({_few(tokens.languages)}) or to detect."
        )


def spoken_language(declared: str) -> str:
    """The code of a language as a dataset declares it: ``en`` for ``en-US``, ``English`` and ``eng``; ``detect`` if it names none.

    Args:
        declared: ``language`` of ``dataset.yaml``.
    """
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = declared.strip().lower()
    first = name.replace("_", "-").split("-")[0]
    if name in {"", "und", "mul", "multi", "multilingual"} or "," in name:
        return "detect"
    if first in TO_LANGUAGE_CODE.values():
        return first
    return TO_LANGUAGE_CODE.get(name) or {"eng": "en"}.get(first, first)


def _few(languages: dict[str, int]) -> str:
    names = sorted(languages)
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _lacks_decoder(folder: Path) -> bool:
    """Whether the safetensors of a folder hold no decoder; loading would fill it with random weights."""
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            if any("decoder." in name for name in opened.keys()):  # noqa: SIM118  (no mapping)
                return False
    return True


def _halved(tensor: Any) -> Any:
    """The tensor in half precision if that changes no value: packages and hubs often hold halves as floats."""
    half = tensor.half()
    return half if half.float().equal(tensor) else tensor


def write_random(target: Path, seed: int, *, multilingual: bool) -> None:
    """Write a tiny random Whisper in the format of ``transformers``, with a tokenizer of a dozen words."""
    import torch
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    words = {word: index for index, word in enumerate(_WORDS)}
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|cs|>",
        "<|de|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    tokenizer = Tokenizer(WordLevel(words, unk_token=_WORDS[0]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    end = len(words)
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=end + len(special),
        num_mel_bins=16,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=100,
        max_target_positions=448,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
    )
    target.mkdir(parents=True, exist_ok=True)
    WhisperModel(config).save_pretrained(str(target))
    WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(str(target))
    tokenizer.save(str(target / "tokenizer.json"))
    decoding = Decoding(multilingual, (), (end,))
    (target / "generation_config.json").write_text(json.dumps(decoding.plain()), encoding="utf-8")
