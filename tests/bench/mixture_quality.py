"""The mixture beside simpler models: weighted F1 on sets with a known structure, on the sample and on MELD text, paired.

usage: mistere bench mixture_quality [--sets NAME ...] [--arms NAME ...] [--seeds N] [--set KEY=VALUE ...] [--json FILE]

For each set and arm prints weighted F1 on test (mean over seeds) and the mixture minus the arm, both with the 95 % interval from
resampled test dialogues; then each modality's expert alone beside the BiGRU on that modality, and what the gate's weights say. The mixture uses the settings of `mistere train --profile PROFILE`.
Without options it runs the quick sets; `--sets all` runs every set. The sample is read from the output folder of `mistere run`
(`--sample`), MELD text from the folder that `mistere bench meld_text` wrote (`--meld`); a set whose folder is absent is skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistere.common.errors import UsageError
from mistere.config.loader import Config
from mistere.config.mixture import MixtureConfig
from mistere.evaluation.split_metrics import Answers
from mistere.metrics.classification import Interval, confusion, weighted_f1
from mistere.metrics.expert_gate import gate_statistics
from mistere.metrics.gate_trust import GateTrust
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.prediction import LabelledTurns, predict
from mistere.model.mixture.training import TrainedMixture, train_mixture
from pipelines.cli.experiments.source import open_source
from pipelines.cli.experiments.trial import Quiet, Resamples, seeds_of
from pipelines.profiles import load_profile
from tests.bench.reference.baselines import bigru
from tests.bench.reference.synthetic_dialogues import SETS, generate

QUICK = ("clean", "noise", "wild", "small")
ARMS = ("mean_of_experts", "best_expert", "text_only", "bigru", "late_fusion")


class Predictions:
    """What a mixture predicts for the turns of a split that have a label."""

    def __init__(self, trained: TrainedMixture, data: EmbeddedDialogues, split: str) -> None:
        dialogues = data.split(split)  # type: ignore[arg-type]
        answers = predict(trained.model, [data.read(dialogue) for dialogue in dialogues], trained.temperature)
        turns = LabelledTurns.of(dialogues, answers)
        self.true = turns.labels
        self.answers = Answers.of(turns.predictions, [dialogue.dialogue_id for dialogue in dialogues])

    def scores(self) -> list[float]:
        """Weighted F1 of each expert."""
        count = self.answers.by_expert.shape[-1]
        each = self.answers.by_expert.argmax(-1)
        return [float(weighted_f1(confusion(self.true, each[:, one], count))) for one in range(each.shape[1])]

    def trust(self) -> dict[str, float]:
        """What the gate's weights say about which expert is right.

        ``auc``, ``leader_right``, ``average_right`` and ``most_confident_right`` as :class:`~mistere.metrics.gate_trust.GateTrust`
        defines them; ``evenness``: entropy of the weights, 0 to 1. Empty if no experts differ in being right.
        """
        weights = self.answers.weights.astype(np.float64)
        trust = GateTrust(weights, self.answers.by_expert, self.true)
        if not trust.differing.any():
            return {}
        names = [str(index) for index in range(weights.shape[1])]
        return {
            "auc": trust.pooled_auc().value,
            **{f"{name}_right": share.value for name, share in trust.right_shares().items()},
            "evenness": gate_statistics(weights, names).entropy or 0.0,
        }


def measure_set(data: EmbeddedDialogues, config: Config, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """Train the mixture and the arms with each seed; weighted F1, paired differences and the gate's figures."""
    modalities = list(data.dimensions)
    classes: dict[str, list[np.ndarray]] = {}
    experts: dict[str, list[np.ndarray]] = {name: [] for name in modalities}
    gates: list[dict[str, float]] = []
    for settings in seeds_of(config.mixture, seeds):
        trained = train_mixture(settings, data, progress=Quiet("train"))
        test = Predictions(trained, data, "test")
        gates.append(test.trust())
        for index, name in enumerate(modalities):
            experts[name].append(test.answers.by_expert[:, index].argmax(-1))
        predicted = {"mixture": test.answers.predicted}
        if "mean_of_experts" in arms:
            predicted["mean_of_experts"] = test.answers.plain_mean()
        if "best_expert" in arms:
            best = int(np.argmax(Predictions(trained, data, "dev").scores()))
            predicted["best_expert"] = test.answers.by_expert[:, best].argmax(-1)
        if "text_only" in arms and len(modalities) > 1:
            alone = data.only(["text"])
            predicted["text_only"] = Predictions(_train_alone(settings, alone), alone, "test").answers.predicted
        predicted |= _baselines(data, modalities, arms, settings.seed)
        for name, values in predicted.items():
            classes.setdefault(name, []).append(values)
    resamples = Resamples(data, config.evaluation)
    table = {name: {"weighted_f1": _rounded(resamples.mean(values))} for name, values in classes.items()}
    for name, values in classes.items():
        if name != "mixture":
            table[name]["mixture_minus_arm"] = _rounded(resamples.difference(classes["mixture"], values))
    alone = {
        name: beside_bigru(data, config, name, experts[name], classes[f"bigru_{name}"])
        for name in modalities
        if f"bigru_{name}" in classes
    }
    gate = {name: round(float(np.mean([one[name] for one in gates])), 4) for name in gates[0] if all(gates)}
    return {"arms": table, "experts": alone, "gate": gate}


