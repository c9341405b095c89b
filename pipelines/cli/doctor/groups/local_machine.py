"""This machine: the environment, room, and the tree that a run would be started from."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mistere.common.code_digest import git_state
from mistere.common.paths import LOCK_FILE, cache_directory
from mistere.kubernetes.images import IMAGES_LOCK
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, note, ok

_GIB = 2**30
_DISK_BYTES, _MEMORY_BYTES = 5 * _GIB, 3 * _GIB
_MOST_NAMED = 3


def subject(plan: Plan) -> Subject:
    """The checks of this machine."""
    return Subject(
        "This machine",
        [
            Check("Python", _python),
            Check("packages", lambda: _packages(plan)),
            Check("disk", _disk),
            Check("memory", _memory),
            Check("Git", lambda: _git(plan)),
            Check("image lock", lambda: _image_lock(plan)),
        ],
    )


def _python() -> CheckResult:
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return ok(f"{found}.")
    return failed(f"this is Python {found}, and the code is for 3.11 and 3.12: `make clean setup PYTHON=python3.11`.")


def _packages(plan: Plan) -> CheckResult:
    """Whether what is installed is what the lock pins, which the images hold too; pods bring their own."""
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.!]+)", LOCK_FILE.read_text(encoding="utf-8"), re.MULTILINE))
    other = [f"{name} {found or 'missing'}" for name, wanted in pinned.items() if (found := _found(name)) != wanted]
    if not other:
        return ok(f"all {len(pinned)} as {LOCK_FILE.name} pins them.")
    more = f" and {len(other) - _MOST_NAMED} more" if len(other) > _MOST_NAMED else ""
    tell = note if plan.on_a_cluster else failed
    return tell(
        f"{', '.join(other[:_MOST_NAMED])}{more} differ from {LOCK_FILE.name}, so results here are not those of the images: `make "
        "clean setup`."
    )


def _found(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _disk() -> CheckResult:
    places = {Path.cwd(), next(place for place in (cache_directory(), *cache_directory().parents) if place.is_dir())}
    free, place = min((shutil.disk_usage(place).free, place) for place in places)
    if free < _DISK_BYTES:
        return failed(
            f"{free / _GIB:.1f} GiB are free at {place}, and a run wants {_DISK_BYTES // _GIB}: free some, or name another place "
            "with --output and MISTERE_CACHE."
        )
    return ok(f"{free / _GIB:.0f} GiB free.")


def _memory() -> CheckResult:
    import psutil

    free = psutil.virtual_memory().available
    if free < _MEMORY_BYTES:
        return note(
            f"{free / _GIB:.1f} GiB are free, and a run here wants {_MEMORY_BYTES // _GIB}: end other programs first, or run on a "
            "cluster."
        )
    return ok(f"{free / _GIB:.0f} GiB free.")


def _git(plan: Plan) -> CheckResult:
    commit, dirty = git_state()
    if not commit:
        return note("this is no Git repository, so nobody can make a model again that comes from here: use a clone.")
    if dirty and not plan.config.gate.allow_uncommitted:
        tell = failed if plan.host else note
        return tell(
            f"the tree has changes that commit {commit[:10]} does not hold: commit them, for `mistere submit` refuses such a tree and "
            "the gate holds a model of such code."
        )
    return ok(f"commit {commit[:10]}{' with changes' if dirty else ''}.")


def _image_lock(plan: Plan) -> CheckResult:
    from pipelines.images import lock_text

    if not IMAGES_LOCK.is_file():
        raise SkippedError(f"{IMAGES_LOCK.name} is not there.")
    if IMAGES_LOCK.read_text(encoding="utf-8") == lock_text():
        return ok("the images that it names are of this tree.")
    tell = failed if plan.host else note
    return tell(f"{IMAGES_LOCK.name} names images of another tree: `make compile`, then build and push them.")
