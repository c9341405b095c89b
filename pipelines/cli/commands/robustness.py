"""``mistere robustness``: what the effects of real calls cost a model, beside the champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifest import canonical_digest
from mistere.common.counting import counted
from mistere.common.errors import DataError, ExitCode, UsageError
from mistere.common.paths import check_folder
from mistere.common.splits import SPLITS
from mistere.common.suggestions import did_you_mean
from mistere.data.calls.catalogue import effects_named
from mistere.scoring.archive import Archive
from pipelines.cli.commands.score import ChosenModel, choose_model, open_data
from pipelines.cli.output.console import OutputConsole, harmless_json
from pipelines.cli.output.task_progress import task_progress
from pipelines.cli.split_dialogues import SplitDialogues

if TYPE_CHECKING:
    from mistere.evaluation.call_report import CallReport
    from mistere.model.dialogue_model import EmotionModel

NO_MODEL: Final = "none"
"""Instead of a model beside the measured one."""
JSON_FILE: Final = "robustness.json"
PAGE_FILE: Final = "robustness.html"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        data: a dataset folder, a ``.dvc`` file, a Git revision or a DVC digest.
        split: the split to measure on.
        effects: names of effects; empty for all.
        dialogues: the first dialogues of the split, at most as many.
        seed: of the effects and the resamples.
        resamples: of the dialogues, for the intervals.
        max_loss: what a level may be shown to lose against the model beside; None for any.
    """

    data: str
    split: str = "test"
    effects: Sequence[str] = ()
    dialogues: int = 40
    seed: int = 0
    resamples: int = 2000
    max_loss: float | None = None


