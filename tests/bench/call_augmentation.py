"""Training the speech encoder on real calls: weighted F1 on dev under effects on speech, with and without it.

usage: mistere bench call_augmentation [OUTPUT] [--from RUN] [--share 0.5] [--dialogues 16] [--every-level] [--set SECTION.KEY=VALUE …]

Runs the pipeline with the profile ``sample`` in OUTPUT/plain (OUTPUT is output/call_augmentation), and with
`speech.augmentation.share=SHARE` in OUTPUT/augmented. Each starts with a copy of what was finished before it, the first with that of the
run in RUN (output), so that only what differs is computed. Both models predict the first dev dialogues under nine levels of the effects on speech, or under every
level. What an arm has finished is found again: a stage by its key, and a model's answers in OUTPUT/answers.

Prints weighted F1 and the expected calibration error with and without augmentation, and the difference with its paired 95 % interval
over dialogues. The test split is not read for the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from components.pull_data.run import describe
from mistere.common.errors import MistereError
from mistere.data.calls.catalogue import EFFECTS
from mistere.data.calls.effect import Effect
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin
from mistere.evaluation.call_report import Figure
from mistere.evaluation.calls import CallMeasurement, CallSettings, Probabilities
from mistere.metrics.classification import DialogueBootstrap, Interval, weighted_f1
from mistere.metrics.robustness import LevelFigures
from mistere.model.inference import load_bundle
from mistere.reports.calls.summary import number, signed
from tests.bench.shared.pipeline_run import deployed_by_run

LEVELS: Final = (
    "codec_gsm", "codec_opus_6", "packet_loss_10", "packet_loss_20", "babble_10db", "babble_0db", "street_0db", "reverberation_600ms",
    "clipping_5",
)  # fmt: skip
RESAMPLES: Final = 2000
LEAN: Final = ("evaluation.runtime=false", "evaluation.speaker_probe=false", "gate.max_dialogue_ms=off")
"""Settings of both runs: nothing is measured that the comparison does not need."""
FINISHED: Final = ("artifacts", "steps", "vectors", "facts", "runs")
"""Folders of a store with what its runs have computed."""


def effects_on_speech(every_level: bool) -> list[Effect]:
    """The effects with the levels to measure."""
    heard = [effect for effect in EFFECTS.values() if effect.affected == "speech"]
    if every_level:
        return heard
    return [replace(one, levels=tuple(level for level in one.levels if level.name in LEVELS)) for one in heard]


def copy_finished_work(source: Path, target: Path) -> None:
    """Copy what a run has finished, and no release; nothing if there is no such run, or the copy is there."""
    if target.exists() or not (source / "store").is_dir():
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in FINISHED:
        if (source / "store" / name).is_dir():
            shutil.copytree(source / "store" / name, partial / "store" / name)
    partial.rename(target)


def answers_of(bundle: str, measurement: CallMeasurement, levels: Sequence[str], folder: Path) -> Probabilities:
    """What a model answers, from ``folder`` if an earlier call wrote it there."""
    asked = json.dumps([bundle.rpartition("/")[2], measurement.dialogues, sorted(levels)])
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    file = folder / f"{name}.npz"
    if not file.is_file():
        answered = measurement.answers(load_bundle(bundle))
        arrays = {f"{level}:{index}": rows for level, each in answered.items() for index, rows in enumerate(each)}
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.npz"
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.rename(file)
    with np.load(file) as read:
        return {
            level: [read[f"{level}:{index}"] for index in range(measurement.dialogues)]
            for level in dict.fromkeys(key.rpartition(":")[0] for key in read.files)
        }


def mean_difference(
    true: Sequence[np.ndarray], owners: Sequence[str], one: Probabilities, other: Probabilities, classes: int
) -> Interval:
    """Weighted F1 of one model minus that of another, the mean over the levels, paired."""
    labels = np.concatenate(true)
    bootstrap = DialogueBootstrap(owners, RESAMPLES, 0)

    def scores(answers: Probabilities) -> tuple[float, np.ndarray]:
        predicted = [np.concatenate(rows).argmax(1) for level, rows in answers.items() if level]
        values = [bootstrap.weighted_f1(labels, each, classes).value for each in predicted]
        draws = [weighted_f1(bootstrap.counts(labels, each, classes)) for each in predicted]
        return float(np.mean(values)), np.mean(draws, axis=0)

    (mine, drawn), (theirs, other_drawn) = scores(one), scores(other)
    low, high = np.quantile(drawn - other_drawn, (0.025, 0.975))
    return Interval(mine - theirs, float(low), float(high))


def fine_tuning_seconds(output: Path) -> float:
    """CPU seconds of the speech encoder's last fine-tuning."""
    folder = output / "store" / "runs"
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/stages/finetune_encoder-speech.json")
    ]
    last = max((one for one in records if one["status"] == "done"), key=lambda one: one["started"])
    return float(last["usage"]["cpu_seconds"])


