"""Tune the mixture's settings for given embeddings: an Optuna study over a small space, scored on dev.

The objective gets dialogues without a test split, so a search cannot use it. The study is stored in a SQLite file, so an
interrupted search resumes. The first trial uses the initial settings, so the result is never worse on dev.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.common.errors import UsageError
from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import EmbeddedDialogues
from pipelines.cli.experiments.trial import Quiet, seeds_of

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
_ENOUGH_FOR_LARGE = 3000
_STARTUP_TRIALS, _WARMUP_EPOCHS = 5, 5


@dataclass(frozen=True)
class Dimension:
    """One setting of the search space: a range (linear or ``log``), or choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Any:
        """Suggest a value for the trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def space(data: EmbeddedDialogues) -> list[Dimension]:
    """The search space for data of this size and these modalities.

    The learning rate matters most and interacts with all other settings. Hidden sizes are limited to what trains fast on a
    laptop and suits a small corpus. The two dropouts, γ and the contrastive weight affect the published figures most and
    differ most between corpora. Modality dropout and the fusion need two modalities. Depth, kernels and the gate's width are
    fixed, because they have little effect.
    """
    utterances = sum(len(dialogue) for dialogue in data.split("train"))
    large = (256,) if utterances >= _ENOUGH_FOR_LARGE else ()
    dimensions = [
        Dimension("learning_rate", 1e-4, 3e-3, log=True),
        Dimension("hidden", choices=(32, 64, 128, *large)),
        Dimension("context_dropout", 0.0, 0.5),
        Dimension("fusion_dropout", 0.1, 0.6),
        Dimension("focal_gamma", choices=(0.0, 1.0, 2.0, 3.0)),
        Dimension("contrastive_weight", choices=(0.0, 0.2, 0.5, 1.0, 2.0)),
        Dimension("schedule", choices=("constant", "cosine")),
    ]
    if len(data.dimensions) > 1:
        dimensions += [
            Dimension("fusion", choices=("co_attention", "feed_forward")),
            Dimension("modality_dropout", 0.0, 0.3),
            Dimension("gate_temperature", choices=(1.0, 2.0, 4.0)),
        ]
    return dimensions


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes:
        settings: the tuned settings of the best trial.
        dev_weighted_f1: score of the best trial, averaged over the seeds.
        start: score of the initial settings.
        trials: number of finished trials, including pruned ones.
        pruned: number of pruned trials.
        importance: share of each setting in the variance of dev weighted F1; empty with too few trials.
    """

    settings: dict[str, Any]
    dev_weighted_f1: float
    start: float
    trials: int
    pruned: int
    importance: dict[str, float]


def tune(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    output: Path,
    *,
    trials: int,
    seeds: int,
    timeout_minutes: float | None,
    on_trial: Callable[[str], None],
) -> Tuned:
    """Run a search, or resume one.

    Args:
        config: the initial settings.
        data: embeddings; the test split is removed first.
        output: folder of the study.
        trials: total number of finished trials, including those of earlier calls.
        seeds: trainings per trial; the score is their mean.
        timeout_minutes: no trial starts after this; None sets no limit.
        on_trial: called with a sentence about each finished trial.

    Raises:
        UsageError: the folder contains a study of other data or settings.
    """
    import optuna

    data = data.without("test")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(config, data, output, seeds)
    dimensions = space(data)

    def objective(trial: optuna.Trial) -> float:
        suggested = {dimension.name: dimension.suggest(trial) for dimension in dimensions}
        return _mean_score(_with(config, suggested), data, seeds, trial)

    def report_trial(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        score = f"dev weighted F1 {trial.value:.3f}" if trial.value is not None else "ended early"
        best = max((trial.value for trial in study.trials if trial.value is not None), default=None)
        on_trial(
            f"trial {len(_finished(study))} of {trials}: {score}" + (f", best {best:.3f}" if best is not None else "")
        )

    if not study.trials:
        study.enqueue_trial(_start(config, dimensions))
    left = trials - len(_finished(study))
    if left > 0:
        timeout = None if timeout_minutes is None else timeout_minutes * 60
        study.optimize(objective, n_trials=left, timeout=timeout, callbacks=[report_trial])
    return _result(study)


def _study(config: MixtureConfig, data: EmbeddedDialogues, output: Path, seeds: int) -> optuna.Study:
    import hashlib

    import optuna

    storage = f"sqlite:///{output / STUDY_FILE}"
    content = f"{data.fingerprint()} {config.model_dump_json()} {seeds} {space(data)}"
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
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS),
    )
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # left behind by a search that was killed
    # Vary the seed with the number of trials, so a resumed search does not repeat its suggestions.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    return study


def _start(config: MixtureConfig, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The initial settings as a trial; values outside the space are left to the sampler."""
    start: dict[str, Any] = {}
    for dimension in dimensions:
        value = getattr(config, dimension.name)
        if value in dimension.choices or (not dimension.choices and dimension.low <= value <= dimension.high):
            start[dimension.name] = value
    return start


def _with(config: MixtureConfig, suggested: dict[str, Any]) -> MixtureConfig:
    """The settings with the suggested values; the fusion's width is twice the hidden size, as published."""
    width = 2 * int(suggested["hidden"])
    return MixtureConfig.model_validate(config.model_dump() | suggested | {"fusion_width": width})


def _mean_score(config: MixtureConfig, data: EmbeddedDialogues, seeds: int, trial: optuna.Trial) -> float:
    import optuna

    from mistere.model.mixture.training import train_mixture

    scores: list[float] = []

    def report(epoch: int, entry: dict[str, float]) -> None:
        if not scores:  # the trial is pruned by its first seed only
            trial.report(entry["dev_weighted_f1"], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    for settings in seeds_of(config, seeds):
        trained = train_mixture(settings, data, progress=Quiet("tune"), on_epoch=report)
        scores += [trained.dev_weighted_f1]
    return float(np.mean(scores))


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    import optuna

    states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    return study.get_trials(deepcopy=False, states=states)


def _result(study: optuna.Study) -> Tuned:
    import optuna

    finished = _finished(study)
    complete = [trial for trial in finished if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise UsageError("--timeout: no trial finished in that time; increase it.")
    best = study.best_trial
    importance: dict[str, float] = {}
    if len(complete) >= 2 * _STARTUP_TRIALS:
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        importance = dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    settings = best.params | {"fusion_width": 2 * int(best.params["hidden"])}
    return Tuned(
        settings,
        float(best.value or 0.0),
        float(complete[0].value or 0.0),
        len(finished),
        len(finished) - len(complete),
        importance,
    )
