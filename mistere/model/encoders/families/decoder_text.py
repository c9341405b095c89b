"""Decoder language models (Qwen, Llama, Mistral) as text encoders, through ``AutoModel``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistere.data.kinds.text import Transcript
from mistere.model.encoders.families.family import Family, pad_stack
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_tokenizer

_LONGEST_TOKEN = 64
_TINY: dict[str, int] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}


class DecoderText(Family):
    """Tokens of a transcript, cut at ``max_tokens`` and padded on the right, where causal attention never looks.

    The turns before the utterance precede it in the sequence, cut from the left to fit; only the utterance's own tokens are
    pooled.
    """

    name = "decoder_text"
    kind = "text"
    causal = True
    lora_targets = ("q_proj", "v_proj")
    variants = ("qwen2", "qwen3", "llama", "mistral")

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in cls.variants

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import AutoConfig, AutoModel

        target.mkdir(parents=True, exist_ok=True)
        kind = variant or cls.variants[0]
        size = write_byte_tokenizer(target, ("<s>", "</s>"), begin="<s>" if kind in {"llama", "mistral"} else "")
        torch.manual_seed(seed)
        config = AutoConfig.for_model(
            kind, **_TINY, vocab_size=size, head_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1
        )
        AutoModel.from_config(config).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import AutoModel

        return self.pretrained(AutoModel)

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return list(backbone.layers)  # type: ignore[arg-type]

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: Transcript) -> Features:
        tokenizer, limit = self._tokenizer, self.settings.max_tokens
        own = tokenizer(utterance.text[: limit * _LONGEST_TOKEN])["input_ids"][:limit]
        begin = own[:1] if own[0] == tokenizer.bos_token_id else []
        before: list[int] = []
        if utterance.context and (room := limit - len(own)) > 0:
            turns = "".join(f"{turn[: limit * _LONGEST_TOKEN]}\n" for turn in utterance.context)
            before = tokenizer(turns, add_special_tokens=False)["input_ids"][-room:]
        spoken = own[len(begin) :]
        pooled = [*[not before] * len(begin), *[False] * len(before), *[True] * len(spoken)]
        return {"input_ids": [*begin, *before, *spoken], "pooled": pooled, "length": len(pooled)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        tokens, mask = pad_stack([feature["input_ids"] for feature in features])
        pooled, _ = pad_stack([feature["pooled"] for feature in features])
        return {"input_ids": tokens, "mask": mask, "pooled": pooled.bool()}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        output = backbone(
            input_ids=batch["input_ids"],
            attention_mask=batch["mask"].long(),
            output_hidden_states=True,
            use_cache=False,
            return_dict=True,
        )
        return list(output.hidden_states), batch["pooled"]

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.directory, self.settings.source)


def write_byte_tokenizer(target: Path, special: Sequence[str], begin: str = "") -> int:
    """Write a tokenizer whose tokens are the special ones and the 256 bytes; returns the size of its vocabulary.

    Args:
        target: directory to write to.
        special: special tokens, first in the vocabulary; the first two are the begin and end tokens.
        begin: token to prepend to every text; empty for none.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])
    fast.save_pretrained(str(target))
    return len(vocabulary)
