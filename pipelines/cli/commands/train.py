"""``mistere train``: trains the mixture on existing embeddings over several seeds, with ablations, a table and a report."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mistere.common.counting import percent
from mistere.common.names import terminal_text
from mistere.common.processes.command_line import command_line
from mistere.common.progress import PLAIN_SECONDS, RemainingTime
from mistere.common.secrets.redaction import redact
from mistere.config.differences import changed_settings
from mistere.config.mixture import MixtureConfig, known
from pipelines.cli.output.console import OutputConsole

if TYPE_CHECKING:
    from mistere.config.loader import Config
    from mistere.metrics.modality_choice import ModalityChoice
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.mixture.training import TrainedMixture
    from pipelines.cli.experiments.ablation import Ablation
    from pipelines.cli.experiments.figures import Figures
    from pipelines.cli.experiments.training_folder import TrainingFolder
    from pipelines.cli.experiments.trial import OnEpoch, Trial

_WIDTH = 120
_SECTIONS = ("seed", "mixture", "evaluation", "registry")
"""What `--set` may change here."""


def train(
    embeddings: Path,
    profile: str,
    settings: Sequence[str],
    seeds: int,
    parts: Sequence[str],
    output: Path | None,
    tracking_uri: str | None,
    registry: Path | None = None,
    compare: bool | None = None,
) -> int:
    """Train and evaluate the mixture, print the results and write the output.

    Outputs are written under temporary names and then renamed, ``metrics.json`` last. If interrupted, the same command
    resumes from the last epoch.

    Args:
        embeddings: folder of the embeddings.
        profile: settings to start from.
        settings: ``--set`` on top.
        seeds: number of seeds.
        parts: parts to leave out, one at a time.
        output: folder of the results; None for a new one.
        tracking_uri: the MLflow server; None for none.
        registry: the output directory to register the model in; None for none.
        compare: whether to compare the subsets of the modalities; None where that is cheap.

    Returns:
        The exit code: 0, or that of the registration.

    Raises:
        UsageError: the embeddings, the settings or the output are invalid; nothing is written.
        MistereError: the MLflow server cannot be reached; nothing is written.
    """
    from mistere.model.mixture.modality_subsets import selected
    from mistere.registry.mlflow.connection import check_tracking
    from pipelines.cli.experiments.ablation import check_names
    from pipelines.cli.experiments.report import settings_of
    from pipelines.cli.experiments.source import open_source
    from pipelines.cli.experiments.training_folder import TrainingFolder
    from pipelines.cli.output.task_progress import task_progress
    from pipelines.cli.registry_location import registry_location
    from pipelines.profiles import load_profile

    parts = check_names(parts)
    sections = (*_SECTIONS, "gate") if registry else _SECTIONS
    profile_config = load_profile(profile, settings, sections=sections)
    with task_progress(f"reading {embeddings}"):
        data = selected(profile_config.mixture, open_source(embeddings))
    made_of = {"embeddings": data.fingerprint(), "settings": settings_of(profile_config.mixture)}
    evaluation = profile_config.evaluation.model_dump(mode="json")
    scope = {"seeds": seeds, "ablations": list(parts), "evaluation": evaluation}
    folder = TrainingFolder(output, made_of, scope, _origin(embeddings, profile))
    if tracking_uri:
        check_tracking(tracking_uri)
    location = registry_location(registry, None, None, create=True) if registry else None
    if location is not None:
        check_tracking(location.tracking_uri)
    _train(embeddings, profile_config, data, seeds, parts, tracking_uri, folder, compare)
    if location is None:
        return 0
    from pipelines.cli.commands.registry.register import SECTIONS, register

    release = [setting for setting in settings if setting.partition(".")[0].strip() in SECTIONS]
    print(flush=True)
    return register(folder.path, embeddings, profile, release, location)


def _origin(embeddings: Path, profile: str) -> dict[str, Any]:
    """How the training was started, for its registration."""
    from mistere.common.digests.code import git_state, name_files, uncommitted_files

    commit, dirty = git_state()
    return {
        "source": str(embeddings.resolve()),
        "profile": profile,
        "command": redact(command_line("mistere", *sys.argv[1:])),
        "commit": commit,
        "dirty": dirty,
        "uncommitted": name_files(uncommitted_files()) if dirty else "",
    }


def _train(
    embeddings: Path,
    profile_config: Config,
    data: EmbeddedDialogues,
    seeds: int,
    parts: Sequence[str],
    tracking_uri: str | None,
    folder: TrainingFolder,
    compare: bool | None,
) -> None:
    from mistere.model.mixture.automatic_settings import TrainSize, automatic_values, describe, resolve
    from mistere.model.mixture.input_scaling import column_notes
    from mistere.model.mixture.modality_subsets import train_subsets
    from mistere.model.mixture.training import train_mixture
    from pipelines.cli.experiments.ablation import ablate
    from pipelines.cli.experiments.figures import as_json, summarize
    from pipelines.cli.experiments.modality_comparison import compare_modalities
    from pipelines.cli.experiments.report import best_on_dev, render
    from pipelines.cli.experiments.trial import Quiet, run_trial, seeds_of
    from pipelines.cli.output.modality_table import modality_table

    mixture = profile_config.mixture

    console = OutputConsole(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _WIDTH  # a file or a pipe has no width, and tables must not be truncated
    output = folder.path
    folder.begin()
    console.print(f"output   {output}", markup=False, emoji=False)
    notes = column_notes(mixture, data)
    for note in notes:
        console.print(note, style="yellow", markup=False)
    with _epoch_status(console) as on_trial:

        def train_subset(config: MixtureConfig, part: EmbeddedDialogues) -> TrainedMixture:
            name = "modalities-" + "-".join(part.dimensions)
            return train_mixture(
                config,
                part,
                progress=Quiet("train"),
                checkpoints=folder.checkpoints(name, config.seed),
                on_epoch=on_trial(
                    f"{' + '.join(part.dimensions)}, seed {config.seed}",
                    known(resolve(config, TrainSize.of(part)).epochs),
                ),
            )

        choice: ModalityChoice | None = None
        ready: list[TrainedMixture] = []
        if mixture.modalities == "auto":
            choice, ready = train_subsets(seeds_of(mixture, seeds), data, train_subset)
            data = data.only(choice.chosen.modalities)
            mixture = mixture.model_copy(update={"modalities": list(choice.chosen.modalities)})
        size = TrainSize.of(data)
        automatic = automatic_values(mixture, size)
        mixture = resolve(mixture, size)
        if automatic:
            console.print(describe(automatic, size), markup=False)

        def train_once(name: str, config: MixtureConfig, trained: TrainedMixture | None = None) -> Trial:
            return run_trial(
                config,
                data,
                profile_config.evaluation,
                checkpoints=folder.checkpoints(name, config.seed),
                on_epoch=None if trained else on_trial(f"{name}, seed {config.seed}", known(config.epochs)),
                trained=trained,
            )

        trials = [
            train_once("mixture", config, trained) for config, trained in zip_longest(seeds_of(mixture, seeds), ready)
        ]
        figures = summarize(trials, data, profile_config.evaluation)
        ablation = ablate(parts, mixture, data, trials, profile_config.evaluation, train_once) if parts else None
        if choice is None:
            configs = seeds_of(profile_config.mixture, seeds)
            choice = compare_modalities(configs, data, trials, train_subset, console.print, compare)
    best = best_on_dev(trials)
    page = render(
        mixture, data, trials, best, figures, ablation, str(embeddings), choice,
        automatic=describe(automatic, size), notes=notes,
    )  # fmt: skip
    _write(folder, data, best, page, as_json(figures, trials, ablation, choice, automatic, notes))
    folder.end()
    if choice:
        console.print()
        console.print(modality_table(choice.subsets, choice.chosen, "dev"))
        console.print(choice.sentence(), markup=False)
    _show(console, data, trials, figures, ablation)
    if tracking_uri:
        _track(tracking_uri, profile_config, mixture, trials)
    console.print(
        f"\nreport   {output / 'report.html'}\nmetrics  {output / 'metrics.json'}\nmodel    {output / 'model'}",
        markup=False,
        emoji=False,
    )


class _EpochStatus:
    """Shows the training's progress: a status line on a terminal, otherwise a line at the start and one every 15 seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.status = console.status("training") if console.is_terminal else None

    def __call__(self, name: str, epochs: int) -> OnEpoch:
        """Return the ``on_epoch`` callback of one trial."""
        if not self.status:
            self._console.print(f"training {name}")
        remaining = RemainingTime()
        last = time.monotonic()

        def on_epoch(epoch: int, entry: dict[str, float]) -> None:
            nonlocal last
            left = remaining(epoch, epochs)
            line = f"{name}: epoch {epoch} of {epochs}, dev weighted F1 {entry['dev_weighted_f1']:.3f}"
            line += f", at most {left} left" if left else ""
            if self.status:
                self.status.update(line)
            elif time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                self._console.print(line)

        return on_epoch


