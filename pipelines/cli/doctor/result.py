"""Checks and their results. Each check runs on its own, so that a failing one stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mistere.common.counting import plural
from mistere.common.errors import ExitCode, MistereError

Status = Literal["ok", "note", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        status: ``ok``; ``note``: a run works, but its owner should know; ``failed``: a run would fail; ``skipped``: the check
            could not be made.
        sentence: the result, and for all but ``ok`` how to fix it or why the check was skipped.
        exit_code: of the command, for ``failed``.
    """

    status: Status
    sentence: str
    exit_code: ExitCode = ExitCode.ERROR


def ok(sentence: str) -> CheckResult:
    """The check passed."""
    return CheckResult("ok", sentence)


def note(sentence: str) -> CheckResult:
    """A remark on something that does not make a run fail."""
    return CheckResult("note", sentence)


def failed(sentence: str) -> CheckResult:
    """The check failed: a run would fail."""
    return CheckResult("failed", sentence)


def refused(sentence: str) -> CheckResult:
    """The check failed because of a setting, with which `mistere submit` starts no run either."""
    return CheckResult("failed", sentence, ExitCode.USAGE)


def skipped(reason: str) -> CheckResult:
    """The check could not be made."""
    return CheckResult("skipped", reason)


class SkippedError(Exception):
    """Raised by a check that cannot be made; its text is the reason."""


@dataclass(frozen=True)
class Check:
    """One check; ``run`` may also raise a :class:`MistereError` (failed) or :class:`SkippedError`."""

    name: str
    run: Callable[[], CheckResult]


@dataclass(frozen=True)
class CheckGroup:
    """Checks of one subject.

    Attributes:
        name: the heading of the group.
        checks: in the order in which they run.
        first_required: the other checks are skipped unless the first one passes.
    """

    name: str
    checks: Sequence[Check]
    first_required: bool = False


def run_group(group: CheckGroup) -> Iterator[tuple[str, CheckResult]]:
    """Run the checks of a group; yield the name and the result of each."""
    for number, check in enumerate(group.checks):
        result = _run(check)
        yield check.name, result
        rest = group.checks[number + 1 :]
        if group.first_required and number == 0 and result.status in {"failed", "skipped"} and rest:
            yield (
                _join([check.name for check in rest]),
                skipped(f"{plural(len(rest), 'it needs', 'they need')} {check.name}."),
            )
            return


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _run(check: Check) -> CheckResult:
    try:
        return check.run()
    except SkippedError as error:
        return skipped(str(error))
    except MistereError as error:
        return failed(str(error))
    except Exception as error:  # a bug in one check must not hide the other results; its text may hold a secret
        return failed(
            f"the check itself raised {type(error).__name__}, which is a bug in this command: please report it."
        )
