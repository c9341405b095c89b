"""``mistere score``: scores a whole archive of dialogues with a released model, on this machine."""

from __future__ import annotations

import os
import re
import time as clock
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mistere.artifacts.io import artifact_key
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore, ObjectStore, open_store
from mistere.artifacts.onnx_manifest import is_exported
from mistere.artifacts.s3.probe import use_data_endpoint
from mistere.common.counting import counted, plural
from mistere.common.digests.code import source_digest
from mistere.common.environment import STORE_VARIABLE
from mistere.common.errors import Interrupted, UsageError
from mistere.common.paths import check_folder, missing_folders, removed_if_refused, require_cache
from mistere.config.scoring import ScoringConfig
from mistere.data.local_copies import use_local_copies
from mistere.data.versions import pin
from mistere.registry.release.champion import read_champion
from mistere.scoring.archive import INFO_FILE, Archive, open_archive
from mistere.scoring.call_columns import ArchiveColumns
from mistere.scoring.results import LOCK_FILE, PLAN_FILE, ResultFolder, ScoresSummary, ScoringPlan, ShardSummary
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.output.task_progress import task_progress
from pipelines.cli.registry_location import registry_location, store_location

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.scoring.tables import TableForm

SCORING_CODE = "mistere.scoring.scoring"
"""The module whose code, with all that it reaches, decides the results."""


@dataclass(frozen=True)
class ChosenModel:
    """The bundle to score with, and its version in the registry; empty if unknown."""

    location: str
    version: str = ""


@dataclass(frozen=True)
class ScoringModel:
    """What scores.

    Attributes:
        location: of the bundle, or the folder of an exported model.
        digest: of the bundle.
        store: holds the cache of vectors.
        version: the bundle's version in the registry; empty if unknown.
        exported: digest of the exported model; empty for the bundle itself.
    """

    location: str
    digest: str
    store: ObjectStore
    version: str = ""
    exported: str = ""


def score(
    data: str,
    model: str | None,
    settings: dict[str, Any],
    output: Path,
    to: Path | None = None,
    store: str | None = None,
    tracking: str | None = None,
) -> None:
    """Score an archive and write the tables and the page.

    Args:
        data: a dataset folder, a ``.dvc`` file, a Git revision or a DVC digest.
        model: a version of the registry, a bundle's location, or the folder of an exported model; None for the champion.
        settings: of :class:`ScoringConfig`.
        output: the output directory of ``mistere run``.
        to: folder of the results; None for one below ``output``, by data, model and settings.
        store: the store; None for that of the output directory.
        tracking: the tracking server that belongs to the store.

    Raises:
        UsageError: there is no such model or dataset, they do not fit, or the folder holds other results.
        DataError: the dataset is empty or damaged.
    """
    config = _config(settings)
    chosen = _scoring_model(model, config, output, store, tracking)
    archive = open_data(data)
    columns = ArchiveColumns(tuple(config.by), config.time)
    plan = ScoringPlan(
        dataset=archive.info.name,
        dataset_digest=archive.digest,
        bundle_digest=chosen.digest,
        model_version=chosen.version,
        by=config.by,
        time=config.time,
        undecodable=config.undecodable,
        int8=config.int8,
        exported=chosen.exported,
        code=source_digest(SCORING_CODE),
        shards=archive.shards,
    )
    folder = to or output / "scores" / folder_name(archive, chosen.exported or chosen.digest, config)
    check_folder(folder.resolve(), "the folder of results")
    created = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = ResultFolder(folder)
    with results.locked(), removed_if_refused(created, {PLAN_FILE, LOCK_FILE}):
        plan = results.begin(plan)
        began = clock.monotonic()
        before = results.finished()
        if before is None:
            summary = _Scoring(config, archive, columns, chosen, plan, results).run()
        else:  # the size of the smallest group may be another one
            write_page(results, plan, before.shards, before.labels, config.min_calls)
            summary = results.finish(plan, before.shards, before.labels)
        _show(results, summary, clock.monotonic() - began if before is None else None)


