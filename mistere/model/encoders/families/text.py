"""Bidirectional text encoders such as BERT, RoBERTa and MiniLM, through ``AutoModel``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistere.common.errors import UsageError
from mistere.data.kinds.text import Transcript
from mistere.model.encoders.families.family import Family, copy_model_files, pad_stack, save_half
from mistere.model.encoders.fused import MOST_POSITIONS, FusedLayer, LayerParts, fused_states
from mistere.model.encoders.inputs.token_window import token_window
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_tokenizer

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789'.,?!-"


class BidirectionalText(Family):
    """Tokens of a transcript, cut at ``max_tokens``; padding is masked in every attention layer.

    The turns before the utterance precede it in the same sequence, cut from the left to fit. Every position attends to them; only
    the utterance's own tokens and the first one are pooled.
    """

    name = "bidirectional_text"
    kind = "text"
    lora_targets = ("query", "value", "q_lin", "v_lin", "query_proj", "value_proj")
    shortens = True
    graph_inputs = ("input_ids", "mask", "pooled")
    variants = ("bert", "roberta", "distilbert")
    _TYPES = frozenset(
        {"bert", "roberta", "xlm-roberta", "distilbert", "deberta", "deberta-v2", "electra", "camembert", "mpnet"}
    )

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in cls._TYPES

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        target.mkdir(parents=True, exist_ok=True)
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_ALPHABET, *(f"##{x}" for x in _ALPHABET)]
        torch.manual_seed(seed)
        if variant == "roberta":
            from transformers import RobertaConfig, RobertaModel

            _write_byte_tokenizer(target)
            config = RobertaConfig(**_TINY, vocab_size=261, max_position_embeddings=162, pad_token_id=1)
            RobertaModel(config, add_pooling_layer=False).save_pretrained(str(target))
            return
        from transformers import BertConfig, BertModel, BertTokenizerFast, DistilBertConfig, DistilBertModel

        (target / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        BertTokenizerFast(str(target / "vocab.txt")).save_pretrained(str(target))
        if variant == "distilbert":
            tiny = DistilBertConfig(
                vocab_size=len(vocabulary), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=160
            )
            DistilBertModel(tiny).save_pretrained(str(target))
        else:
            small = BertConfig(**_TINY, vocab_size=len(vocabulary), max_position_embeddings=160)
            BertModel(small, add_pooling_layer=False).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import AutoModel

        backbone = self.pretrained(AutoModel, optional=r"^pooler\.|position_ids$")
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        model: nn.Module = backbone
        return model

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        encoder: Any = getattr(backbone, "encoder", None) or getattr(backbone, "transformer", None)
        return list(encoder.layer)

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def write_shortened(self, backbone: nn.Module, kept: Sequence[int], pooled: int, target: Path) -> None:
        model: Any = backbone
        every, encoder = self.layers(backbone), getattr(model, "encoder", None) or model.transformer
        encoder.layer = nn.ModuleList([every[number] for number in kept])
        model.config.num_hidden_layers = len(kept)
        copy_model_files(self.directory, target, weights=False)
        model.config.save_pretrained(str(target))
        save_half(model, target)

    def prepare(self, utterance: Transcript) -> Features:
        tokenizer = self._tokenizer
        return token_window(
            utterance,
            self._max_tokens(),
            lambda text: tokenizer(text)["input_ids"],
            lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
            tokenizer.sep_token,
            tokenizer.sep_token_id,
        )

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        tokens, mask = pad_stack([feature["input_ids"] for feature in features], self._tokenizer.pad_token_id)
        pooled, _ = pad_stack([feature["pooled"] for feature in features])
        return {"input_ids": tokens, "mask": mask, "pooled": pooled.bool()}

    def fused_layers(self, backbone: nn.Module) -> Sequence[FusedLayer]:
        config: Any = backbone.config
        parts = _PARTS.get(config.model_type)
        activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
        heads = config.num_attention_heads
        if parts is None or activation != "gelu" or heads % 2 or getattr(config, "is_decoder", False):
            return ()
        return [FusedLayer(parts(layer), heads, norm_first=False) for layer in self.layers(backbone)]

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        if self.fused and batch["input_ids"].shape[1] <= MOST_POSITIONS:
            embeddings: Any = backbone.embeddings
            return fused_states(self.fused, embeddings(batch["input_ids"]), batch["mask"]), batch["pooled"]
        return self.graph_states(backbone, batch)

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        output = backbone(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["mask"].long(),
            output_hidden_states=True,
            return_dict=True,
        )
        return list(output.hidden_states), inputs["pooled"]

    def write_graph_files(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json``; return what :func:`~mistere.model.encoders.inputs.token_window.token_window` needs beside it.

        Raises:
            UsageError: the tokenizer is a program, which no file describes.
        """
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"encoder {self.settings.source}: its tokenizer has no tokenizer.json, which an export needs."
            )
        backend.no_truncation()
        backend.no_padding()
        backend.save(str(folder / "tokenizer.json"))
        return {
            "max_tokens": self._max_tokens(),
            "pad_id": tokenizer.pad_token_id,
            "separator": tokenizer.sep_token,
            "separator_id": tokenizer.sep_token_id,
        }

    def _max_tokens(self) -> int:
        """``max_tokens``, limited by the number of positions of the backbone."""
        tokenizer = self._tokenizer
        return min(self.settings.max_tokens, int(getattr(tokenizer, "model_max_length", 0) or self.settings.max_tokens))

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.directory, self.settings.source)


def _bert_parts(layer: Any) -> LayerParts:
    attention, after = layer.attention.self, layer.attention.output
    return LayerParts(
        attention.query,
        attention.key,
        attention.value,
        after.dense,
        layer.intermediate.dense,
        layer.output.dense,
        after.LayerNorm,
        layer.output.LayerNorm,
    )


def _distilbert_parts(layer: Any) -> LayerParts:
    attention, feed = layer.attention, layer.ffn
    return LayerParts(
        attention.q_lin,
        attention.k_lin,
        attention.v_lin,
        attention.out_lin,
        feed.lin1,
        feed.lin2,
        layer.sa_layer_norm,
        layer.output_layer_norm,
    )


_PARTS: dict[str, Callable[[Any], LayerParts]] = {
    "bert": _bert_parts,
    "roberta": _bert_parts,
    "xlm-roberta": _bert_parts,
    "camembert": _bert_parts,
    "distilbert": _distilbert_parts,
}
"""Model types with plain transformer layers: no relative positions, no convolutions."""


_TINY: dict[str, int] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def _write_byte_tokenizer(target: Path) -> None:
    """Write a RoBERTa tokenizer whose tokens are the 256 bytes."""
    import json

    from transformers import RobertaTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: index for index, token in enumerate([*special, *bytes_to_unicode().values()])}
    (target / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (target / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    RobertaTokenizerFast(str(target / "vocab.json"), str(target / "merges.txt")).save_pretrained(str(target))