def beside_bigru(
    data: EmbeddedDialogues, config: Config, modality: str, expert: Sequence[np.ndarray], baseline: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """An expert and the BiGRU on its modality, on the test utterances that have it: the expert has no answer elsewhere.

    Args:
        data: of the set.
        config: with the settings of the resamples.
        modality: of the expert.
        expert: its classes ``[N]`` of the turns that have a label, for each seed.
        baseline: those of the BiGRU.
    """
    only = data.only([modality])
    present = [~np.isnan(only.read(dialogue)[modality]).any(1) for dialogue in data.split("test")]
    there = [
        EmbeddedDialogue(one.dialogue_id, one.rows, np.where(rows, one.labels, UNLABELLED))
        for one, rows in zip(data.split("test"), present, strict=True)
    ]
    rows = np.concatenate([one[dialogue.labelled] for one, dialogue in zip(present, data.split("test"), strict=True)])
    resamples = Resamples(data.with_splits({"test": there}), config.evaluation)
    one, other = [values[rows] for values in expert], [values[rows] for values in baseline]
    return {
        "expert": _rounded(resamples.mean(one)),
        "bigru": _rounded(resamples.mean(other)),
        "expert_minus_bigru": _rounded(resamples.difference(one, other)),
    }


def _train_alone(settings: MixtureConfig, data: EmbeddedDialogues) -> TrainedMixture:
    return train_mixture(settings.model_copy(update={"modalities": []}), data, progress=Quiet("train"))


def _baselines(
    data: EmbeddedDialogues, modalities: Sequence[str], arms: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """Classes of the recurrent baselines: on all modalities, on each, and the mean of the latter's probabilities."""
    if not {"bigru", "late_fusion"} & set(arms):
        return {}
    single = {name: bigru(data, [name], seed) for name in modalities}
    if len(modalities) == 1:
        return {f"bigru_{name}": probabilities.argmax(1) for name, probabilities in single.items()}
    results = {}
    if "bigru" in arms:
        results["bigru_fusion"] = bigru(data, modalities, seed).argmax(1)
        results |= {f"bigru_{name}": probabilities.argmax(1) for name, probabilities in single.items()}
    if "late_fusion" in arms:
        results["late_fusion"] = np.mean(list(single.values()), axis=0).argmax(1)
    return results


def _rounded(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def show(name: str, result: dict[str, Any], seconds: float) -> None:
    """Print the table of one set, in points."""
    gate = result["gate"]
    print(f"\n{name} ({seconds:.0f} s)   weighted F1 [95 %]        mixture minus arm [95 %]")
    for arm, values in result["arms"].items():
        value, low, high = (100 * figure for figure in values["weighted_f1"])
        line = f"  {arm:<16} {value:5.1f} [{low:4.1f}, {high:4.1f}]"
        if "mixture_minus_arm" in values:
            gain, least, most = (100 * figure for figure in values["mixture_minus_arm"])
            line += f"        {gain:+5.1f} [{least:+.1f}, {most:+.1f}]"
        print(line)
    for modality, values in result["experts"].items():
        expert, bigru = (100 * values[key][0] for key in ("expert", "bigru"))
        gain, least, most = (100 * figure for figure in values["expert_minus_bigru"])
        print(
            f"  {modality} alone: expert {expert:.1f}, BiGRU {bigru:.1f}, expert minus BiGRU {gain:+.1f} [{least:+.1f}, {most:+.1f}]"
        )
    if not gate:
        return
    print(
        f"  gate: AUC of trust {gate['auc']:.2f}, leader right {100 * gate['leader_right']:.0f} % (average expert "
        f"{100 * gate['average_right']:.0f} %, most confident {100 * gate['most_confident_right']:.0f} %), evenness {gate['evenness']:.2f}",
        flush=True,
    )


def open_set(name: str, options: argparse.Namespace) -> EmbeddedDialogues | str:
    """The data of a set, or the reason to skip it."""
    if name in SETS:
        return generate(SETS[name], options.data_seed)
    folder = options.sample if name == "sample" else options.meld
    if not folder.is_dir():
        how = "mistere run" if name == "sample" else "mistere bench meld_text MELD_CSVS"
        return f"{folder} does not exist; `{how}` writes it"
    try:
        return open_source(folder)
    except UsageError as error:
        return str(error)


def main() -> None:
    """Measure the chosen sets, print the tables and write JSON."""
    names = (*SETS, "sample", "meld")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(QUICK), choices=[*names, "all"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data-seed", type=int, default=0, help="seed of the synthetic sets")
    parser.add_argument("--profile", default="sample")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--sample", type=Path, default=Path("output"))
    parser.add_argument("--meld", type=Path, default=Path("output/meld/embeddings"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # two threads gain little at these sizes and lose much on a busy machine
    config = load_profile(options.profile, options.settings)
    results: dict[str, Any] = {}
    for name in names if "all" in options.sets else options.sets:
        data = open_set(name, options)
        if isinstance(data, str):
            print(f"\n{name}: skipped: {data}", flush=True)
            results[name] = {"skipped": data}
            continue
        started = time.monotonic()
        results[name] = measure_set(data, config, options.arms, options.seeds)
        show(name, results[name], time.monotonic() - started)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
