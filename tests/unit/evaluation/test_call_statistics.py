"""Shares of emotions in a call and in groups of calls: intervals that cover, and groups that stay unreported."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import UsageError
from mistere.config.scoring import ScoringConfig
from mistere.metrics.call_statistics import EXACT_TURNS, call_statistics, share_bounds
from mistere.reports.scores.page import render_scores
from mistere.scoring.call_columns import MAX_VALUES, ArchiveColumns
from mistere.scoring.chosen_calls import choose_calls
from mistere.scoring.groups import GroupedCalls, Groups, Period, Sums, difference_scores
from mistere.scoring.results import ScoringPlan
from mistere.scoring.tables import TableForm, figure, probability

LABELS = ["calm", "cross"]


def test_the_share_has_the_quantiles_of_all_outcomes() -> None:
    p = np.array([[0.1], [0.6], [0.9], [0.5], [0.02]])
    outcomes: dict[int, float] = {}
    for bits in itertools.product((0, 1), repeat=len(p)):
        chance = float(np.prod([q if bit else 1 - q for bit, q in zip(bits, p[:, 0], strict=True)]))
        outcomes[sum(bits)] = outcomes.get(sum(bits), 0.0) + chance
    below = np.cumsum([outcomes[count] for count in range(len(p) + 1)])
    low, high = share_bounds(p)
    assert low[0] == np.flatnonzero(below >= 0.025)[0] / len(p)
    assert high[0] == np.flatnonzero(below >= 0.975)[0] / len(p)


def test_intervals_cover_the_true_share_of_calibrated_turns() -> None:
    draw = np.random.default_rng(1)
    inside = total = 0
    for turns in (3, 12, EXACT_TURNS + 40):
        for _ in range(300):
            p = draw.beta(0.7, 1.5, size=(turns, 1))
            share = (draw.random((turns, 1)) < p).mean(0)
            low, high = share_bounds(p)
            inside += int(low[0] - 1e-12 <= share[0] <= high[0] + 1e-12)
            total += 1
    assert inside / total > 0.93


def test_a_call_has_its_quarters_turns_and_peaks() -> None:
    rising = np.linspace(0.1, 0.9, 8)
    found = call_statistics(np.stack([1 - rising, rising], axis=1))
    assert np.allclose(found.quarters[:, 1], rising.reshape(4, 2).mean(1))
    assert found.trend[1] == pytest.approx(rising[6:].mean() - rising[:2].mean())
    assert found.trend_low[1] < found.trend[1] < found.trend_high[1] <= 1
    assert (found.first.tolist(), found.last.tolist()) == ([0, 4], [3, 7])
    assert found.peak_at[1] == 7 and found.peak[1] == pytest.approx(0.9)
    short = call_statistics(np.array([[1.0, 0.0], [0.9, 0.1]]))
    assert np.isnan(short.trend).all() and short.first[1] == -1 and short.share[0] == pytest.approx(0.95)


def write_calls(path: Path, rows: list[dict[str, Any]], by: tuple[str, ...] = ("queue",), time: str = "at") -> Path:
    form = TableForm(LABELS, ["text"], ArchiveColumns(by, time), "3", "b" * 64)
    pq.write_table(pa.Table.from_pylist(rows, schema=form.calls()), path)
    return path


def call(number: int, queue: str | None, cross: float, day: int = 0) -> dict[str, Any]:
    row = {"dialogue_id": f"c{number}", "shard": "a.parquet", "queue": queue, "turns": 10, "scored_turns": 10}
    row["time"] = datetime(2026, 1, 1) + timedelta(days=day)
    for label, share in zip(LABELS, (1 - cross, cross), strict=True):
        row |= {
            figure("share", label): share,
            figure("share_error", label): 0.05,
            figure("trend_low", label): cross - 0.5,
        }
        row |= {figure(name, label): share for name in ("share_low", "share_high", "trend")}
    return row


def test_small_groups_and_periods_are_not_reported(tmp_path: Path) -> None:
    rows = [call(n, "sales", 0.2) for n in range(40)] + [call(n, "help", 0.4, 1) for n in range(30)]
    rows += [call(n, "board", 0.9, 2) for n in range(3)] + [call(100, None, 0.1, 2)]
    grouped = GroupedCalls.read(write_calls(tmp_path / "calls.parquet", rows), ["queue"], LABELS, 20)
    groups = grouped.groups("queue")
    # The four calls of two small groups would follow from the total, so the next group joins them.
    assert list(groups.named) == ["sales"] == grouped.named_groups("queue")
    assert groups.joined == 3 and groups.rest is not None and groups.rest.calls == 34
    periods = grouped.periods()
    assert [isinstance(one, Period) for one in periods] == [True, True, False]
    overall = grouped.overall()
    assert overall is not None and overall.value[1] == pytest.approx((40 * 0.2 + 30 * 0.4 + 3 * 0.9 + 0.1) / 74)
    alone = GroupedCalls.read(tmp_path / "calls.parquet", ["queue"], LABELS, 100)
    assert alone.overall() is None and alone.groups("queue") == Groups({}, 4, None)


def test_groups_of_any_names_are_shown(tmp_path: Path) -> None:
    names = [*["other (2)"] * 12, *["_vip"] * 8, "a", "b"]
    path = write_calls(tmp_path / "calls.parquet", [call(n, name, 0.3, n % 2) for n, name in enumerate(names)])
    groups = GroupedCalls.read(path, ["queue"], LABELS, 2).groups("queue")
    assert {name: one.calls for name, one in groups.named.items()} == {"other (2)": 12, "_vip": 8}
    assert groups.joined == 2 and groups.rest is not None and groups.rest.calls == 2
    plan = ScoringPlan(
        dataset="d", dataset_digest="d", bundle_digest="b", by=["queue"], time="at", code="c", shards=["a.parquet"]
    )
    turns = {"dialogue_id": ["c0"], "turn": [0], **{probability(label): [0.5] for label in LABELS}}
    pq.write_table(pa.table(turns), tmp_path / "turns.parquet")
    page = render_scores(plan, [], path, lambda _: tmp_path / "turns.parquet", LABELS, 2)
    plot = next(part for part in page.split("<svg") if "over time by queue" in part)
    assert ">_vip<" in plot and ">other (2)<" in plot
    assert '<bdi>other (2)</bdi></td><td class="number">12<' in page and "<i>2 other groups</i>" in page


def test_one_wrong_time_decides_nothing(tmp_path: Path) -> None:
    rows = [call(n, "sales", 0.2 if n % 20 < 10 else 0.6, n % 20) for n in range(200)]
    right = GroupedCalls.read(write_calls(tmp_path / "right.parquet", rows), ["queue"], LABELS, 20)
    rows[0]["time"] = datetime(1970, 1, 1)
    rows[1]["time"] = datetime(2999, 1, 1)
    wrong = GroupedCalls.read(write_calls(tmp_path / "wrong.parquet", rows), ["queue"], LABELS, 20)
    halves = wrong.halves()
    assert halves is not None and right.halves() == (date(2026, 1, 1), halves[1], date(2026, 1, 20))
    assert [(one.label, one.clear) for one in wrong.changes()] == [(one.label, one.clear) for one in right.changes()]
    assert all(one.clear for one in wrong.changes()) and not wrong.by_week
    rows = [call(n, "sales", 0.2, n % 60) for n in range(200)]
    assert GroupedCalls.read(write_calls(tmp_path / "long.parquet", rows), [], LABELS, 20).by_week
    rows = [call(n, "sales", 0.2, int(n >= 90)) for n in range(100)]
    assert GroupedCalls.read(write_calls(tmp_path / "two.parquet", rows), ["queue"], LABELS, 10).changes()


def test_a_change_is_clear_only_beyond_chance(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for n in range(800):
        day, queue = n % 20, ("sales", "help")[n % 2]
        raised = 0.25 if queue == "help" and day >= 10 else 0.0
        rows.append(call(n, queue, float(np.clip(0.3 + raised + 0.15 * draw.standard_normal(), 0, 1)), day))
    grouped = GroupedCalls.read(write_calls(tmp_path / "calls.parquet", rows), ["queue"], LABELS, 20)
    changes = grouped.changes()
    assert {(one.group, one.clear) for one in changes} == {("help", True), ("sales", False)}
    assert changes[0].difference == pytest.approx(0.25, abs=0.05) or changes[0].difference == pytest.approx(
        -0.25, abs=0.05
    )
    chosen = choose_calls(tmp_path / "calls.parquet", ["queue"], LABELS)
    assert len({one.dialogue for one in chosen}) == len(chosen)


def test_a_rare_emotion_gives_few_false_changes() -> None:
    draw = np.random.default_rng(0)
    looks, clear, false, found = 20 * 6, NormalDist().inv_cdf(1 - 0.025 / (20 * 6)), 0, 0
    for _ in range(60):
        # Strong in 8 % of the calls; 20 groups of 20 calls, each beside all others.
        shares = np.where(
            draw.random((20, 20, looks // 20)) < 0.08, draw.uniform(0.2, 0.6, (20, 20, looks // 20)), 0.02
        )
        values = np.stack([shares, shares**2, np.full_like(shares, 1e-4), shares**3], axis=2)
        total = Sums(400, values.sum((0, 1)))
        groups = [Sums(20, values[number].sum(0)) for number in range(20)]
        false += any((np.abs(difference_scores(total - one, one)) > clear).any() for one in groups)
        shifted = shares[0] + 0.25
        one = Sums(20, np.stack([shifted, shifted**2, np.full_like(shifted, 1e-4), shifted**3], axis=1).sum(0))
        found += int((difference_scores(total - groups[0], one) > clear).sum())
    assert false <= 6 and found >= 0.8 * 60 * 6


def test_a_column_of_names_is_no_group(tmp_path: Path) -> None:
    rows = [call(n, f"caller {n}", 0.5) for n in range(MAX_VALUES + 1)]
    path = write_calls(tmp_path / "calls.parquet", rows)
    with pytest.raises(UsageError, match="'queue' has more than 200 values, too many to be groups"):
        GroupedCalls.read(path, ["queue"], LABELS, 20)
    with pytest.raises(ValueError, match="results never say who spoke"):
        ScoringConfig(by=["Speaker"])
    with pytest.raises(UsageError, match="have a column 'turns' of their own"):
        TableForm(LABELS, [], ArchiveColumns(("turns",)), "", "")
    with pytest.raises(
        UsageError, match="'cross' and 'low_cross' would share the column 'share_low_cross' of the results"
    ):
        TableForm([*LABELS, "low_cross"], [], ArchiveColumns(), "", "")
