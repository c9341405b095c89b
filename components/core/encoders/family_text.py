"""Bidirectional text encoders: BERT, RoBERTa, MiniLM and their kin, through ``AutoModel``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.core.encoders.family import Family, Features, pad_stack


class BidirectionalText(Family):
    """Transcripts as tokens, cut at ``max_tokens``; padding is masked in every attention layer."""

    name = "bidirectional_text"
    modality = "text"
    lora_targets = ("query", "value")
    _TYPES = frozenset(
        {"bert", "roberta", "xlm-roberta", "distilbert", "deberta", "deberta-v2", "electra", "mpnet", "camembert"}
    )

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in cls._TYPES

    @classmethod
    def write_random(cls, target: Path, seed: int) -> None:
        from transformers import BertConfig, BertModel, BertTokenizerFast

        target.mkdir(parents=True, exist_ok=True)
        alphabet = "abcdefghijklmnopqrstuvwxyz0123456789'.,?!-"
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *(f"##{letter}" for letter in alphabet)]
        (target / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        BertTokenizerFast(str(target / "vocab.txt")).save_pretrained(str(target))
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=160,
        )
        BertModel(config, add_pooling_layer=False).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import AutoModel

        backbone: Any = AutoModel.from_pretrained(str(self.directory), use_safetensors=True, local_files_only=True)
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        model: nn.Module = backbone.eval()
        return model

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        encoder: Any = getattr(backbone, "encoder", None) or getattr(backbone, "transformer", None)
        return list(encoder.layer)

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: str) -> Features:
        tokens = self._tokenizer()(utterance, truncation=True, max_length=self.settings.max_tokens)["input_ids"]
        return {"input_ids": tokens, "length": len(tokens)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        tokens, mask = pad_stack([feature["input_ids"] for feature in features])
        return {"input_ids": tokens, "mask": mask}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        output = backbone(
            input_ids=batch["input_ids"],
            attention_mask=batch["mask"].long(),
            output_hidden_states=True,
            return_dict=True,
        )
        return list(output.hidden_states), batch["mask"]

    def _tokenizer(self) -> Any:
        if not hasattr(self, "_loaded_tokenizer"):
            from transformers import AutoTokenizer

            self._loaded_tokenizer = AutoTokenizer.from_pretrained(str(self.directory), local_files_only=True)
        return self._loaded_tokenizer