@contextlib.contextmanager
def _epoch_status(console: Console) -> Iterator[_EpochStatus]:
    display = _EpochStatus(console)
    with display.status or contextlib.nullcontext():
        yield display


def _write(folder: TrainingFolder, data: EmbeddedDialogues, best: Trial, page: str, metrics: dict[str, Any]) -> None:
    """Write model, predictions and report, and the metrics last."""
    from mistere.evaluation.split_metrics import write_predictions
    from mistere.model.mixture.prediction import save_mixture

    output = folder.path
    model = output / ".model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    save_mixture(best.trained.model, model)
    description = {
        "labels": data.labels,
        "experts": best.trained.model.experts,
        "temperature": best.trained.temperature,
        "seed": best.seed,
        "dev.weighted_f1": best.trained.dev_weighted_f1,
        "history": best.trained.history,
        "automatic": dict(metrics.get("automatic") or {}),
    }
    (model / "model.json").write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
    test = data.split("test")
    names = [dialogue.dialogue_id for dialogue in test]
    write_predictions(output / ".predictions.parquet", best.answers, [dialogue.labels for dialogue in test], names)
    (output / ".report.html").write_text(page, encoding="utf-8")
    content = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    (output / ".metrics.json").write_text(content, encoding="utf-8")
    (output / "metrics.json").unlink(missing_ok=True)
    shutil.rmtree(output / "model", ignore_errors=True)
    folder.record()
    for name in ("model", "predictions.parquet", "report.html", "metrics.json"):
        (output / f".{name}").replace(output / name)


