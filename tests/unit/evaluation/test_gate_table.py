"""The gate's Markdown table of recorded runs."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from mistere.common.digests.code import git_state
from mistere.common.errors import MistereError, UsageError
from pipelines.cli.commands.run_records.gate_table import gate_table
from pipelines.cli.output.gate_table import last_run, markdown
from tests.unit.runs import recorded_runs as runs


def cells(table: str) -> list[list[str]]:
    """The rows of each table, checked to be as wide as the header."""
    rows, width = [], 0
    for line in table.splitlines():
        if line.startswith("| "):
            row = [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split(" | ")]
            width = width or len(row)
            assert len(row) == width, line
            rows.append(row)
        else:
            width = 0
    return rows


@pytest.mark.parametrize(
    ("ending", "sign", "phrases"),
    [
        ("deployed", "✅", ["**deployed**", "✓ passed", "surely above the minimum", "| difference, paired | +0.148 ("]),
        ("waiting", "✋", ["**waiting**", f"- {runs.WAITS}", "approve mistere/5 --reason", "✓ passed"]),
        ("held", "🟡", ["**held**", f"- {runs.COMPARED}", "● held", "| mixture | 0."]),
        ("rejected", "❌", ["**rejected**", "✗ rejected", "worse by more than 0.010"]),
        ("data rejected", "❌", ["**data rejected**", "does not list"]),
        ("failed", "🚨", ["**failed**", "- finetune_encoder-speech: the disk is full"]),
        ("killed", "🚨", ["did not finish"]),
    ],
)
def test_gate_table_matches_each_recorded_run(ending: str, sign: str, phrases: list[str], tmp_path: Path) -> None:
    run = runs.ENDINGS[ending](tmp_path / "store")
    table = markdown(run.store, run.run_id)
    assert table.startswith(f"### {sign} ") and "Run `run-0042`, profile sample" in table
    for words in [*phrases, "run_report.html`"]:
        assert words in table, words
    rules = [row for row in cells(table) if len(row) == 5]
    assert bool(rules) == (ending in {"deployed", "waiting", "held", "rejected"})
    assert "not asked" not in table, "rules that are off are omitted"
    if ending == "rejected":
        assert rules[2][0] == "✗ rejected", "rejecting rules come first"


def test_gate_table_escapes_all_data(tmp_path: Path) -> None:
    run = runs.RecordedRun(tmp_path)
    run.start()
    run.data()
    hostile = (
        "label 'a|b' <img src=x onerror=alert(1)> @everyone #12 [here](javascript:x) **loud** `code`\n| new | row |"
    )
    run.validate([])
    run.record("evaluate_model", outputs={})
    run.judge("reject", [runs.rule("class_floor", "reject", hostile)])
    table = markdown(run.store, run.run_id)
    cells(table)
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(table)
    assert tags == []
    for words in ("@everyone", "#12", "[here](", " **loud", " `code", "\n| new"):
        assert words not in table, words


def test_gate_table_has_backslashes_only_before_markup(tmp_path: Path) -> None:
    run = runs.RecordedRun(tmp_path)
    run.start()
    run.data()
    text = "finetune_encoder of cross_modal: [0.1, +2.5 %] in train_0004, but _this_ and [0.1](x), [y]: z, a*b, ~~c~~"
    run.validate([text])
    assert (
        r"- finetune_encoder of cross_modal: [0.1, +2.5 %] in train_0004, but \_this\_ and \[0.1\](x), \[y\]: z, a\*b, \~\~c\~\~"
        in markdown(run.store, run.run_id)
    )


def test_unreadable_verdict_only_omits_its_table(tmp_path: Path) -> None:
    run = runs.held(tmp_path)
    run.store.delete("artifacts/GateVerdict")
    table = markdown(run.store, run.run_id)
    assert "**held**" in table and "The gate's table cannot be read" in table


def test_gate_table_has_a_row_for_each_enabled_rule(tmp_path: Path) -> None:
    run = runs.rejected(tmp_path)
    rows = [row for row in cells(markdown(run.store, run.run_id)) if len(row) == 5]
    evaluated = [outcome for outcome in [runs.FLOOR, *runs.OTHERS] if outcome.outcome != "off"]
    assert len(rows) == 2 + len(evaluated) + 1, "header, separator and the champion rule"


def test_latest_run_of_a_commit_is_selected(tmp_path: Path) -> None:
    started = {
        "20260101-000000-aaaa": ("aaa111", 1.0),
        "20260301-000000-aaaa": ("aaa111", 3.0),
        "20260201-000000-aaaa": ("aaa111", 2.0),
        "20260401-000000-bbbb": ("bbb222", 4.0),
        "weekly-x7f": ("ccc333", 6.0),
        "weekly-k2d": ("ccc333", 5.0),
    }
    for name, (commit, at) in started.items():
        runs.RecordedRun(tmp_path, run_id=name).start(commit=commit, started=at)
    store = runs.RecordedRun(tmp_path).store
    assert last_run(store, "aaa111") == last_run(store, "aaa") == "20260301-000000-aaaa"
    assert last_run(store, "bbb222") == "20260401-000000-bbbb"
    assert last_run(store, "ccc333") == "weekly-x7f"
    for nobody in ("fff", ""):
        with pytest.raises(MistereError, match=r"no run in .* was started from commit"):
            last_run(store, nobody)


def test_command_accepts_a_run_or_defaults_to_the_current_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, _ = git_state()
    if not head:
        pytest.skip("this copy has no Git history")
    run = runs.killed(tmp_path / "store")
    run.start(commit=head)
    gate_table("run-0042", None, tmp_path, None)
    by_name = capsys.readouterr().out
    gate_table(None, None, Path("nowhere"), str(tmp_path / "store"))
    assert capsys.readouterr().out == by_name != ""
    with pytest.raises(UsageError, match="has no run 'run-0043'"):
        gate_table("run-0043", None, tmp_path, None)
    with pytest.raises(UsageError, match="nothing has run in"):
        gate_table(None, None, tmp_path / "nowhere", None)
