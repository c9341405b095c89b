"""``mistere replay``: reproduce a model from its lineage alone and compare the metrics."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import EvaluationReport
from mistere.artifacts.object_store import LocalStore
from mistere.common.digests.code import git_state
from mistere.common.digests.git_problems import missing_commit
from mistere.common.errors import ExitCode, MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT, require_checkout
from mistere.common.processes.child_environment import child_environment
from mistere.common.secrets.private_files import open_private
from mistere.data.dvc_remote import remote_settings
from mistere.registry.lineage import Environment, Lineage, this_environment
from mistere.runs.outcome import FINISHED, Outcome, read_outcome
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.registry_location import RegistryLocation
from pipelines.combined_steps import TRANSCRIBED

TOLERANCE = 1e-6
_LOCKS = ("requirements.lock", "requirements-encoders.lock")
_ARTIFACTS = {
    "utterances": ("validate_data", "accepted"),
    "speech encoder": ("finetune_encoder-speech", "encoder"),
    "text encoder": ("finetune_encoder-text", "encoder"),
    "mixture": ("train_moe", "model"),
}
"""Task and output that each artifact comes from, in the pipeline's order."""
_CONSOLE = OutputConsole(highlight=False)


def replay(location: RegistryLocation, reference: str, model_name: str, work: Path) -> int:
    """Reproduce the model and compare.

    The data comes from its remote at the recorded digest, the code from a fresh worktree at the recorded commit, run in an
    environment of that commit's lock. Nothing of the first run is read before its metrics are compared.

    Args:
        location: store and registry.
        reference: the version.
        model_name: the model, if the reference names none.
        work: directory of the second run; a replay that was killed resumes from there.

    Returns:
        0 where the metrics are the same to 1e-6, else 3.

    Raises:
        MistereError: it cannot be reproduced, or the second run failed.
        UsageError: the code is installed as a package, or the commit is not in this clone.
    """
    require_checkout("mistere replay")
    version, lineage = location.find(reference, model_name)
    _check_reproducible(version.version, lineage)
    first = read_manifest(location.store, EvaluationReport, lineage.evaluation_digest)
    work = work.resolve() / lineage.bundle_digest[:12]
    with _worktree(lineage.run.commit, work / "tree") as tree:
        _say(
            f"replaying version {version.version} of {version.name}: commit {lineage.run.commit[:12]}, data {lineage.dvc_digest}"
        )
        python = _environment(tree)
        outcome = _run_again(lineage, tree, python, work)
    store = LocalStore(work / "output" / "store")
    second = _evaluation(store, outcome)
    differences = different_metrics(first.metrics, second.metrics)
    now = this_environment().model_copy(update={"device": _device(second)})
    report = {
        "model": version.name,
        "version": version.version,
        "bundle_digest": lineage.bundle_digest,
        "same": not differences,
        "compared": sum(1 for name in first.metrics if name.startswith("test.")),
        "tolerance": TOLERANCE,
        "differences": {name: list(pair) for name, pair in differences.items()},
        "same_bundle": outcome.bundle_digest == lineage.bundle_digest if outcome.bundle_digest else None,
        "artifacts": _compared_artifacts(lineage, outcome),
        "environment": {"then": lineage.environment.model_dump(), "now": now.model_dump()},
        "run": outcome.run_id,
    }
    file = work / "replay.json"
    file.write_text(json.dumps(report, indent=1), encoding="utf-8")
    _print_report(report, lineage.environment, now, file)
    return 0 if report["same"] else int(ExitCode.NOT_PROMOTED)