def _track(tracking_uri: str, profile_config: Config, mixture: MixtureConfig, trials: Sequence[Trial]) -> None:
    from mistere.registry.mlflow.run_logging import log_training

    for trial in trials:
        log_training(
            tracking_uri,
            profile_config.registry.experiment,
            f"train seed {trial.seed}",
            metrics=trial.metrics,
            parameters=changed_settings(mixture) | {"seed": trial.seed},
            history=trial.trained.history,
        )


def _show(
    console: Console, data: EmbeddedDialogues, trials: Sequence[Trial], figures: Figures, ablation: Ablation | None
) -> None:
    from mistere.metrics.expert_gate import collapsed_gate, evenness_words
    from mistere.metrics.gate_trust import trust_sentence
    from mistere.metrics.mixture_gain import gain_from_metrics, gain_sentence
    from mistere.reports.evaluation_view import GATE_WORDS

    several = len(trials) > 1
    metrics = figures.metrics

    def table(*columns: str) -> Table:
        result = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for index, column in enumerate(columns):
            result.add_column(column, justify="right" if index else "left", no_wrap=True)
        return result

    scores = table("test", "weighted F1", "95 % interval", *(["± over seeds"] if several else []))
    for name, interval, std in [("mixture", figures.mixture, figures.std), *figures.rows]:
        scores.add_row(
            name.replace("_", "-"), f"{interval.value:.3f}", f"[{interval.low:.3f}, {interval.high:.3f}]", *([f"{std:.3f}"] if several else []),
            style="bold" if name == "mixture" else "",
        )  # fmt: skip
    console.print()
    console.print(scores)
    for gain, baseline in (
        (figures.gain, "the better single-modality expert"),
        (figures.over_late_fusion, "late fusion"),
    ):
        if gain:
            console.print(
                f"the mixture over {baseline}: {100 * gain.value:+z.1f} points [{100 * gain.low:+z.1f}, {100 * gain.high:+z.1f}]",
                markup=False,
            )
    if simpler := gain_from_metrics(metrics, trials[0].trained.model.experts):
        console.print(f"{gain_sentence(simpler)}.", markup=False)
    classes = table("emotion", "F1", "utterances")
    for label in data.labels:
        classes.add_row(
            terminal_text(label), f"{metrics[f'test.f1.{label}']:.3f}", f"{metrics[f'test.support.{label}']:.0f}"
        )
    console.print()
    console.print(classes)
    gate = table("gate", "mean weight", "leads", "AUC of its weight")
    for name in trials[0].trained.model.experts:
        auc = metrics.get(f"test.gate.{name}.auc")
        gate.add_row(
            name.replace("_", "-"),
            f"{metrics[f'test.gate.{name}.mean']:.2f}",
            percent(metrics[f"test.gate.{name}.led"]),
            "" if auc is None else f"{auc:.2f}",
        )
    console.print()
    console.print(gate)
    if evenness := evenness_words(metrics):
        console.print(f"{evenness}.", markup=False)
    console.print(GATE_WORDS, style="dim")
    if trust := trust_sentence(metrics):
        console.print(trust, markup=False)
    if collapse := collapsed_gate(metrics, trials[0].trained.model.experts):
        console.print(collapse, style="yellow", markup=False)
    if ablation:
        parts = table("without", "weighted F1", "± over seeds", "difference in points")
        for row in ablation.rows:
            if row.difference is None or row.mean is None:
                parts.add_row(row.title, "", "", "no effect")
                continue
            low, high = 100 * row.difference.low, 100 * row.difference.high
            shown = f"{100 * row.difference.value:+z.1f} [{low:+z.1f}, {high:+z.1f}]"
            parts.add_row(row.title, f"{row.mean:.3f}", f"{row.std:.3f}", shown)
        console.print()
        console.print(parts)
