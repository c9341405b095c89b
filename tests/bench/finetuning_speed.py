"""Fine-tuning of the sample's encoders compared with the plain Trainer, which pads each random batch to its longest utterance.

usage: mistere bench finetuning_speed [EPOCHS]      (default: 3)

Both arms train the same layers of the same encoder with the same loss, optimiser, batch size and number of steps, and measure
dev after each epoch. The plain one is the set-up of the transformers examples: utterances prepared on access,
batches in random order, padded to the longest in the batch. Ours is the stage: utterances prepared once, a core each, batches
of similar length. Times are from the published base to the end, preparation and loading included, imports not. Ratios are of
one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from components.finetune_encoder.fine_tuning import fine_tune
from components.finetune_encoder.training.trainable import choose_trainable
from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.modalities import IMPLICIT_KINDS, cell_of
from mistere.common.progress import Progress
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step
from mistere.model.encoders.families import families
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.losses import focal_loss
from pipelines.profiles import load_profile


class _Quiet(Progress):
    def __call__(self, message: str, done: float = 0, total: float = 0) -> None: ...
    def note(self, message: str) -> None: ...


@dataclasses.dataclass
class OnDemand(Dataset[tuple[Any, int]]):
    """Utterances prepared on access."""

    utterances: list[Utterance]
    labels: list[str]
    family: Any
    settings: Any

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        utterance = self.utterances[index]
        kind = kind_of(self.family.kind)
        modality = next(name for name, each in IMPLICIT_KINDS.items() if each == kind.name)
        value = kind.encoder_input(cell_of(utterance, modality), self.settings)
        return self.family.prepare(value), self.labels.index(utterance.label)


class Plain(Trainer):
    """The Trainer with the encoder's loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        logits = model(inputs["features"])
        loss = focal_loss(logits, inputs["labels"], 2.0)
        return (loss, logits) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        with torch.inference_mode():
            loss, logits = self.compute_loss(model, self._prepare_inputs(inputs), True)
        return loss, logits, inputs["labels"]


def plain(settings: Any, modality: str, reference: UtteranceSet, store: LocalStore, scratch: Path) -> float:
    """Seconds of the plain set-up."""
    resolve_base(settings, IMPLICIT_KINDS[modality], store)
    clock = time.perf_counter()
    base = resolve_base(settings, IMPLICIT_KINDS[modality], store)
    family = families()[base.manifest.family](base.path, settings)
    set_seed(0)
    model = UtteranceEncoder(family, settings, len(reference.labels))
    choose_trainable(model, settings)
    reader = UtteranceReader(reference, ("train", "dev"))
    data = {
        split: OnDemand(list(reader.stream(split)), reference.labels, family, settings) for split in ("train", "dev")
    }  # type: ignore[arg-type]

    def collate(examples: list[tuple[Any, int]]) -> dict[str, Any]:
        return {
            "features": family.collate([features for features, _ in examples]),
            "labels": torch.tensor([label for _, label in examples]),
        }

    arguments = TrainingArguments(
        output_dir=str(scratch / "plain"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        learning_rate=settings.learning_rate,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
    )
    Plain(
        model=model, args=arguments, train_dataset=data["train"], eval_dataset=data["dev"], data_collator=collate
    ).train()
    return time.perf_counter() - clock


def ours(settings: Any, modality: str, reference: UtteranceSet, store: LocalStore, scratch: Path) -> float:
    """Seconds of the stage's fine-tuning."""
    resolve_base(settings, IMPLICIT_KINDS[modality], store)
    (scratch / "ours").mkdir()
    context = RunContext(run_id="bench", store=store.uri, tracking_uri="")
    step = Step("bench", modality, context, store, _Quiet("bench"), Checkpoints(store, "bench", modality))
    clock = time.perf_counter()
    fine_tune(settings, step, reference, scratch / "ours", modality)  # type: ignore[arg-type]
    return time.perf_counter() - clock


def main(epochs: int) -> None:
    """Run both arms for both modalities, each in a process of its own."""
    totals = {"plain": 0.0, "ours": 0.0}
    for modality in ("speech", "text"):
        for name in totals:
            command = [sys.executable, __file__, "arm", name, modality, str(epochs)]
            answer = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            totals[name] += answer["seconds"]
            rate = answer["utterances"] / answer["seconds"]
            print(f"  {name:<6} {modality:<7} {answer['seconds']:7.1f} s, {rate:.1f} utterances/s", flush=True)
    print(f"against the plain Trainer: {totals['plain'] / totals['ours']:.2f}x; target 1.3")


def arm(name: str, modality: str, epochs: int) -> None:
    """Run one arm and print its seconds as JSON."""
    settings = getattr(load_profile("sample", [f"{modality}.epochs={epochs}"]), modality)
    pinned = pin("data.dvc", "")
    reference = describe(pinned.remote, pinned.digest)
    with tempfile.TemporaryDirectory() as scratch:
        store = LocalStore(Path(scratch) / "store")
        seconds = {"plain": plain, "ours": ours}[name](settings, modality, reference, store, Path(scratch))
    print(json.dumps({"seconds": seconds, "utterances": reference.rows["train"] * epochs}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["arm"]:
        arm(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        parser = argparse.ArgumentParser(prog="mistere bench finetuning_speed")
        parser.add_argument("epochs", nargs="?", type=int, default=3)
        main(parser.parse_args().epochs)