def robustness(
    request: Request,
    model: str | None,
    beside: str | None,
    output: Path,
    to: Path | None = None,
    store: str | None = None,
    tracking: str | None = None,
    *,
    as_json: bool = False,
) -> int:
    """Measure, write JSON and page, and print a summary.

    Args:
        request: data and settings.
        model: a version of the registry, or a bundle's location; None for the champion.
        beside: the model beside it, named likewise, or ``none``; None for the champion, if that is another one.
        output: the output directory of ``mistere run``.
        to: folder of the results; None for one below ``output``.
        store: the store; None for that of the output directory.
        tracking: the tracking server that belongs to the store.
        as_json: print the JSON instead of a summary.

    Returns:
        0, or 3 if a level is shown to lose more than allowed.

    Raises:
        UsageError: a model, dataset, split or effect does not exist, or they do not fit each other.
        DataError: the dataset is damaged, or the split has no labelled turn.
    """
    if request.split not in SPLITS:
        raise UsageError(f"--split: there is no split {request.split!r}{did_you_mean(request.split, SPLITS)}")
    effects = effects_named(request.effects)
    chosen = choose_model(model, output, store, tracking)
    other = _beside(chosen, beside, output, store, tracking)
    if request.max_loss is not None and isinstance(other, str):  # a comparison that never happens must not pass
        raise UsageError(
            f"--max-loss compares with another model, and there is none ({other}): name one with --beside."
        )
    archive = open_data(request.data)
    digest = split_bundle_location(chosen.location)[1]
    folder = to or output / "robustness" / folder_name(digest, archive.digest, request, other)
    check_folder(folder.resolve(), "the folder of results")

    from mistere.evaluation.call_report import CallReport, ReportedModel, clean_report, effect_reports
    from mistere.evaluation.calls import CallMeasurement, CallSettings
    from mistere.reports.calls.page import render_calls

    dialogues = SplitDialogues(archive, request.split, request.dialogues)
    with task_progress(f"loading {chosen.location}"):
        measured = _load(chosen, archive)
    compared: EmotionModel | None = None
    without = other if isinstance(other, str) else ""
    if isinstance(other, ChosenModel):
        try:
            compared = _load(other, archive)
        except UsageError as error:
            if beside is not None:
                raise
            without = f"the champion does not fit, because {str(error).rpartition(': ')[0] or error}"
            if request.max_loss is not None:
                raise UsageError(
                    f"--max-loss compares with another model, and {without}: name one with --beside."
                ) from error
    settings = CallSettings(effects, request.resamples, request.seed)
    with task_progress("reading the dialogues"):
        measurement = CallMeasurement(dialogues, archive.info.labels, settings)
    if not measurement.turns:
        raise DataError(
            f"the {request.split} split of {archive.info.name} has no turn with a label: name another split."
        )
    with task_progress(f"measuring {counted(measurement.dialogues, 'dialogue')}") as advance:
        figures = measurement.measure(measured, compared, advance)
    if request.max_loss is not None and all(level.difference is None for level in figures.levels.values()):
        raise UsageError(
            "--max-loss compares with another model, and the one beside reads nothing that the measured effects change: name another one "
            "with --beside, or other effects with --effect."
        )
    report = CallReport(
        dataset=archive.info.name,
        dataset_digest=archive.digest,
        split=request.split,
        dialogues=measurement.dialogues,
        turns=measurement.turns,
        seed=request.seed,
        resamples=request.resamples,
        model=ReportedModel(bundle_digest=digest, version=chosen.version),
        beside=ReportedModel(bundle_digest=split_bundle_location(other.location)[1], version=other.version)
        if isinstance(other, ChosenModel) and compared
        else None,
        without_beside=without,
        clean=clean_report(figures.clean),
        effects=effect_reports(effects, figures),
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = report.model_dump_json(indent=1) + "\n"
    page = render_calls(report)
    (folder / JSON_FILE).unlink(missing_ok=True)  # of an earlier measurement, to which the new page would not belong
    _write(folder / PAGE_FILE, page)
    _write(folder / JSON_FILE, text)  # last: its presence means that both are complete
    if as_json:
        print(harmless_json(text), end="")
    else:
        _show(report, folder)
    return _verdict(report, request.max_loss)


def folder_name(bundle_digest: str, dataset_digest: str, request: Request, beside: ChosenModel | str) -> str:
    """The folder of a measurement, so that one does not replace the results of another.

    Args:
        bundle_digest: of the measured model.
        dataset_digest: of the dataset.
        request: what is asked for; a digest of what differs from the defaults is part of the name.
        beside: the model beside it, or why there is none.
    """
    plain = _settings(Request(request.data))
    asked = {name: value for name, value in _settings(request).items() if value != plain[name]}
    if isinstance(beside, ChosenModel):
        asked["beside"] = split_bundle_location(beside.location)[1]
    suffix = f"-{canonical_digest(asked)[:8]}" if asked else ""
    return f"{bundle_digest[:8]}-{dataset_digest[:8]}-{request.split}{suffix}"


def _settings(request: Request) -> dict[str, Any]:
    """What the figures of a measurement depend on besides models, dataset and split."""
    return {
        "effects": sorted(set(request.effects)),
        "dialogues": request.dialogues,
        "seed": request.seed,
        "resamples": request.resamples,
    }


def _beside(
    chosen: ChosenModel, beside: str | None, output: Path, store: str | None, tracking: str | None
) -> ChosenModel | str:
    """The model beside the measured one, or why there is none."""
    if beside == NO_MODEL:
        return "none was asked for"
    if beside is not None:
        return choose_model(beside, output, store, tracking)
    try:
        champion = choose_model(None, output, store, tracking)
    except UsageError:
        return "there is no champion"
    same = split_bundle_location(champion.location)[1] == split_bundle_location(chosen.location)[1]
    return "the model is the champion" if same else champion


def _load(chosen: ChosenModel, archive: Archive) -> EmotionModel:
    """Load a model that fits the dataset.

    Raises:
        UsageError: it takes vectors, lacks the dataset's modalities, or has other labels.
    """
    from mistere.model.inference import load_bundle
    from mistere.scoring.scorer import check_modalities

    model = load_bundle(chosen.location)
    present = frozenset[str]().union(*(archive.facts(shard).modalities for shard in archive.shards))
    check_modalities(model, archive.info.kinds, present)
    if model.labels != archive.info.labels:
        raise UsageError(
            f"the labels of the model ({', '.join(model.labels)}) are not those of {archive.info.name} "
            f"({', '.join(archive.info.labels) or 'none'}): choose another model or dataset."
        )
    return model


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _verdict(report: CallReport, max_loss: float | None) -> int:
    if max_loss is None or not report.shown_losses(max_loss):
        return ExitCode.DEPLOYED
    return ExitCode.NOT_PROMOTED


def _show(report: CallReport, folder: Path) -> None:
    from mistere.reports.calls.summary import summary_lines

    console = OutputConsole(highlight=False)
    for line in (*summary_lines(report), f"figures  {folder / JSON_FILE}", f"page     {folder / PAGE_FILE}"):
        console.print(line, markup=False, soft_wrap=True)
