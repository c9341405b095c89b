"""``mistere traffic log``: shows the requests that the predictor logged."""

from __future__ import annotations

import heapq
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.predictor.errors import printable
from mistere.runs.traffic_monitor import hours_of
from mistere.serving.request_log.files import HASHING_KEY, read_log
from mistere.serving.request_log.line import LoggedRequest, logged_hash, logged_id
from mistere.serving.sample.places import hashing_key
from mistere.serving.traffic.files import HOUR_SECONDS
from pipelines.cli.output.console import OutputConsole, harmless_json
from pipelines.cli.output.tables import Column, output_console, print_table


@dataclass(frozen=True)
class Choice:
    """Which requests are shown.

    Attributes:
        since: length of the window, such as ``24h``.
        errors: only those that were refused or failed.
        request: only the one with this id.
        dialogue: only those with this id of a dialogue.
        limit: the latest so many; 0 for all.
    """

    since: str
    errors: bool = False
    request: str | None = None
    dialogue: str | None = None
    limit: int = 50

    def matches(self, key: bytes) -> Callable[[LoggedRequest], bool]:
        """Whether a line is one of them.

        Args:
            key: of the store's log.
        """
        # The predictor takes only the begin of a header, and the whole id of a body; the log does not say which it was.
        given = () if self.request is None else (self.request, printable(self.request))
        identities = {logged_id(key, identity) for identity in given}
        dialogue = None if self.dialogue is None else logged_hash(key, self.dialogue)
        return lambda line: (
            (line.failed or not self.errors)
            and (not identities or line.id in identities)
            and dialogue in (None, line.dialogue)
        )


def show_log(store: ObjectStore, choice: Choice, *, as_json: bool = False, now: float | None = None) -> None:
    """Print lines of the log, in the order of their times.

    Args:
        store: the object store.
        choice: which.
        as_json: print them as they are, instead of a table.
        now: seconds since 1970; None for the current time.

    Raises:
        UsageError: no request was ever logged in the store, or the window is none.
    """
    until = time.time() if now is None else now
    since = until - hours_of(choice.since) * HOUR_SECONDS
    errors = OutputConsole(stderr=True, highlight=False)
    lines = list(_chosen(store, choice, since, until, lambda text: errors.print(text, markup=False, soft_wrap=True)))
    if as_json:
        sys.stdout.writelines(f"{harmless_json(line.model_dump_json(exclude_defaults=True))}\n" for line in lines)
    else:
        _print(lines)


def _chosen(
    store: ObjectStore, choice: Choice, since: float, until: float, note: Callable[[str], object]
) -> Iterator[LoggedRequest]:
    key = hashing_key(store, place=HASHING_KEY)
    if key is None:
        raise UsageError(
            f"no request was ever logged in {store.uri}: name the store of the log with --store, or start "
            "the predictor with `mistere serve --request-log-share 1`."
        )
    first = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    wanted = choice.matches(key)
    lines = (line for line in read_log(store, since, until, note) if line.time >= first and wanted(line))
    if choice.limit:
        yield from reversed(heapq.nlargest(choice.limit, lines, key=lambda line: line.time))
    else:
        yield from sorted(lines, key=lambda line: line.time)


def _print(lines: list[LoggedRequest]) -> None:
    columns = [
        Column("time"),
        Column("protocol", drop=2),
        Column("code"),
        Column("ms", right=True),
        Column("utterances", right=True, drop=3),
        Column("labels, or why it was refused", folds=True),
        Column("id", drop=1),
    ]
    rows = [
        (
            line.time,
            line.protocol,
            line.code,
            f"{1000 * line.seconds:.1f}",
            str(line.sizes.get("utterances", "")),
            line.error or ", ".join(f"{label} {count}" for label, count in sorted(_labels(line).items())),
            line.id,
        )
        for line in lines
    ]
    print_table(output_console(), columns, rows)


def _labels(line: LoggedRequest) -> Counter[str]:
    return Counter(turn.label for turn in line.turns)
