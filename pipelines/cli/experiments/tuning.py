"""Tune the mixture's settings for given embeddings: an Optuna study over a small space, scored on dev or by cross-validation.

The objective gets dialogues without a test split, so a search cannot use it. The study is stored in a SQLite file, so an
interrupted search resumes. The first trial uses the initial settings, so the result is never worse on the dialogues that judge it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.paths import sqlite_url
from mistere.config.mixture import MixtureConfig
from mistere.metrics.modality_choice import EVERY_SUBSET
from mistere.model.embeddings import EmbeddedDialogues
from pipelines.cli.experiments.choice import Gain, finding, gain_of_choice, train_advantage
from pipelines.cli.experiments.held_out import HeldOut
from pipelines.cli.experiments.modality_comparison import BestTrials, best_trials
from pipelines.cli.experiments.search_space import (
    Dimension,
    as_settings,
    initial_parameters,
    space,
    subsets_in,
    suggest,
)

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
_STARTUP_TRIALS, _WARMUP_EPOCHS, _WARMUP_FOLDS = 5, 5, 2
_INITIAL, _SUBSET, _PREDICTED = "initial", "subset", "predicted"
_TRIALS_PER_SUBSET = 4
"""With at least so many trials, the search first tries every subset of the modalities with the initial settings."""


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes:
        settings: the tuned settings of the best trial.
        weighted_f1: score of the best trial, averaged over seeds or repetitions.
        start: score of the initial settings.
        trials: number of finished trials, including pruned ones.
        pruned: number of pruned trials.
        importance: share of each setting in the variance of the score; empty with too few trials.
        gain: best minus initial settings; None if the initial ones are the best.
        finding: one sentence that says whether there are enough dialogues to choose by.
        subsets: the best trial of each subset of the modalities; None if the search does not vary them.
    """

    settings: dict[str, Any]
    weighted_f1: float
    start: float
    trials: int
    pruned: int
    importance: dict[str, float]
    gain: Gain | None
    finding: str
    subsets: BestTrials | None


def tune(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    output: Path,
    *,
    trials: int,
    seeds: int,
    timeout_minutes: float | None,
    on_trial: Callable[[str], None],
    folds: int = 0,
) -> Tuned:
    """Run a search, or resume one.

    Args:
        config: the initial settings.
        data: embeddings; the test split is removed first.
        output: folder of the study.
        trials: total number of finished trials, including those of earlier calls.
        seeds: trainings per trial, or repetitions of the cross-validation; the score is their mean.
        timeout_minutes: no trial starts after this; None sets no limit.
        on_trial: called with a sentence about each finished trial.
        folds: of a cross-validation over the dialogues of train and dev, which scores trials instead of dev; 0 for dev.

    Raises:
        UsageError: the folder contains a study of other data or settings, or there are fewer dialogues than folds.
    """
    import optuna

    held_out = HeldOut(data, seeds, folds, config.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dimensions = space(held_out.data, config)
    study = _study(config, held_out, dimensions, output, trials)

    def objective(trial: optuna.Trial) -> float:
        may_prune = not {_INITIAL, _SUBSET} & trial.user_attrs.keys()

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if may_prune and trial.should_prune():
                raise optuna.TrialPruned

        settings = as_settings(suggest(trial, dimensions), dimensions, config)
        scored = held_out.score(MixtureConfig.model_validate(config.model_dump() | settings), report)
        trial.set_user_attr(_PREDICTED, _packed(scored.predicted))
        return scored.value

    def report_trial(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        score = f"{score_name(folds)} {trial.value:.3f}" if trial.value is not None else "ended early"
        best = max((trial.value for trial in study.trials if trial.value is not None), default=None)
        on_trial(
            f"trial {len(_finished(study))} of {trials}: {score}" + (f", best {best:.3f}" if best is not None else "")
        )

    left = trials - len(_finished(study))
    if left > 0:
        timeout = None if timeout_minutes is None else timeout_minutes * 60
        study.optimize(objective, n_trials=left, timeout=timeout, callbacks=[report_trial])
    return _result(study, config, held_out, dimensions)


def score_name(folds: int) -> str:
    """What the score is, in words."""
    return "cross-validated weighted F1" if folds else "dev weighted F1"


def _study(
    config: MixtureConfig, held_out: HeldOut, dimensions: list[Dimension], output: Path, trials: int
) -> optuna.Study:
    import hashlib

    import optuna

    storage = sqlite_url(output / STUDY_FILE)
    content = (
        f"{held_out.data.fingerprint()} {config.model_dump_json()} {held_out.repetitions} {held_out.folds} {dimensions}"
    )
    name = f"mistere-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if (output / STUDY_FILE).exists() and (known := optuna.get_all_study_names(storage)) and name not in known:
        raise UsageError(
            f"--output {output}: it contains a search with other embeddings or settings; name another folder, or "
            f"delete {output / STUDY_FILE}."
        )
    output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_FOLDS if held_out.folds else _WARMUP_EPOCHS),
    )
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=[states.RUNNING]):
        study.tell(trial.number, state=states.FAIL)  # left behind by a search that was killed
    if not any(
        trial.user_attrs.get(_INITIAL)
        for trial in study.get_trials(deepcopy=False, states=[states.COMPLETE, states.WAITING])
    ):
        study.enqueue_trial(initial_parameters(dimensions), user_attrs={_INITIAL: True})
    _try_subsets(study, dimensions, trials)
    # Vary the seed with the number of trials, so a resumed search does not repeat its suggestions.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    return study