class _Scoring:
    """One scoring."""

    def __init__(
        self,
        config: ScoringConfig,
        archive: Archive,
        columns: ArchiveColumns,
        model: ScoringModel,
        plan: ScoringPlan,
        results: ResultFolder,
    ) -> None:
        self._config, self._archive, self._columns = config, archive, columns
        self._model, self._plan, self._results = model, plan, results
        self._console = OutputConsole(highlight=False, stderr=True)

    def run(self) -> ScoresSummary:
        """Score the shards that are not scored yet, and write the joined tables and the page."""
        from mistere.scoring.archive_check import check_files, check_roles, check_rows
        from mistere.scoring.joining import join_calls, require_turns
        from mistere.scoring.scoring import load_model

        with task_progress("reading the footers of the shards"):
            facts = {shard: self._archive.facts(shard) for shard in self._archive.shards}
        total = sum(fact.rows for fact in facts.values())
        require_turns(total, self._archive.info.name)
        with task_progress("checking the rows") as advance:
            check_files(self._archive)
            check_roles(self._archive)
            check_rows(self._archive, self._archive.shards, self._columns, lambda done: advance("rows", done, total))
        present = frozenset[str]().union(*(fact.modalities for fact in facts.values()))
        with task_progress(f"loading {self._model.location}"):
            model = load_model(self._model.location, self._config.int8, self._model.exported)
        form = self._form(model)
        summaries = self._shards(model, form, present, {shard: fact.rows for shard, fact in facts.items()})
        parts = [self._results.calls_part(one.shard) for one in summaries]
        join_calls(parts, form.calls(), self._results.calls)
        with task_progress("writing the page"):
            write_page(self._results, self._plan, summaries, model.labels, self._config.min_calls)
        return self._results.finish(self._plan, summaries, model.labels)

    def _form(self, model: EmotionModel) -> TableForm:
        from mistere.scoring.tables import TableForm

        return TableForm(model.labels, model.experts, self._columns, self._plan.model_version, model.bundle.digest)

    def _shards(
        self, model: EmotionModel, form: TableForm, present: frozenset[str], rows: dict[str, int]
    ) -> list[ShardSummary]:
        from mistere.scoring.scorer import Scorer, check_modalities
        from mistere.scoring.scoring import score_shards

        if missing := check_modalities(model, self._archive.info.kinds, present):
            self._note(f"the dataset has no {' and no '.join(missing)}: its turns are scored without.")
        summaries: dict[str, ShardSummary] = {}
        for shard in self._archive.shards:
            if (done := self._results.summary_of(shard)) is not None:
                summaries[shard] = done
        if summaries:
            self._note(
                f"{counted(len(summaries), 'shard')} of {len(rows)} {plural(len(summaries), 'was', 'were')} scored before."
            )
        scorer = Scorer(model, self._model.store, self._config.cache, self._config.undecodable)
        total = sum(rows.values())
        with task_progress(f"scoring {counted(total, 'turn')}") as advance:
            finished = sum(rows[shard] for shard in summaries)
            remaining = [shard for shard in self._archive.shards if shard not in summaries]
            scored = score_shards(
                scorer,
                self._archive,
                remaining,
                form,
                self._results.turns_file,
                self._results.calls_part,
                lambda done: advance("turns", finished + done, total),
            )
            try:
                for summary in scored:
                    self._results.remember(summary)
                    summaries[summary.shard] = summary
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; finished shards are kept in {self._results.folder}, and the same command resumes from there."
                ) from None
        return [summaries[shard] for shard in self._archive.shards]

    def _note(self, sentence: str) -> None:
        self._console.print(f"{sentence[:1].upper()}{sentence[1:]}", markup=False, soft_wrap=True)


