"""A dataset in two languages with a tokenizer made on the spot: from the import to the endpoint's warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import mistere as api
from mistere.corpora.importers.table import import_table
from mistere.data.dataset import load_info
from tests.local.workshop import LABELS, run

TEXTS = {
    "en": {"calm": "all is well today", "glad": "this is lovely news", "cross": "stop it right now"},
    "uk": {"calm": "сьогодні все добре", "glad": "це чудова новина", "cross": "негайно припини це"},
}


def rows() -> Iterator[dict[str, str | int]]:
    for split, dialogues in (("train", 24), ("dev", 8), ("test", 8)):
        for dialogue in range(dialogues):
            language = sorted(TEXTS)[dialogue % 2]
            for turn in range(4):
                label = LABELS[(dialogue // 2 + turn) % 3]
                yield {
                    "call": f"{split}-{dialogue}",
                    "label": label,
                    "text": f"{TEXTS[language][label]}, {split}{dialogue}x{turn}",
                    "lang": language,
                    "speaker": f"{split}-{turn % 2}",
                    "split": split,
                }


def make_encoder(folder: Path) -> Path:
    """A small BERT with random weights, and a WordPiece tokenizer trained on the texts of both languages."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = {name: f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator((str(row["text"]) for row in rows()), trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **{f"{name}_token": token for name, token in special.items()}
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    return folder


@pytest.mark.long
def test_two_languages_train_and_a_third_script_is_named(tmp_path: Path) -> None:
    table = tmp_path / "calls.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows()))
    import_table(table, tmp_path / "data", columns={"dialogue_id": "call", "language": "lang"}, labels=LABELS)
    assert load_info(tmp_path / "data" / "dataset.yaml").language == "mul"
    encoder = make_encoder(tmp_path / "encoder")
    settings = (f"text.source=path:{encoder}", "text.epochs=10", "mixture.epochs=20", "gate.min_language_f1=0.5")
    done = run(tmp_path / "output", tmp_path / "data", *settings, "gate.min_language_support=10")
    assert done.code == 0, done.text
    bundle = (
        tmp_path / "output" / "store" / "artifacts" / "ModelBundle" / done.stages["register_model"]["outputs"]["bundle"]
    )
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["scripts"] == ["Cyrillic", "Latin"]
    for language in TEXTS:
        assert manifest["metrics"][f"test.slice.language.{language}.weighted_f1"] > 0.8
    assert "Every language reaches a weighted F1 of 0.50" in (done.folder / "reports" / "run_report.html").read_text()
    turns = [{"text": TEXTS[language][label]} for language in TEXTS for label in LABELS]
    answer = api.load(str(bundle)).predict([*turns, {"text": "γεια σου"}])
    assert answer.predicted[: len(turns)] == LABELS * 2
    assert answer.parameters["unknown_script"] == "Greek: 6"
