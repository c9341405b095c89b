"""``scores.html``: the emotions of an archive over time and by group, what changed most, and calls turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.common.counting import counted, percent, plural
from mistere.reports.html_page import render_page
from mistere.reports.plots import short
from mistere.reports.scores.plots import group_plot, timeline_svg, trend_plot
from mistere.scoring.chosen_calls import CallTimeline, ChosenCall, choose_calls, read_timelines
from mistere.scoring.groups import Change, Estimates, GroupedCalls, Period

if TYPE_CHECKING:
    from markupsafe import Markup

    from mistere.scoring.results import ScoringPlan, ShardSummary

TEMPLATE: Final = Path(__file__).parent / "page.html"
_SHOWN_CHANGES: Final = 12
_UNCLEAR: Final = 4
"""Changes that are not clear: enough to see what they look like."""
_SHOWN_GROUPS: Final = 5
_MIDDLE_OF_SHARES: Final = 0.5


@dataclass(frozen=True)
class Cell:
    """A share with its interval, and how strongly the table shades it (0 to 1)."""

    value: str
    bounds: str
    shade: float


@dataclass(frozen=True)
class GroupTable:
    """The groups of a column: rows of a name, the number of calls and a cell for each emotion; and plots over time.

    Attributes:
        column: its name.
        rows: the groups that are named.
        joined: how many others there are.
        rest: the row of those; None if they are left out.
        plots: shares over time.
        changed: a sentence about the clearest change.
    """

    column: str
    rows: list[tuple[str, int, list[Cell]]]
    joined: int
    rest: tuple[int, list[Cell]] | None
    plots: list[Markup]
    changed: str


@dataclass(frozen=True)
class ChangeRow:
    """A row of the table of changes."""

    group: str
    label: str
    before: str
    after: str
    difference: str
    bounds: str
    clear: bool


@dataclass(frozen=True)
class CallCard:
    """A call turn by turn."""

    dialogue: str
    title: str
    facts: list[str]
    timeline: Markup


def render_scores(
    plan: ScoringPlan,
    shards: Sequence[ShardSummary],
    calls: Path,
    turns_file: Callable[[str], Path],
    labels: Sequence[str],
    min_calls: int,
) -> str:
    """Render the page.

    Args:
        plan: what was scored.
        shards: the results by shard.
        calls: ``calls.parquet``.
        turns_file: the table of a shard's turns.
        labels: the emotions, in the order of the probabilities.
        min_calls: groups and periods of fewer calls are not reported.

    Raises:
        UsageError: a column has too many values to be one of groups.
    """
    grouped = GroupedCalls.read(calls, plan.by, labels, min_calls)
    overall = grouped.overall()
    order = list(np.argsort(-overall.value, kind="stable")) if overall else list(range(len(labels)))
    chosen = choose_calls(calls, plan.by, labels)
    timelines = read_timelines(turns_file, chosen, labels)
    changes = grouped.changes()
    periods = grouped.periods()
    shown = [period for period in periods if isinstance(period, Period)]
    return render_page(
        TEMPLATE,
        plan=plan,
        turns=sum(one.turns for one in shards),
        calls=sum(one.calls for one in shards),
        undecodable=sum(one.undecodable for one in shards),
        named=[sentence for one in shards for sentence in one.named][:10],
        labels=[labels[index] for index in order],
        min_calls=min_calls,
        overall=_cells(overall, order) if overall else None,
        sentence=_sentence(overall, labels, order),
        span=_span(grouped),
        halves=grouped.halves(),
        unit="week" if grouped.by_week else "day",
        period_count=len(periods),
        left_out=len(periods) - len(shown),
        trends=[trend_plot(shown, int(index), labels[index], grouped.by_week) for index in order]
        if len(shown) > 1
        else [],
        groups=[_group_table(grouped, column, labels, order, changes) for column in plan.by],
        changes=[_change_row(change, labels) for change in _shown_changes(changes)],
        looks=len(changes),
        cards=_cards(chosen, timelines, labels, order, _of_interest(order, changes), grouped),
        counted=counted,
        plural=plural,
    )


def _cells(estimates: Estimates, order: Sequence[int]) -> list[Cell]:
    return [
        Cell(
            percent(float(estimates.value[index]), 1),
            f"{percent(float(estimates.low[index]), 1)} to {percent(float(estimates.high[index]), 1)}",
            min(1.0, float(estimates.value[index]) / _MIDDLE_OF_SHARES),
        )
        for index in order
    ]


def _points(difference: float) -> str:
    return f"{100 * difference:+z.1f}".replace("-", "−")


def _sentence(overall: Estimates | None, labels: Sequence[str], order: Sequence[int]) -> str:
    if overall is None:
        return "There are fewer calls than are reported."
    parts = [
        f"{labels[index]} {percent(float(overall.value[index]), 1)} [{percent(float(overall.low[index]), 1)}, {percent(float(overall.high[index]), 1)}]"
        for index in order[:3]
    ]
    return f"Of the turns of a call, on average: {', '.join(parts)}."


def _span(grouped: GroupedCalls) -> str:
    halves = grouped.halves()
    if halves is None:
        return ""
    first, _, last = halves
    return f"{first.isoformat()} to {last.isoformat()}" if first != last else first.isoformat()


def _group_table(
    grouped: GroupedCalls, column: str, labels: Sequence[str], order: Sequence[int], changes: Sequence[Change]
) -> GroupTable:
    groups = grouped.groups(column)
    plots: list[Markup] = []
    names = list(groups.named)[:_SHOWN_GROUPS]
    series = {name: [p for p in grouped.periods(column, name) if isinstance(p, Period)] for name in names}
    series = {name: periods for name, periods in series.items() if len(periods) > 1}
    own = [change for change in changes if change.column == column]
    if series:
        wanted = list(dict.fromkeys([*(change.label for change in own[:2]), *(int(index) for index in order)]))[:2]
        plots = [group_plot(series, index, labels[index], column, grouped.by_week) for index in wanted]
    clear = next((change for change in own if change.clear), None)
    changed = f"Clearest: {labels[clear.label]} in {clear.group}, {_points(clear.difference)} points." if clear else ""
    table = [(name, estimates.calls, _cells(estimates, order)) for name, estimates in groups.named.items()]
    rest = (groups.rest.calls, _cells(groups.rest, order)) if groups.rest else None
    return GroupTable(column, table, groups.joined, rest, plots, changed)


def _shown_changes(changes: Sequence[Change]) -> list[Change]:
    """The clear changes, and some of those that are not."""
    clear = [change for change in changes if change.clear]
    unclear = [change for change in changes if not change.clear]
    return [*clear[:_SHOWN_CHANGES], *unclear[: max(0, min(_UNCLEAR, _SHOWN_CHANGES - len(clear)))]]


def _of_interest(order: Sequence[int], changes: Sequence[Change]) -> list[int]:
    """The emotions in the order in which their calls are shown: what changed first, the most common one last."""
    changed = [change.label for change in changes if change.clear]
    return list(dict.fromkeys(int(index) for index in (*changed, *order[1:], *order[:1])))


def _change_row(change: Change, labels: Sequence[str]) -> ChangeRow:
    return ChangeRow(
        group=f"{change.column}: {change.group}",
        label=labels[change.label],
        before=percent(change.before, 1),
        after=percent(change.after, 1),
        difference=_points(change.difference),
        bounds=f"{_points(change.low)} to {_points(change.high)}",
        clear=change.clear,
    )


def _cards(
    chosen: Sequence[ChosenCall],
    timelines: dict[tuple[str, str], CallTimeline],
    labels: Sequence[str],
    order: Sequence[int],
    sections_order: Sequence[int],
    grouped: GroupedCalls,
) -> list[tuple[str, list[CallCard]]]:
    """The calls by emotion. A call's group is named only if that is reported."""
    reported = {column: set(grouped.named_groups(column)) for column in grouped.columns}
    sections = []
    for index in sections_order:
        cards = []
        for call in (one for one in chosen if one.label == index):
            timeline = timelines[call.shard, call.dialogue]
            groups = [f"{name}: {value}" for name, value in call.groups.items() if value in reported[name]]
            facts = [
                *([call.time.strftime("%Y-%m-%d %H:%M")] if call.time else []),
                *groups,
                counted(call.turns, "turn"),
                f"{labels[index]} {percent(call.share, 1)} [{percent(call.low, 1)}, {percent(call.high, 1)}]",
            ]
            if call.trend is not None:
                facts.append(f"{_points(call.trend)} points from first to last quarter")
            title = f"{labels[index]} rises" if call.reason == "rises" else f"most {labels[index]}"
            cards.append(
                CallCard(short(call.dialogue, 60), title, facts, timeline_svg(timeline, labels, order, int(index)))
            )
        if cards:
            sections.append((labels[index], cards))
    return sections
