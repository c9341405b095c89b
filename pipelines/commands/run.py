"""``mistere run``: pin the data, start the pipeline here, show its progress, say how it ended."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from components.core.config.whole import Config
from components.core.data_source import PinnedData, pin
from components.core.errors import ExitCode, MistereError
from components.core.outcome import read_outcome
from components.core.source_digest import git_state
from components.core.steps import RunContext
from components.core.store import LocalStore
from pipelines.display import Display, summary
from pipelines.local_run import start
from pipelines.profiles import load_profile, pipeline_arguments


def run(profile: str, data: str | None, settings: Sequence[str], output: Path) -> int:
    """Run the pipeline in this machine's processes.

    Args:
        profile: settings to start from.
        data: a dataset folder or ``.dvc`` file; None for the profile's.
        settings: ``--set`` on top.
        output: folder of the store, the registry and the reports.

    Returns:
        The exit code.
    """
    config = load_profile(profile, settings)
    store = _open_output(output)
    source = data if data is not None else config.data.source
    pinned = pin(source, str(store.root.parent / "data-remote"))
    run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    context = RunContext(
        run_id=run_id,
        store=store.uri,
        tracking_uri=f"sqlite:///{store.root.parent / 'mlflow.db'}",
        data_remote=pinned.remote,
        data_digest=pinned.digest,
        profile=profile,
    )
    folder = store.root.parent / "runs" / run_id
    folder.mkdir(parents=True)
    _write_run_info(store, context, config, source, pinned)
    arguments = folder / "arguments.json"
    arguments.write_text(json.dumps(pipeline_arguments(config, context)), encoding="utf-8")
    process = start(arguments, folder / "kfp", folder / "events.jsonl", folder / "kfp.log")
    _follow(process, folder / "events.jsonl", store, run_id)
    outcome = read_outcome(store, run_id)
    summary(outcome, folder / "kfp.log")
    return outcome.exit_code


def _open_output(output: Path) -> LocalStore:
    root = output.resolve()
    try:
        (root / "store").mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"x" * 65536)
        probe.unlink()
    except OSError as error:
        raise MistereError(
            f"cannot write to {root} ({error.strerror}): choose another folder with --output."
        ) from error
    store = LocalStore(root / "store")
    _sweep(store.local_path("scratch"))
    return store


def _sweep(scratch: Path) -> None:
    """Remove what killed stages left half-made; a folder's name begins with its process."""
    for left in scratch.glob("*-*") if scratch.is_dir() else []:
        process = left.name.split("-", 1)[0]
        if not process.isdigit() or not Path("/proc", process).exists():
            shutil.rmtree(left, ignore_errors=True)


def _write_run_info(store: LocalStore, context: RunContext, config: Config, source: str, pinned: PinnedData) -> None:
    commit, dirty = git_state()
    info = {
        "run_id": context.run_id,
        "profile": context.profile,
        "started": time.time(),
        "config": config.model_dump(mode="json"),
        "command": " ".join(["mistere", *sys.argv[1:]]),
        "commit": commit,
        "dirty": dirty,
        "data": {"source": source, "dvc_digest": pinned.digest},
    }
    store.write(f"runs/{context.run_id}/run.json", json.dumps(info, indent=1).encode())


def _follow(process: subprocess.Popen[bytes], events: Path, store: LocalStore, run_id: str) -> None:
    """Show events until the pipeline's process ends; Ctrl-C ends it too."""
    with Display() as display:
        position = 0
        try:
            while True:
                ended = process.poll() is not None
                if events.is_file():
                    with events.open("rb") as file:
                        file.seek(position)
                        for line in file:
                            if not line.endswith(b"\n"):
                                break
                            position += len(line)
                            display.show(json.loads(line))
                if ended:
                    return
                time.sleep(0.1)
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise MistereError(
                f"interrupted; what has finished is kept in {store.uri}, and the same command goes on from there."
            ) from None


__all__ = ["ExitCode", "run"]
