"""A check, what it found, and how checks are made: each for itself, so that one that fails stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mistere.common.errors import MistereError

Status = Literal["ok", "note", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        status: ``ok``; ``note``: a run goes through, but somebody should know; ``failed``: a run would fail; ``skipped``:
            it could not be looked at.
        sentence: what was found, and for all but ``ok`` how to mend it or why it was skipped.
    """

    status: Status
    sentence: str


def ok(sentence: str) -> CheckResult:
    """All is well."""
    return CheckResult("ok", sentence)


def note(sentence: str) -> CheckResult:
    """Nothing that a run fails of."""
    return CheckResult("note", sentence)


def failed(sentence: str) -> CheckResult:
    """A run would fail."""
    return CheckResult("failed", sentence)


def skipped(reason: str) -> CheckResult:
    """It could not be looked at."""
    return CheckResult("skipped", reason)


class SkippedError(Exception):
    """Raised where it turns out that something cannot be looked at; its text is the reason."""


@dataclass(frozen=True)
class Check:
    """One thing to look at; ``look`` may also raise a :class:`MistereError` (failed) or :class:`SkippedError`."""

    name: str
    look: Callable[[], CheckResult]


@dataclass(frozen=True)
class Subject:
    """Checks that belong together.

    Attributes:
        name: what they are about.
        checks: in the order in which they are told.
        door: the first check is the way to all others: where it is not open, they are not made.
    """

    name: str
    checks: Sequence[Check]
    door: bool = False


def examine(subject: Subject) -> Iterator[tuple[str, CheckResult]]:
    """Make a subject's checks; each one's name with what it found."""
    for number, check in enumerate(subject.checks):
        finding = _look(check)
        yield check.name, finding
        rest = subject.checks[number + 1 :]
        if subject.door and number == 0 and finding.status in {"failed", "skipped"} and rest:
            yield _listed([one.name for one in rest]), skipped(f"{check.name} comes before.")
            return


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _look(check: Check) -> CheckResult:
    try:
        return check.look()
    except SkippedError as error:
        return skipped(str(error))
    except MistereError as error:
        return failed(str(error))
    except Exception as error:  # a defect of one check must not hide what the others find; its text may hold a secret
        return failed(
            f"the check itself broke ({type(error).__name__}), which is a defect of this command: please report it."
        )