def write_page(
    results: ResultFolder, plan: ScoringPlan, shards: Sequence[ShardSummary], labels: Sequence[str], min_calls: int
) -> None:
    """Write ``scores.html``."""
    from mistere.reports.scores.page import render_scores

    page = render_scores(plan, shards, results.calls, results.turns_file, labels, min_calls)
    partial = results.page.with_name(f".{results.page.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(results.page)


def _scoring_model(
    model: str | None, config: ScoringConfig, output: Path, store: str | None, tracking: str | None
) -> ScoringModel:
    """The bundle, or the exported model, that ``--model`` names."""
    if model is None or not is_exported(model):
        chosen = choose_model(model, output, store, tracking)
        root, digest = split_bundle_location(chosen.location)
        return ScoringModel(chosen.location, digest, open_store(root), chosen.version)
    if config.int8:
        raise UsageError(
            f"--int8 is for bundles, and {model} is an exported model: leave it out, or name one that was exported with `mistere export --int8`."
        )
    from mistere.model.onnx.loading import verify_onnx

    exported = verify_onnx(Path(model)).manifest
    if store or os.environ.get(STORE_VARIABLE) or (output / "store").is_dir():
        place = store_location(output, store)
    else:  # an exported model needs no run, and no store
        place = LocalStore(output.resolve() / "scores")
    return ScoringModel(model, exported.bundle_digest, place, exported=exported.digest)


def choose_model(model: str | None, output: Path, store: str | None, tracking: str | None) -> ChosenModel:
    """The bundle that a reference names.

    Raises:
        UsageError: there is no such version, or no champion.
    """
    if model is not None and (model.startswith("s3://") or "/artifacts/" in model or Path(model).is_dir()):
        split_bundle_location(model)
        return ChosenModel(model)
    if model is not None:
        location = registry_location(output, store, tracking)
        version, lineage = location.find(model, "mistere")
        return ChosenModel(
            location.store.location(artifact_key(ModelBundle.__name__, lineage.bundle_digest)), version.version
        )
    place = store_location(output, store)
    champion = read_champion(place).champion
    if champion is None:
        raise UsageError(
            f"no model has been released in {place.uri}: name one with --model, or run the pipeline first."
        )
    return ChosenModel(
        place.location(artifact_key(ModelBundle.__name__, champion.bundle_digest)), champion.model_version
    )


def open_data(data: str) -> Archive:
    """Open the data; a folder is read where it is, and any other version through DVC."""
    require_cache()
    if (Path(data) / INFO_FILE).is_file():
        return open_archive(data)
    pinned = pin(data, "")
    use_data_endpoint(pinned.endpoint)
    with suppress(UsageError):
        use_local_copies(pinned)
    return open_archive(pinned.remote, pinned.digest)


def _config(settings: dict[str, Any]) -> ScoringConfig:
    try:
        return ScoringConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}.") from error


def folder_name(archive: Archive, bundle_digest: str, config: ScoringConfig) -> str:
    """The folder of a scoring, so that other data, another model or other settings get another one.

    Args:
        archive: what is scored.
        bundle_digest: of the model.
        config: a digest of what differs from the defaults, and changes the tables, is part of the name.
    """
    decisive, plain = (
        one.model_dump(mode="json", exclude=set(ScoringConfig.outside_key)) for one in (config, ScoringConfig())
    )
    chosen = {name: value for name, value in decisive.items() if value != plain[name]}
    suffix = f"-{canonical_digest(chosen)[:8]}" if chosen else ""
    return f"{_slug(archive.info.name)}-{archive.digest[:8]}-{bundle_digest[:8]}{suffix}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "dataset"


def _show(results: ResultFolder, summary: ScoresSummary, seconds: float | None) -> None:
    console = OutputConsole(highlight=False)
    turns, calls = sum(one.turns for one in summary.shards), sum(one.calls for one in summary.shards)
    model = f"version {summary.plan.model_version}" if summary.plan.model_version else "the model"
    state = "had been scored before" if seconds is None else f"scored in {seconds:.0f} s"
    lines = [
        f"{counted(turns, 'turn')} in {counted(calls, 'call')} {state} with {model} (bundle {summary.plan.bundle_digest[:12]})"
    ]
    undecodable = sum(one.undecodable for one in summary.shards)
    if undecodable:
        named = next(sentence for one in summary.shards for sentence in one.named)
        lines.append(
            f"{counted(undecodable, 'value')} {plural(undecodable, 'does', 'do')} not decode and {plural(undecodable, 'is', 'are')} left "
            f"out, first: {named}"
        )
    lines += [f"turns    {results.folder / 'turns'}", f"calls    {results.calls}", f"page     {results.page}"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