def _try_subsets(study: optuna.Study, dimensions: list[Dimension], trials: int) -> None:
    """Enqueue the initial settings with each subset of the modalities that has not been tried, if that is cheap."""
    import optuna

    subsets = subsets_in(dimensions)
    if len(subsets[0]) > EVERY_SUBSET or trials < _TRIALS_PER_SUBSET * len(subsets):
        return
    states = optuna.trial.TrialState
    known = study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED, states.WAITING])
    tried = {trial.user_attrs.get(_SUBSET) for trial in known}
    for subset in subsets[1:]:
        if (name := "+".join(subset)) not in tried:
            parameters = initial_parameters(dimensions) | {"modalities": name}
            study.enqueue_trial(parameters, user_attrs={_SUBSET: name})


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    import optuna

    states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    return study.get_trials(deepcopy=False, states=states)


def _result(study: optuna.Study, config: MixtureConfig, held_out: HeldOut, dimensions: list[Dimension]) -> Tuned:
    import optuna

    finished = _finished(study)
    complete = [trial for trial in finished if trial.state == optuna.trial.TrialState.COMPLETE]
    start = next((index for index, trial in enumerate(complete) if trial.user_attrs.get(_INITIAL)), None)
    if start is None:
        raise UsageError("--timeout: no trial finished in that time; increase it.")
    best = max(range(len(complete)), key=lambda index: (complete[index].value or 0.0, index == start))
    importance: dict[str, float] = {}
    if len(complete) >= 2 * _STARTUP_TRIALS:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importance = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    predictions = [_unpacked(trial.user_attrs[_PREDICTED], held_out.repetitions) for trial in complete]
    true, owners, classes = held_out.true, held_out.owners, len(held_out.data.labels)
    gain = None if best == start else gain_of_choice(predictions, start, best, true, owners, classes)
    advantage = None
    if held_out.folds:
        advantage = train_advantage(predictions[start], true, owners, held_out.train_utterances, classes)
    subsets = subsets_in(dimensions)
    used = [tuple(trial.params.get("modalities", "+".join(subsets[0])).split("+")) for trial in complete]
    values = [float(trial.value or 0.0) for trial in complete]
    return Tuned(
        as_settings(complete[best].params, dimensions, config),
        values[best],
        values[start],
        len(finished),
        len(finished) - len(complete),
        importance,
        gain,
        finding(gain, len(held_out.dialogues), len(complete), held_out.folds, advantage),
        best_trials(subsets, used, values, predictions, best, held_out),
    )


def _packed(predicted: np.ndarray) -> str:
    """Classes ``[S, N]`` as text, kept in the study so that a resumed search can compare trials."""
    return base64.b64encode(zlib.compress(predicted.astype("<u4").tobytes())).decode()


def _unpacked(text: str, repetitions: int) -> np.ndarray:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4")
    return flat.reshape(repetitions, -1).astype(np.int64)
