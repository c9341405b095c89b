"""This machine: Python and its packages, disk, memory, and the Git tree that a run starts from."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mistere.common.digests.code import git_state, name_files, uncommitted_files
from mistere.common.digests.git_problems import missing_commit
from mistere.common.errors import UsageError
from mistere.common.paths import LOCK_FILE, cache_directory, require_cache
from mistere.kubernetes.images import IMAGES_LOCK
from mistere.serving.kserve.supported_settings import check_cluster_support, check_release_time, stream_limit
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, note, ok, refused
from pipelines.cli.output.release_notice import release_notice

_GIB = 2**30
_DISK_BYTES, _MEMORY_BYTES = 5 * _GIB, 3 * _GIB
_MOST_NAMED = 3


def group(plan: Plan) -> CheckGroup:
    """The checks of this machine."""
    return CheckGroup(
        "This machine",
        [
            Check("Python", _python),
            Check("packages", lambda: _packages(plan)),
            Check("disk", _disk),
            Check("memory", _memory),
            Check("Git", lambda: _git(plan)),
            Check("image lock", lambda: _image_lock(plan)),
            Check("deployment", lambda: _deployment(plan)),
        ],
    )


def _python() -> CheckResult:
    running = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return ok(f"{running}.")
    return failed(
        f"this is Python {running}, and the code supports 3.11 and 3.12: run `make clean setup PYTHON=python3.11`."
    )


def _packages(plan: Plan) -> CheckResult:
    """Whether the installed packages are those of the lock file; pods use the images' packages instead."""
    if not LOCK_FILE.is_file():
        return note("installed as a package: there is no lock file to compare the installed versions with.")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.!]+)", LOCK_FILE.read_text(encoding="utf-8"), re.MULTILINE))
    other = [
        f"{name} {installed or 'missing'}"
        for name, pin in pinned.items()
        if (installed := _installed_version(name)) != pin
    ]
    if not other:
        return ok(f"all {len(pinned)} as {LOCK_FILE.name} pins them.")
    more = f" and {len(other) - _MOST_NAMED} more" if len(other) > _MOST_NAMED else ""
    result = note if plan.on_a_cluster else failed
    return result(
        f"{', '.join(other[:_MOST_NAMED])}{more} differ from {LOCK_FILE.name}, so results here may differ from those of the images: run "
        "`make clean setup`."
    )


def _installed_version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _disk() -> CheckResult:
    require_cache()
    cache = cache_directory()
    folders = {Path.cwd(), next(folder for folder in (cache, *cache.parents) if folder.is_dir())}
    free, folder = min((shutil.disk_usage(folder).free, folder) for folder in folders)
    if free < _DISK_BYTES:
        return failed(
            f"{free / _GIB:.1f} GiB are free at {folder}, and a run needs {_DISK_BYTES // _GIB}: free some, or choose other folders "
            "with `mistere run --output` and MISTERE_CACHE."
        )
    return ok(f"{free / _GIB:.0f} GiB free.")


def _memory() -> CheckResult:
    import psutil

    free = psutil.virtual_memory().available
    if free < _MEMORY_BYTES:
        return note(
            f"{free / _GIB:.1f} GiB are free, and a run here needs {_MEMORY_BYTES // _GIB}: end other programs first, or run on a "
            "cluster."
        )
    return ok(f"{free / _GIB:.0f} GiB free.")


def _git(plan: Plan) -> CheckResult:
    commit, dirty = git_state()
    if not commit:
        reason, fix = missing_commit()
        return note(f"{reason}, so a model from here cannot be reproduced: {fix}.")
    if notice := release_notice(plan.config.gate, commit, dirty, name_files(uncommitted_files()) if dirty else ""):
        if plan.host:
            return failed(f"{notice.removesuffix('.')}; `mistere submit` also needs --allow-dirty for such a tree.")
        return note(notice)
    return ok(f"commit {commit[:10]}{' with changes' if dirty else ''}.")


def _image_lock(plan: Plan) -> CheckResult:
    from pipelines.images import lock_text

    if not IMAGES_LOCK.is_file():
        raise SkippedError(f"{IMAGES_LOCK.name} does not exist.")
    if IMAGES_LOCK.read_text(encoding="utf-8") == lock_text():
        return ok("its images are those of this tree.")
    result = failed if plan.host else note
    return result(f"{IMAGES_LOCK.name} names images of another tree: run `make compile`, then build and push them.")


def _deployment(plan: Plan) -> CheckResult:
    """Whether the run can deploy its model: on a cluster not locally, and only with settings that the mode supports."""
    deployment = plan.config.deployment
    if not plan.on_a_cluster:
        return ok("local: a run on this machine deploys no service.")
    try:
        check_cluster_support(deployment)
        check_release_time(deployment, plan.config.cluster.step("deploy_model").timeout)
    except UsageError as error:
        return refused(str(error))
    mode = f"deployment.mode={deployment.mode}."
    limit = stream_limit(plan.config)
    return note(f"{mode} {limit}") if limit else ok(mode)