def different_metrics(
    first: Mapping[str, float], second: Mapping[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    """The test metrics that differ by more than the tolerance, or that one of the two lacks; the largest difference first."""
    names = {name for name in (*first, *second) if name.startswith("test.")}
    differing = {}
    for name in names:
        first_value, second_value = first.get(name), second.get(name)
        if first_value is None or second_value is None or not abs(first_value - second_value) <= TOLERANCE:
            differing[name] = (first_value, second_value)

    def size(name: str) -> tuple[float, str]:
        first_value, second_value = differing[name]
        return (
            -abs(first_value - second_value) if first_value is not None and second_value is not None else float("-inf"),
            name,
        )

    return {name: differing[name] for name in sorted(differing, key=size)}


def _check_reproducible(version: str, lineage: Lineage) -> None:
    if lineage.teacher is not None:
        raise MistereError(
            f"version {version} is a student of {lineage.teacher}, and only retrainings are replayed: `mistere distill` with the bundle "
            f"{lineage.teacher.bundle_digest[:12]}, the same data and the settings in its lineage makes it again."
        )
    if not lineage.reproducible:
        state = "with uncommitted changes" if lineage.run.commit else "outside a Git repository"
        raise MistereError(
            f"version {version} was made from code {state}: no commit holds it, so it cannot be reproduced; train "
            "a version from committed code."
        )
    if lineage.embeddings:
        raise MistereError(
            f"version {version} was trained on the vectors in {lineage.embeddings}, not by a run: `mistere train` with them and the "
            "settings in its lineage makes it again."
        )
    if not lineage.config:
        raise MistereError(
            f"version {version} has no configuration in its lineage, so it cannot be reproduced; choose a later "
            "version."
        )
    if lineage.data_endpoint:
        os.environ.setdefault("AWS_ENDPOINT_URL_S3", lineage.data_endpoint)


@contextmanager
def _worktree(commit: str, tree: Path) -> Iterator[Path]:
    """A fresh working tree of the project at a commit, removed afterwards."""
    if not git_state()[0]:
        reason, fix = missing_commit()
        raise UsageError(f"mistere replay needs the repository of the code, and {reason}: {fix}.")
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UsageError(
            f"the commit {commit[:12]} is not in this clone ({PROJECT_ROOT}): fetch it (`git fetch --all`) and run again."
        )
    _remove(tree)
    done = _git("worktree", "add", "--detach", "--force", str(tree), commit)
    if done.returncode:
        raise MistereError(
            f"Git could not make a working tree at {commit[:12]} ({done.stderr.strip().splitlines()[-1]}): correct "
            "that, or choose another --work."
        )
    try:
        yield tree
    finally:
        _remove(tree)


def _remove(tree: Path) -> None:
    _git("worktree", "remove", "--force", str(tree))
    shutil.rmtree(tree, ignore_errors=True)
    _git("worktree", "prune")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
        )
    except OSError as error:
        raise MistereError(
            f"Git is needed to make a working tree at the model's commit ({error}): install Git."
        ) from error


def _environment(tree: Path) -> Path:
    """A Python with the versions of the tree's lock: this one if the locks are equal, else one installed for the tree."""
    if _locks(tree) == _locks(PROJECT_ROOT):
        return Path(sys.executable)
    _say("the lock differs from this environment's: installing a separate one (takes minutes and a package index)")
    if subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=tree, check=False).returncode:
        raise MistereError(
            f"the environment of commit {tree.name} could not be installed from its lock; see the output above."
        )
    return tree / ".venv" / "bin" / "python"


def _locks(tree: Path) -> list[str]:
    files = [tree / name for name in _LOCKS]
    return [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]


