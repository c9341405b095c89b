"""``mistere run``: pins the data, runs the pipeline on this machine with a progress display, and prints the outcome."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.probe import use_data_endpoint
from mistere.artifacts.signing import SIGNING_KEY_VARIABLE, check_signer
from mistere.common.digests.code import git_state, name_files, uncommitted_files
from mistere.common.errors import Interrupted, MistereError
from mistere.common.parsing.documents import load_json
from mistere.common.paths import check_folder, missing_folders, removed_if_refused, sqlite_url
from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.run_locks import LOCK_FILES, only_run
from mistere.common.secrets.credentials import without_credentials
from mistere.common.secrets.private_files import write_private
from mistere.config.loader import Config
from mistere.data.local_copies import use_local_copies
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, new_run_id
from mistere.runs.outcome import has_stages, read_outcome
from mistere.runs.run_info import RunOrigin, write_run_info
from mistere.serving.kserve.supported_settings import check_support
from pipelines.cli.drift import DriftGuard, drift_guard
from pipelines.cli.output.console import print_text
from pipelines.cli.output.release_notice import release_notice
from pipelines.cli.output.run_display import Display, summary
from pipelines.cli.registry_location import DATABASE
from pipelines.local_runner import LocalPipeline, start
from pipelines.profiles import load_local_profile, pipeline_arguments

_REPORT_SECONDS: Final = 30.0
"""Seconds between two reports of the running steps, without a terminal."""


def run(
    profile: str,
    data: str | None,
    settings: Sequence[str],
    output: Path,
    tracking: str | None = None,
    *,
    if_drifted: bool = False,
) -> int:
    """Run the pipeline in local processes.

    Args:
        profile: settings to start from.
        data: a dataset directory or ``.dvc`` file; None for the profile's.
        settings: ``--set`` on top.
        output: directory of the store, the registry and the reports.
        tracking: the MLflow server; None for a database in ``output``.
        if_drifted: run only if the champion's traffic has drifted, once for each drift, with the reason in the run's record.

    Returns:
        The exit code.
    """
    config = load_local_profile(profile, settings)
    child_environment()  # refuses a folder of the code that the stages could not be started in
    created = missing_folders(output.resolve())
    store = _open_output(output)
    with only_run(store.root.parent) as lock, removed_if_refused(created, LOCK_FILES):
        _delete_partial_outputs(store)
        drift = drift_guard(store) if if_drifted else None
        if if_drifted and drift is None:
            return 0
        tracking = tracking or sqlite_url(store.root.parent / DATABASE)
        return _run(config, store, lock, profile, data, tracking, drift)


def _run(
    config: Config,
    store: LocalStore,
    lock: IO[str],
    profile: str,
    data: str | None,
    tracking: str,
    drift: DriftGuard | None,
) -> int:
    check_support(config.deployment, store.uri)
    check_signer(
        config.deployment.bundle_key,
        os.environ.get(SIGNING_KEY_VARIABLE, ""),
        f"{SIGNING_KEY_VARIABLE} to the path of the private key",
    )
    commit, dirty = git_state()
    uncommitted = name_files(uncommitted_files()) if dirty else ""
    if notice := release_notice(config.gate, commit, dirty, uncommitted):
        print_text(notice)
    source = data if data is not None else config.data.source
    pinned = pin(source, str(store.root.parent / "data-remote"))
    use_data_endpoint(pinned.endpoint)
    use_local_copies(pinned)
    run_id = new_run_id()
    # No other process starts a run in this output directory, and a run of which no stage began is none.
    if drift is not None and not drift.claim(run_id, lambda earlier: has_stages(store, earlier)):
        return 0
    context = RunContext(
        run_id=run_id,
        store=store.uri,
        tracking_uri=without_credentials(tracking),
        data_remote=pinned.remote,
        data_digest=pinned.digest,
        profile=profile,
        commit=commit,
        dirty=dirty,
        uncommitted=uncommitted,
    )
    folder = store.root.parent / "runs" / run_id
    origin = RunOrigin.of(config, ["mistere", *sys.argv[1:]], source, pinned, drift.reason if drift else "")
    try:
        folder.mkdir(mode=0o700, parents=True)
        write_run_info(store, context, origin)
        arguments = folder / "arguments.json"
        write_private(arguments, json.dumps(pipeline_arguments(config, context)))
        pipeline = start(arguments, folder / "kfp", folder / "events.jsonl", folder / "kfp.log", lock)
    except BaseException:
        if drift is not None:
            drift.give_back(run_id)
        raise
    if drift is not None:
        drift.confirm(run_id)
    _follow(pipeline, folder / "events.jsonl", store)
    pipeline.complete_log()
    outcome = read_outcome(store, run_id)
    summary(outcome, store.root.parent, folder / "kfp.log")
    return outcome.exit_code


def _open_output(output: Path) -> LocalStore:
    root = output.resolve()
    check_folder(root, "--output")
    try:
        (root / "store").mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 65536)
        probe.unlink()
    except OSError as error:
        raise MistereError(
            f"cannot write to {root} ({error.strerror}): choose another folder with --output."
        ) from error
    return LocalStore(root / "store")


def _delete_partial_outputs(store: LocalStore) -> None:
    """Delete the partial outputs of killed stages; the lock excludes that another run writes them."""
    partial = [*store.local_path("scratch").glob("*"), *store.local_path("artifacts").glob("*/.*")]
    for directory in partial:
        shutil.rmtree(directory, ignore_errors=True)


def _follow(pipeline: LocalPipeline, events: Path, store: LocalStore) -> None:
    """Show events until the pipeline's process ends. Ctrl-C, SIGTERM and SIGHUP kill it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with Display(starts=True) as display:
        position = 0
        last_report = time.monotonic()
        try:
            while True:
                ended = pipeline.process.poll() is not None
                if events.is_file():
                    with events.open("rb") as file:
                        file.seek(position)
                        for line in file:
                            if not line.endswith(b"\n"):
                                break
                            position += len(line)
                            with suppress(ValueError, LookupError):  # a line that a killed stage cut short
                                display.show(load_json(line))
                if ended:
                    return
                if time.monotonic() - last_report > _REPORT_SECONDS:
                    display.report_running()
                    last_report = time.monotonic()
                time.sleep(0.1)
        except KeyboardInterrupt:
            pipeline.kill()
            raise Interrupted(
                f"interrupted; finished steps are kept in {store.uri}, and the same command resumes from there."
            ) from None
        except SystemExit:  # nothing reads the output any more
            pipeline.kill()
            raise
