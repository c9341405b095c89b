"""What each deviation from the published mixture is worth: a profile's mixture with single published settings, paired.

usage: mistere bench published_settings EMBEDDINGS [--profile NAME] [--seeds N]

For each of the settings in which the defaults differ from the published model (docs/guides/mixture.md), trains the profile's mixture
with the published value over the same seeds, and prints the difference in weighted F1 on test with its 95 % interval from
resampled dialogues. Sizes, rates and loss weights stay the profile's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mistere.config.mixture import MixtureConfig
from pipelines.cli.experiments.source import open_source
from pipelines.cli.experiments.trial import Resamples, predicted, run_trial, seeds_of
from pipelines.profiles import load_profile

SETTINGS = (
    "standardise",
    "gate",
    "average_epochs",
    "attention_projections",
    "fusion_skip",
    "output_dropout",
    "layer_norm_eps",
    "consistency_scale",
    "modality_dropout",
    "context_dropout",
    "batches",
)


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--profile", default="sample")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    config = load_profile(options.profile)
    published = load_profile("published").mixture.model_dump()
    values = {name: published[name] for name in SETTINGS if published[name] != getattr(config.mixture, name)}
    data = open_source(options.embeddings).only(config.mixture.modalities)
    resamples = Resamples(data, config.evaluation)

    def trained(settings: MixtureConfig) -> list[np.ndarray]:
        return [predicted(run_trial(one, data, config.evaluation)) for one in seeds_of(settings, options.seeds)]

    base = trained(config.mixture)
    mean = resamples.mean(base)
    print(f"{options.profile}: weighted F1 {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]", flush=True)
    for name, changes in [*((name, {name: value}) for name, value in values.items()), ("all of them", values)]:
        arm = trained(config.mixture.model_copy(update=changes))
        gain = resamples.difference(arm, base)
        points = f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
        print(f"{name}={changes.get(name, '')}: {points}" if name in changes else f"{name}: {points}", flush=True)


if __name__ == "__main__":
    main()