def show(words: str, level: LevelFigures) -> None:
    """A line of the table."""
    assert level.other is not None and level.difference is not None
    scores = f"{number(level.model.weighted_f1.value)}  {number(level.other.weighted_f1.value)}"
    errors = f"{number(level.model.ece.value)}  {number(level.other.ece.value)}"
    print(f"{words:<22} {scores}  {signed(Figure.of(level.difference)):<20} {errors}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path("output/call_augmentation"))
    parser.add_argument("--from", type=Path, default=Path("output"), dest="source", metavar="RUN")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--dialogues", type=int, default=16)
    parser.add_argument("--every-level", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    plain_run, augmented_run = arguments.output / "plain", arguments.output / "augmented"
    arguments.output.mkdir(parents=True, exist_ok=True)
    copy_finished_work(arguments.source, plain_run)
    plain = deployed_by_run(plain_run, *LEAN, *arguments.settings)
    copy_finished_work(plain_run, augmented_run)
    augmented = deployed_by_run(
        augmented_run, *LEAN, *arguments.settings, f"speech.augmentation.share={arguments.share}"
    )
    if augmented.endswith(plain.rpartition("/")[2]):
        raise MistereError(f"the run in {augmented_run} deployed no model of its own: its report says why.")

    pinned = pin("data.dvc", str(arguments.output / "remote"))
    reference = describe(pinned.remote, pinned.digest)
    reader = UtteranceReader(reference, ("dev",))
    effects = effects_on_speech(arguments.every_level)
    levels = [level.name for effect in effects for level in effect.levels]
    measurement = CallMeasurement(
        lambda: islice(reader.dialogues("dev"), arguments.dialogues), reference.labels, CallSettings(effects, RESAMPLES)
    )
    own, others = (
        answers_of(bundle, measurement, levels, arguments.output / "answers") for bundle in (augmented, plain)
    )
    figures = measurement.figures(own, others)
    print(f"{measurement.turns} dev turns in {measurement.dialogues} dialogues: trained on calls, plainly:")
    print(f"{'':<22} weighted F1   difference in points  calibration error")
    show("without an effect", figures.clean)
    for name in levels:
        show(name, figures.levels[name])
    dialogues = list(islice(reader.dialogues("dev"), arguments.dialogues))
    owners = [one.dialogue_id for dialogue in dialogues for one in dialogue]
    true = [np.array([reference.labels.index(one.label) for one in dialogue]) for dialogue in dialogues]
    mean = mean_difference(true, owners, own, others, len(reference.labels))
    print(f"mean over the {len(levels)} levels: {signed(Figure.of(mean))} points")
    for name, folder in (("plain", plain_run), ("augmented", augmented_run)):
        print(f"fine-tuning of the speech encoder, {name}: {fine_tuning_seconds(folder):.0f} s of CPU")


if __name__ == "__main__":
    main()