def _run_again(lineage: Lineage, tree: Path, python: Path, work: Path) -> Outcome:
    """Run the pipeline with the tree's own command, its output shown."""
    profile = work / "profile.yaml"
    profile.write_text(yaml.safe_dump(lineage.config, sort_keys=False), encoding="utf-8")
    data = _pinned_data(lineage, work)
    output = work / "output"
    command = [str(python), "-m", command_module(tree), "run", "--profile", str(profile), "--data", str(data)]
    done = subprocess.run([*command, "--output", str(output)], cwd=tree, env=child_environment(tree), check=False)
    runs = sorted((output / "store" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    if done.returncode not in (ExitCode.DEPLOYED, ExitCode.NOT_PROMOTED) or not runs:
        raise MistereError(
            f"the second run ended without an evaluation (exit code {done.returncode}); see its output above."
        )
    return read_outcome(LocalStore(output / "store"), runs[-1].parent.name)


def command_module(tree: Path) -> str:
    """The module that is the command in a working tree: older commits have no package ``mistere``."""
    return "mistere" if (tree / "mistere" / "__main__.py").is_file() else "pipelines.cli"


def _pinned_data(lineage: Lineage, work: Path) -> Path:
    """A ``.dvc`` file that pins the recorded digest, in a project whose default remote is the recorded one."""
    from configobj import ConfigObj  # what DVC writes its configuration with, but only ASCII

    config = ConfigObj(encoding="utf-8", interpolation=False)
    config["core"] = {"no_scm": "True", "remote": "recorded"}
    config['remote "recorded"'] = remote_settings(lineage.data_remote, lineage.data_endpoint)
    (work / ".dvc").mkdir(exist_ok=True)
    with open_private(work / ".dvc" / "config") as file:
        config.write(file)
    tracked = work / "data.dvc"
    tracked.write_text(
        yaml.safe_dump({"outs": [{"md5": lineage.dvc_digest, "hash": "md5", "path": "data"}]}), encoding="utf-8"
    )
    return tracked


def _evaluation(store: LocalStore, outcome: Outcome) -> EvaluationReport:
    record = outcome.finished("evaluate_model")
    if record is None:
        raise MistereError(
            f"the second run ended without an evaluation: {' '.join(outcome.reasons)} See its output above."
        )
    return read_manifest(store, EvaluationReport, record.outputs["report"])


def _compared_artifacts(lineage: Lineage, outcome: Outcome) -> dict[str, dict[str, str]]:
    """Digests of both runs, in the pipeline's order."""
    digests = {}
    finished = {stage.task: stage for stage in outcome.stages if stage.status in FINISHED}
    sources = {**_ARTIFACTS, **({"utterances": TRANSCRIBED} if TRANSCRIBED[0] in finished else {})}
    for name, (task, output) in sources.items():
        record = finished.get(task)
        digests[name] = {
            "then": lineage.artifacts.get(name, ""),
            "now": record.outputs.get(output, "") if record else "",
        }
    return digests


def _device(evaluation: EvaluationReport) -> str:
    return evaluation.made_by.device if evaluation.made_by else ""


def _print_report(report: Mapping[str, Any], then: Environment, now: Environment, file: Path) -> None:
    if report["same"]:
        bundle = ", and the bundle is identical" if report["same_bundle"] else ""
        _say(f"SAME: all {report['compared']} test metrics agree to {TOLERANCE:g}{bundle}.")
    else:
        differences = report["differences"]
        _say(f"DIFFERENT: {len(differences)} of {report['compared']} test metrics differ by more than {TOLERANCE:g}.")
        for name, (first_value, second_value) in list(differences.items())[:10]:
            _say(f"  {name}: {_number(first_value)} then, {_number(second_value)} now")
        changed = [name for name, pair in report["artifacts"].items() if pair["then"] != pair["now"]]
        _say(
            f"The first artifact that differs: {changed[0]}."
            if changed
            else "All artifacts before the evaluation are equal."
        )
    environment = [
        f"{field}: {before or 'unknown'} then, {after or 'unknown'} now"
        for field, before in then.model_dump().items()
        if (after := getattr(now, field)) != before
    ]
    if environment:
        _say("The environment differs, which can change the last digits:")
        for sentence in environment:
            _say(f"  {sentence}")
    _say(f"report   {file}")


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.8f}"


def _say(sentence: str) -> None:
    _CONSOLE.print(sentence, markup=False, soft_wrap=True)
