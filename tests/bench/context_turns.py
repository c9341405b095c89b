"""Whether turns without a label help as context: a share of all labels removed, the turns kept as context against removed wholly.

usage: mistere bench context_turns EMBEDDINGS [--share 0.3] [--removals N] [--seeds N] [--profile NAME] [--set SECTION.KEY=VALUE …]

EMBEDDINGS is a folder as for ``mistere train``, such as that of ``mistere bench meld_text``. Of each draw, a share of the labels of all
splits is removed at random; every test dialogue keeps at least one. Three arms are scored on the same test turns, those that keep their
label:

- context: the other turns stay in the dialogues, in training and on test, without a label;
- removed: they are taken out of the dialogues of all splits;
- removed in training only: the second arm's model on the first arm's dialogues, as of a corpus that left turns out and an endpoint
  that gets whole conversations.

The figure is weighted F1, averaged over the draws and the seeds; its paired interval comes from resampled test dialogues, the same for
all arms, draws and seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mistere.common.counting import counted
from mistere.common.splits import SPLITS, Split
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import DialogueBootstrap, confusion, weighted_f1
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import LabelledTurns, predict
from mistere.model.mixture.training import train_mixture
from pipelines.cli.experiments.source import open_source
from pipelines.cli.experiments.trial import Quiet, owners, seeds_of, true_classes
from pipelines.profiles import load_profile

CONTEXT, REMOVED, TRAINED_WITHOUT = "context", "removed", "removed in training only"


def without_labels(dialogue: EmbeddedDialogue, share: float, draw: np.random.Generator) -> EmbeddedDialogue:
    """The dialogue with a share of its labels removed, all but one at most."""
    lost = (draw.random(len(dialogue)) < share) & dialogue.labelled
    if lost.all():
        lost[draw.integers(len(dialogue))] = False
    return replace(dialogue, labels=np.where(lost, UNLABELLED, dialogue.labels))


def without_context(dialogue: EmbeddedDialogue) -> EmbeddedDialogue:
    """The dialogue without its turns that have no label."""
    rows = dialogue.rows
    numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    return replace(dialogue, rows=numbers[dialogue.labelled], labels=dialogue.labels[dialogue.labelled])


def arms_of(data: EmbeddedDialogues, share: float, seed: int) -> tuple[EmbeddedDialogues, EmbeddedDialogues]:
    """The data with the turns as context, and without them."""
    draw = np.random.default_rng(seed)
    kept: dict[Split, list[EmbeddedDialogue]] = {
        split: [without_labels(dialogue, share, draw) for dialogue in data.split(split)] for split in SPLITS
    }
    cut = {split: [without_context(dialogue) for dialogue in dialogues] for split, dialogues in kept.items()}
    return data.with_splits(kept), data.with_splits(cut)


def predicted(model: MixtureOfExperts, data: EmbeddedDialogues) -> np.ndarray:
    """Classes ``[N]`` of the labelled test turns."""
    test = data.split("test")
    answers = predict(model, [data.read(dialogue) for dialogue in test], 1.0)
    return LabelledTurns.of(test, answers).probabilities.argmax(1)


def train(config: MixtureConfig, data: EmbeddedDialogues) -> MixtureOfExperts:
    """Train quietly."""
    return train_mixture(config, data, progress=Quiet("train")).model


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--removals", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--profile", default="sample")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    config = load_profile(options.profile, options.settings)
    data = open_source(options.embeddings).only(config.mixture.modalities)
    classes, evaluation = len(data.labels), config.evaluation
    values: dict[str, list[float]] = {name: [] for name in (CONTEXT, REMOVED, TRAINED_WITHOUT)}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for removal in range(options.removals):
        whole, cut = arms_of(data, options.share, removal)
        test = whole.split("test")
        true, bootstrap = true_classes(test), DialogueBootstrap(owners(test), evaluation.resamples, evaluation.seed)
        for settings in seeds_of(config.mixture, options.seeds):
            started = time.monotonic()
            with_context, without = train(settings, whole), train(settings, cut)
            arms = {
                CONTEXT: predicted(with_context, whole),
                REMOVED: predicted(without, cut),
                TRAINED_WITHOUT: predicted(without, whole),
            }
            for name, answers in arms.items():
                values[name].append(float(weighted_f1(confusion(true, answers, classes))))
                draws[name].append(weighted_f1(bootstrap.counts(true, answers, classes)))
            scores = ", ".join(f"{name} {100 * values[name][-1]:.1f}" for name in arms)
            seconds = time.monotonic() - started
            print(f"removal {removal}, seed {settings.seed}: {scores} ({len(true)} turns, {seconds:.0f} s)", flush=True)
            _summarize(values, draws)


def _summarize(values: dict[str, list[float]], draws: dict[str, list[np.ndarray]]) -> None:
    """Print the means over the trainings so far, and the differences between the arms."""
    print(f"after {counted(len(values[CONTEXT]), 'training')} of each arm:")
    for name, scores in values.items():
        print(f"  {name}: {100 * np.mean(scores):.1f} {_interval(np.mean(draws[name], axis=0))}")
    for name in (REMOVED, TRAINED_WITHOUT):
        gain = 100 * (np.mean(values[CONTEXT]) - np.mean(values[name]))
        difference = np.mean(draws[CONTEXT], axis=0) - np.mean(draws[name], axis=0)
        print(f"  {CONTEXT} minus {name}: {gain:+.1f} points {_interval(difference, '+.1f')}", flush=True)


def _interval(draws: Sequence[float] | np.ndarray, form: str = ".1f") -> str:
    low, high = (100 * float(value) for value in np.quantile(draws, [0.025, 0.975]))
    return f"[{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
