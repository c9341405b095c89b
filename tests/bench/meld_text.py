"""MELD, text only, on a frozen MiniLM: the gain of dialogue context over single utterances.

usage: mistere bench meld_text MELD_CSVS [OUTPUT [TRAIN'S ARGUMENTS]]      (default: output/meld)

Imports the CSV files, embeds every utterance with the frozen encoder of the sample profile (mean pooling, 384 wide, nothing
trained) into OUTPUT/embeddings, and runs `mistere train` on them over five seeds with `--ablate context`. Dev selects; test is
read once a reported number. Published on this split: bcLSTM text 56.4, DialogueRNN text 57.0 (Poria et al., arXiv
1810.02508). An existing folder of embeddings is reused.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS
from mistere.corpora.importers.meld import import_meld
from mistere.data.dataset import read_utterances, shards_of
from mistere.data.kinds.text import Transcript
from mistere.data.utterances import batches_within
from mistere.model.encoders.families import families
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from pipelines.profiles import load_profile

SETTINGS = [
    "text.tuning=frozen", "text.projection=1", "mixture.hidden=128", "mixture.gru_layers=2", "mixture.context_dropout=0.5",
    "mixture.fusion_width=256", "mixture.learning_rate=5e-4", "mixture.batch_dialogues=32", "mixture.focal_gamma=0",
    "mixture.contrastive_weight=0.2", "mixture.epochs=25", "mixture.patience=6", "mixture.schedule=cosine",
]  # fmt: skip


def embed(source: Path, folder: Path) -> None:
    """Write ``utterances.parquet`` and ``text.npy`` of MELD; the folder appears when it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        import_meld(source, Path(scratch) / "meld", text_only=True)
        rows = [
            (split, utterance)
            for split in SPLITS
            for utterance in read_utterances(shards_of((Path(scratch) / "meld").iterdir(), split))
        ]
        config = load_profile("sample", SETTINGS)
        base = resolve_base(config.text, "text", LocalStore(Path(scratch) / "store"))
        encoder = UtteranceEncoder(families()[base.manifest.family](base.path, config.text), config.text, 7).eval()
        features = [encoder.family.prepare(Transcript(utterance.text)) for _, utterance in rows]
        vectors = np.lib.format.open_memmap(
            aside / "text.npy", "w+", np.float32, (len(rows), encoder.family.hidden_size(encoder.backbone))
        )
        with torch.inference_mode():
            for batch in batches_within(
                [feature["length"] for feature in features], config.text.extraction.batch_tokens
            ):
                collated = encoder.family.collate([features[index] for index in batch])
                vectors[batch] = encoder.pooling(*encoder.family.hidden_states(encoder.backbone, collated)).numpy()
        vectors.flush()
    table = {
        "split": [split for split, _ in rows],
        "dialogue_id": [utterance.dialogue_id for _, utterance in rows],
        "turn": [utterance.turn for _, utterance in rows],
        "label": [utterance.label for _, utterance in rows],
    }
    pq.write_table(pa.table(table), aside / "utterances.parquet")
    aside.rename(folder)


def main() -> None:
    """Embed, then train with and without context."""
    if len(sys.argv) < 2:
        raise UsageError("no folder with the MELD CSV files was named: mistere bench meld_text MELD_CSVS [OUTPUT].")
    output = Path(sys.argv[2] if len(sys.argv) > 2 else "output/meld")
    if not (output / "embeddings").is_dir():
        output.mkdir(parents=True, exist_ok=True)
        embed(Path(sys.argv[1]), output / "embeddings")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [
        sys.executable, "-m", "mistere", "train", "--embeddings", str(output / "embeddings"), "--seeds", "5",
        "--ablate", "context", "--output", str(output / "train"), *settings, *sys.argv[3:],
    ]  # fmt: skip
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
