"""This machine's clock against those of the servers that were asked on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from pipelines.cli.doctor.result import Check, CheckResult, SkippedError, Subject, failed, ok

_BEARABLE_SECONDS = 60.0


@dataclass
class Clock:
    """How far servers are ahead of this machine, in seconds, by their address."""

    ahead: dict[str, float] = field(default_factory=dict)

    def hear(self, where: str, date: str | None, asked: float) -> None:
        """Take the ``Date`` header of an answer that has just come; anything that is no date tells nothing.

        Args:
            where: who answered.
            date: the header.
            asked: when the question was sent; the answer was written between then and now.
        """
        try:
            said = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, TypeError):
            return
        self.ahead[where] = min(said + 1 - asked, 0.0) or max(said - time.time(), 0.0)  # a header knows whole seconds


def subject(clock: Clock) -> Subject:
    """The checks of the clock; to be made last, when servers have been asked."""
    return Subject("Clock", [Check("this machine's against the servers'", lambda: _apart(clock))])


def _apart(clock: Clock) -> CheckResult:
    if not clock.ahead:
        raise SkippedError("no server was reached to compare with.")
    where, ahead = max(clock.ahead.items(), key=lambda item: abs(item[1]))
    if abs(ahead) <= _BEARABLE_SECONDS:
        return ok(f"{abs(ahead):.0f} s apart at most.")
    side = "behind" if ahead > 0 else "ahead of"
    return failed(
        f"this machine's clock is {_span(abs(ahead))} {side} that of {where}: set it from the network (`timedatectl set-ntp "
        "true`), or that one, for tokens and S3 signatures from a wrong clock are refused."
    )


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
