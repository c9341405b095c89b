"""This machine's clock, compared with the clocks of the servers that the other checks reach."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, ok

_TOLERANCE_SECONDS = 60.0


@dataclass
class Clock:
    """How far each server's clock is ahead of this machine's, in seconds, by the server's address."""

    ahead: dict[str, float] = field(default_factory=dict)

    def record(self, server: str, date: str | None, sent: float) -> None:
        """Record the ``Date`` header of an answer that has just arrived; an invalid date is ignored.

        Args:
            server: the address of the server.
            date: the header.
            sent: when the request was sent; the answer was written between then and now.
        """
        try:
            server_time = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, TypeError):
            return
        late = min(server_time + 1 - sent, 0.0)  # the header has whole seconds
        self.ahead[server] = late or max(server_time - time.time(), 0.0)


def group(clock: Clock) -> CheckGroup:
    """The check of the clock; it runs last, after the other checks have reached servers."""
    return CheckGroup("Clock", [Check("this machine's against the servers'", lambda: _compare(clock))])


def _compare(clock: Clock) -> CheckResult:
    if not clock.ahead:
        raise SkippedError("no server was reached to compare with.")
    server, ahead = max(clock.ahead.items(), key=lambda item: abs(item[1]))
    if abs(ahead) <= _TOLERANCE_SECONDS:
        return ok(f"at most {abs(ahead):.0f} s apart.")
    side = "behind" if ahead > 0 else "ahead of"
    return failed(
        f"this machine's clock is {_duration(abs(ahead))} {side} that of {server}: set the wrong one from the network "
        "(`timedatectl set-ntp true`); tokens and S3 signatures are refused otherwise."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
