"""``mistere data check``: validates a dataset directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.text import Text

from components.validate_data.dataset import Declared
from components.validate_data.facts.dataset_facts import ShardFile, gather
from components.validate_data.facts.profile import profile_of
from components.validate_data.facts.shard_facts import FactsCache
from components.validate_data.run import REPORT, write_report
from components.validate_data.validation import validate
from components.validate_data.verdict import Validation
from mistere.artifacts.object_store import LocalStore
from mistere.common.counting import counted
from mistere.common.digests.files import digest_once
from mistere.common.errors import ExitCode, UsageError
from mistere.common.paths import cache_directory
from mistere.common.processes.partial_folders import delete_partial_folders, partial_folder
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationSettings
from mistere.data.dataset import load_info, shards_of
from mistere.data.profile import Profile
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.output.task_progress import task_progress
from pipelines.profiles import load_profile

_COLOURS = {"pass": "bold green", "warn": "bold yellow", "reject": "bold red"}


def check(
    directory: Path, profile: str, settings: Sequence[str], against: Path | None, quarantine: bool, output: Path
) -> int:
    """Validate a dataset directory, write the report and print the verdict.

    Args:
        directory: the dataset.
        profile: settings to start from.
        settings: ``--set`` on top.
        against: a dataset to measure drift against, or None.
        quarantine: exclude dialogues with blocking findings.
        output: directory of the report; replaced once the new one is complete.

    Returns:
        The exit code: 0, or 4 if the dataset is rejected.
    """
    config = load_profile(profile, settings).validation
    if output.is_dir() and any(output.iterdir()) and not (output / REPORT).is_file():
        raise UsageError(f"{output} is not empty and holds no validation report: choose another --output.")
    if quarantine:
        config = config.model_copy(update={"quarantine": True})
    with task_progress(f"reading {directory}") as advance:
        before = _profile(against, config, advance) if against else None
        declared, files, cache = _opened(directory, config)
        validation = validate(files, declared, config, before=before, cache=cache, on_progress=advance)
    _replace(output, validation, files)
    _print_verdict(validation, output)
    return int(ExitCode.DATA_REJECTED) if validation.verdict == "reject" else 0


def _opened(directory: Path, config: ValidationSettings) -> tuple[Declared, list[ShardFile], FactsCache]:
    """What ``dataset.yaml`` declares, the shards, and the cache of facts about them."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory: name a dataset in the dataset form.")
    info = load_info(directory / "dataset.yaml")
    files = [
        ShardFile(split, path, path.name, digest_once(path, "md5"))
        for split in SPLITS
        for path in shards_of(directory.iterdir(), split)
    ]
    cache = FactsCache(LocalStore(cache_directory("validation")), info.language, config.silence_dbfs, info.modalities)
    declared = Declared(
        info.name, info.labels, info.language, info.speaker_disjoint, info.modalities, info.predict_roles
    )
    return declared, files, cache


def _profile(directory: Path, config: ValidationSettings, advance: Callable[[str, float, float], None]) -> Profile:
    """Statistics of a dataset, without validating it."""
    declared, files, cache = _opened(directory, config)
    facts = gather(files, declared, config.silence_dbfs, config.max_quiet, cache=cache, on_progress=advance)
    return profile_of(facts, declared.name, declared.labels)


def _replace(output: Path, validation: Validation, files: list[ShardFile]) -> None:
    """Write the report to a temporary directory, then replace the previous one."""
    delete_partial_folders(output)
    aside = partial_folder(output)
    aside.mkdir(parents=True)
    try:
        write_report(validation, files, aside, "")
        shutil.rmtree(output, ignore_errors=True)
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _print_verdict(validation: Validation, output: Path) -> None:
    console = OutputConsole(highlight=False, soft_wrap=True)
    console.print(Text(validation.verdict.upper(), style=_COLOURS[validation.verdict]))
    for sentence in validation.failed:
        console.print(f"  must be fixed: {sentence}", markup=False)
    for sentence in validation.warnings:
        console.print(f"  warning: {sentence}", markup=False)
    if validation.with_quarantine:
        console.print(f"  {validation.with_quarantine}", markup=False)
    tolerated = sum(outcome.unexpected for outcome in validation.tolerated)
    if tolerated:
        console.print(
            f"  tolerated: {counted(tolerated, 'row')} below the allowed shares, listed in the report", markup=False
        )
    checked = sum(outcome.status != "not checked" for outcome in validation.outcomes)
    console.print(
        f"{counted(len(validation.facts.utterances), 'utterance')}, {counted(checked, 'expectation')} checked; report {output / REPORT}",
        markup=False,
    )
