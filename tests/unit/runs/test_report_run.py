"""The run report: all outcomes, hostile text, missing records, and no external resources."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from components.report_run.run import STAGE, run
from components.report_run.summary import finite
from components.report_run.timing import duration, measure, time_sentences
from mistere.artifacts.manifests import ChampionEvaluation
from mistere.common.errors import ExitCode
from mistere.config.registry import RegistryConfig
from mistere.engine.execution import execute
from mistere.engine.finished_run import INPUTS_VALUE, FinishedRun
from mistere.engine.stage import StageRecord, stage_record_key
from mistere.evaluation.gate_timeline import GateTimeline
from mistere.metrics.classification import Interval
from mistere.metrics.modality_choice import ModalityChoice, SubsetScore
from mistere.reports import plots
from mistere.reports.evaluation_tables import shown_dialogue
from mistere.reports.evaluation_view import GATE_WORDS
from mistere.reports.wording import consequence, headline, next_steps
from mistere.runs.outcome import Outcome, read_outcome
from mistere.runs.tasks import ordered_tasks
from tests.unit.runs import recorded_run
from tests.unit.runs import recorded_runs as runs

HOSTILE = "<script>alert('x')</script> $\\frac$ & \"quoted\""

TASKS = tuple(ordered_tasks([]))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


def report(recorded: runs.RecordedRun, *, log: bool = False) -> tuple[str, dict[str, Any]]:
    """Write the report, log it to the tracking database if ``log``, and read both files back."""
    run(RegistryConfig(log_report=log), recorded.step())
    folder = recorded.root / "runs" / recorded.run_id / "reports"
    return (folder / "run_report.html").read_text(), json.loads((folder / "run_report.json").read_text())


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The report of a deployed run."""
    return report(runs.deployed(tmp_path_factory.mktemp("deployed")))


class Loading(HTMLParser):
    """Collects the resources and scripts that a browser would load, and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "iframe", "img", "object", "embed", "base"}:
            self.loaded.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in {"src", "srcset", "data", "action"}):
                self.loaded.append(f"{tag} {name}")
            if name in {"href", "xlink:href"} and not (value or "").startswith("#") and tag != "a":
                self.loaded.append(f"{tag} {value}")
            if name == "href" and ":" in (value or ""):
                self.loaded.append(f"{tag} {value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Loading:
    parser = Loading()
    parser.feed(html)
    assert re.search(r"url\((?!#)", html) is None and "@import" not in html
    return parser


WORDS = {
    "deployed": [
        "passed the gate and was released",
        "It replaces the champion",
        "mistere serve",
        "synthetic",
    ],
    "reused": ["were reused from an earlier run", "with the same inputs, settings and code", "released"],
    "waiting": ["passed the gate and waits for approval", runs.WAITS, "Why it passed", "approve mistere/5 --reason"],
    "held": ["held back", runs.COMPARED, "Nothing was released", "● held", "✓ passed"],
    "rejected": ["not good enough and was rejected", runs.WORSE, "✗ rejected"],
    "data rejected": ["The dataset was rejected", "does not list", "There are no test metrics"],
    "failed": ["failed while fine-tuning the speech encoder", "the disk is full", "not reached"],
    "killed": ["did not finish", "Run again", "not reached"],
}


@pytest.mark.parametrize(
    "ending",
    [pytest.param(ending, marks=[] if ending in {"deployed", "failed"} else pytest.mark.long) for ending in WORDS],
)
def test_report_of_each_outcome_is_readable_and_self_contained(ending: str, tmp_path: Path) -> None:
    recorded = runs.ENDINGS[ending](tmp_path / "store")
    html, data = report(recorded, log=ending == "deployed")
    page = read(html)
    assert page.loaded == []
    seen = re.sub(r"\s+", " ", page.text)
    for words in WORDS[ending]:
        assert words in seen, words
    assert len(html) < 1_000_000
    assert "could not be drawn" not in html and "Parts of this report are missing" not in html
    assert data["outcome"]["exit_code"] == read_outcome(recorded.store, recorded.run_id).exit_code
    assert data["next"] and data["time"]["wall_seconds"] > 0
    assert "What the run cost" in seen and data["costs"]["total"]["cpu_hours"] > 0
    assert ("<svg" in html) == (ending not in {"data rejected", "killed"})
    assert (
        '<span class="ids"><code>minimum_weighted_f1</code>, set by <code>gate.min_weighted_f1</code></span>' in html
    ) == (ending in {"deployed", "reused", "waiting", "held", "rejected"})


@pytest.mark.long
def test_report_has_the_plots_of_an_evaluated_run(deployed: tuple[str, dict[str, Any]]) -> None:
    html, data = deployed
    for caption in (
        "The mixture and each expert alone",
        "Gate weights",
        "Each emotion",
        "Confusion matrix",
        "Calibration of the probabilities",
        "Contribution of each expert",
        "Missing modality",
        "Degraded speech or text",
        "Codecs",
        "Other voices",
        "Speech encoder",
        "Text encoder",
        "Mixture of experts",
    ):
        assert f"<figcaption>{caption}" in html, caption
    assert "chosen by the size of train: learning_rate 0.0005, expert_rates {&#34;speech&#34;: 3.0}." in html
    assert '<p class="note">speech: 1 of its columns is constant in train and not used.</p>' in html
    assert html.count("<svg") == 15
    identifiers = re.findall(r'<(?!path|clipPath)\w+[^>]* id="([^"]+)"', html)
    assert identifiers == []
    assert data["metrics"]["test.weighted_f1"] == pytest.approx(0.85, abs=0.1)
    assert data["data"]["rows"]["test"] == 212 and data["data"]["synthetic"] is True
    assert [stage["task"] for stage in data["stages"]] == list(TASKS)


def test_report_sections_are_complete_and_ordered(deployed: tuple[str, dict[str, Any]]) -> None:
    html, _ = deployed
    seen = re.sub(r"\s+", " ", read(html).text)
    sections = [
        "The new model passed the gate and was released",
        "of its best expert (cross-modal) by -0.001",
        "not significantly below either by more than 0.010.",
        "The other 3 enabled rules passed too.",
        "difference of the new model: +0.148 (+0.091 to +0.203, paired)",
        "baseline: always the most frequent emotion",
        "Release gate",
        "comparison with the champion",
        "not below its own experts",
        "the deciding interval end closest to the bound",
        "24.3 MiB",
        "2 rules are off",
        "The mixture and each expert alone",
        "Each emotion",
        "Confusion matrix",
        "Expected calibration error 0.",
        "Brier score 0.",
        "Contribution of each expert",
        "Gate weights",
        "The gate at work",
        "So, did you talk to her after the party?",
        "Missing modality",
        "Degraded speech or text",
        "noise as loud as the speech",
        "Effects of real calls",
        "with six other voices, as loud as the speech it is",
        "Of 7 levels, the model is shown to be worse than the previous champion at",
        "this model, with its interval",
        "All levels (8)",
        "a telephone's band and GSM 06.10",
        "Parts of the test split",
        "1 to 3 words with",
        "Turns of the dialogue (3)",
        "Column speaker (7)",
        "Running costs",
        "per dialogue, median",
        "Speaker identification",
        "identifies the speaker, one of 7, of 64 % (58 to 71)",
        "This is only an indicator",
        "Dataset",
        "The code had uncommitted changes",
    ]
    places = [seen.find(words, 0) for words in sections]
    assert -1 not in places, sections[places.index(-1)]
    assert places == sorted(places)


def test_dialogue_plot_shows_text_labels_and_missing_modalities() -> None:
    weights = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    timeline = GateTimeline("d", [0, 1], ["joy", "fear"], ["joy", "anger"], weights, ["speech+text", "text"])
    shown = shown_dialogue(timeline.with_texts({0: "a\x00b"}), runs.EXPERTS)
    first, second = shown.turns
    assert shown.has_texts and first.text == "a b" and first.lacking == [] and second.lacking == ["speech"]
    assert first.spoken_shares == "speech 20 %, text 50 %, cross-modal 30 %" and second.spoken_shares == "text 100 %"
    assert not shown_dialogue(timeline, runs.EXPERTS).has_texts


@pytest.mark.long
def test_report_marks_a_champion_with_other_labels_as_incomparable(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    whole = recorded.evaluate()
    against = ChampionEvaluation(bundle_digest="b" * 64, incomparable="it knows other labels than this dataset")
    odd = whole.model_copy(update={"champion": against})
    recorded.record("evaluate_model", outputs={"report": recorded.publish(odd, "evaluate_model")})
    recorded.store.delete("artifacts/ModelBundle")
    seen = read(report(recorded)[0]).text
    assert "not comparable" in seen and "it knows other labels than this dataset" in seen


@pytest.mark.long
def test_report_takes_under_three_seconds_when_warm(tmp_path: Path) -> None:
    report(runs.held(tmp_path / "first"), log=True)
    started = time.process_time()
    page, facts = report(runs.held(tmp_path / "second"), log=True)
    assert time.process_time() - started < 3
    assert "/runs?workflowType=machine_learning" in page and "experiments/1/runs" in json.dumps(facts)


def test_report_escapes_hostile_text(tmp_path: Path) -> None:
    recorded = runs.RecordedRun(tmp_path, labels=[HOSTILE, "a\x00b\u202e", *runs.LABELS[2:]], sentences=[HOSTILE] * 16)
    recorded.start(profile=HOSTILE, command=HOSTILE, commit=HOSTILE, config={HOSTILE: HOSTILE})
    recorded.data()
    recorded.validate([])
    recorded.train()
    recorded.evaluate()
    recorded.judge("hold", [runs.rule(HOSTILE, "hold", HOSTILE)])
    html, data = report(recorded)
    page = read(html)
    assert page.loaded == [] and "<script" not in html.lower()
    assert "could not be drawn" not in html
    assert page.text.count(HOSTILE) > 8 and data["outcome"]["reasons"] == [HOSTILE]
    assert "The gate at work" in page.text and html.count(f"<bdi>{escape(HOSTILE)}</bdi>") > 5
    assert "\x00" not in "".join(re.findall(r"<svg.*?</svg>", html, re.S))


def test_report_escapes_a_hostile_failure_message(tmp_path: Path) -> None:
    recorded = runs.RecordedRun(tmp_path)
    recorded.record("resolve_inputs", "failed", exit_code=2, message=HOSTILE)
    html, _ = report(recorded)
    assert "<script" not in html and HOSTILE in read(html).text


@pytest.mark.long
def test_report_notes_missing_artifacts(tmp_path: Path) -> None:
    recorded = runs.deployed(tmp_path)
    for kind in ("UtteranceSet", "MoEModel", "EncoderCheckpoint", "GateVerdict", "ValidationReport"):
        recorded.store.delete(f"artifacts/{kind}")
    predictions = next(tmp_path.glob("artifacts/EvaluationReport/*/predictions.parquet"))
    predictions.write_bytes(b"PAR1 not at all")
    recorded.store.write("champion.json", b"{")
    recorded.store.delete_object("runs/run-0042/run.json")
    html, data = report(recorded)
    unreadable = " ".join(data["unreadable"])
    for word in (
        "UtteranceSet",
        "MoEModel",
        "EncoderCheckpoint",
        "GateVerdict",
        "predictions.parquet",
        "champion pointer",
    ):
        assert word in unreadable, word
    assert "Parts of this report are missing" in html and "The mixture and each expert alone" in html
    assert "Dialogue test_" not in html and data["outcome"]["exit_code"] == 0


@pytest.mark.long
def test_report_renders_an_evaluation_with_missing_metrics(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    whole = recorded.evaluate()
    metrics = {name: value for name, value in whole.metrics.items() if "expert" not in name and "f1.joy" not in name}
    odd = whole.model_copy(update={"metrics": metrics, "confusion": [[1, 2], [3]]})
    digest = recorded.publish(odd, "evaluate_model")
    recorded.record("evaluate_model", outputs={"report": digest})
    html, _ = report(recorded)
    assert "could not be drawn" in html and "Each emotion" in html
    assert finite({"a": [float("nan"), 1.0], "b": float("inf")}) == {"a": [None, 1.0], "b": None}


@pytest.mark.long
def test_report_of_a_single_expert_omits_the_gate(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    whole = recorded.evaluate()
    alone = whole.model_copy(update={"experts": ["text"]})
    recorded.record("evaluate_model", outputs={"report": recorded.publish(alone, "evaluate_model")})
    html, _ = report(recorded)
    assert (
        "Gate weights" not in html
        and "The gate at work" not in html
        and "text alone" in html
        and "AUC of trust" not in html
    )


@pytest.mark.long
def test_report_notes_a_collapsed_gate_and_its_leader(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    html, data = report(recorded)
    assert re.search(r"leads: speech \d+\s%, text \d+\s%, cross-modal \d+\s%; evenness 0\.\d\d", html)
    assert html.count(GATE_WORDS) == 1
    assert re.search(
        r"AUC of trust is 0\.\d\d \[0\.\d\d, \d\.\d\d\].* an average one in \d+\s%, the most confident one in \d+\s%",
        html,
    )
    assert re.search(r"AUC of each expert&#39;s weight, and of its confidence: speech 0\.\d\d \(0\.\d\d\), text ", html)
    assert "collapsed" not in html and data["metrics"]["test.ece"] > 0
    whole = recorded.evaluate()
    onto_text = {"text.led": 1.0, "text.mean": 0.97, "speech.led": 0.0, "cross_modal.led": 0.0}
    metrics = whole.metrics | {f"test.gate.{name}": value for name, value in onto_text.items()}
    odd = whole.model_copy(update={"metrics": metrics})
    recorded.record("evaluate_model", outputs={"report": recorded.publish(odd, "evaluate_model")})
    assert "The gate has collapsed onto the text expert" in report(recorded)[0]


@pytest.mark.long
def test_report_renders_an_evaluation_without_curves(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    whole = recorded.evaluate()
    later = re.compile(
        r"test\.(missing|late_fusion|ece|gate\.entropy|gate\..*auc|gate\..*_right|gate\.differing)|.*\.led"
    )
    odd = whole.model_copy(update={"metrics": {k: v for k, v in whole.metrics.items() if not later.match(k)}})
    recorded.record("evaluate_model", outputs={"report": recorded.publish(odd, "evaluate_model")})
    html, _ = report(recorded)
    assert (
        "Gate weights" in html
        and "Missing modality" not in html
        and "leads: " not in html
        and GATE_WORDS not in html
        and "AUC of" not in html
    )
    assert "could not be drawn" not in html


def test_report_renders_a_minimal_evaluation(tmp_path: Path) -> None:
    recorded = runs.held(tmp_path)
    whole = recorded.evaluate()
    bare = {"metrics": {"test.weighted_f1": 0.5}, "runtime": {}, "champion": None, "files": {}}
    recorded.record("evaluate_model", outputs={"report": recorded.publish(whole.model_copy(update=bare), "made")})
    html, data = report(recorded)
    assert "could not be drawn" not in html and data["unreadable"] == []
    assert "Confusion matrix" in html and read(html).loaded == []
    for section in ("Each emotion", "The gate at work", "Parts of the test split", "What it costs", "Can speakers"):
        assert section not in html, section


def test_report_of_an_unknown_run_raises_an_error(tmp_path: Path) -> None:
    html, data = report(runs.RecordedRun(tmp_path))
    assert "no stage has a record" in html and data["data"] is None
    assert "There is no champion yet" not in html


def test_a_champion_that_was_made_again_is_no_new_model() -> None:
    again = Outcome(run_id="r", exit_code=0, verdict="deployed", champion_before="a" * 64, bundle_digest="a" * 64)
    assert headline(again) == "The run made the champion again: it passed the gate and stays released."
    assert "so nothing changes" in consequence(again, "")
    for before in ("", "b" * 64):
        assert headline(again.model_copy(update={"champion_before": before})).startswith("The new model passed")


def test_overhead_is_run_time_outside_the_stages(tmp_path: Path) -> None:
    recorded = runs.killed(tmp_path)
    outcome = read_outcome(recorded.store, recorded.run_id)
    timing = measure(outcome, {"started": runs.STARTED}, runs.STARTED + 100)
    assert timing.compute == pytest.approx(0.8 * (1.2 + 6.4 + 9.1))
    assert timing.overhead == pytest.approx(100 - timing.compute)
    assert timing.overhead_share == pytest.approx(timing.overhead / 100)
    parallel = measure(outcome, {"started": runs.STARTED}, runs.STARTED + 2)
    assert parallel.overhead == 0 and "in parallel" in time_sentences(parallel, outcome)
    for one in (timing, parallel):
        assert f"in the table, {duration(1.2 + 6.4 + 9.1)} together, include loading" in time_sentences(one, outcome)
    without_start = measure(outcome, {}, runs.STARTED + 100)
    assert without_start.wall == pytest.approx(96)


def test_durations_are_formatted_for_reading() -> None:
    texts = [duration(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0.31, 9.99, 119.7, 148, 3599.9, 7265)]
    assert texts == ["0.3 s", "10 s", "2 min 0 s", "2 min 28 s", "1 h 00 min", "2 h 01 min"]


def test_next_steps_match_the_outcome(tmp_path: Path) -> None:
    released = read_outcome(runs.deployed(tmp_path / "a").store, "run-0042")
    commands = [step.command for step in next_steps(released, {}, "")]
    program = "mistere" if shutil.which("mistere") else str(Path(sys.executable).with_name("mistere"))
    assert commands[0] == f"{program} serve {released.bundle}"
    assert commands[1].startswith("echo '[{") and commands[1].endswith(
        f"> dialogue.json && {program} predict --dialogue dialogue.json"
    )
    released.example = f"{released.bundle}/example/dialogue.json"
    assert next_steps(released, {}, "")[1].command == f"{program} predict --dialogue {released.example}"
    mlflow = program.removesuffix("mistere") + "mlflow"
    assert f"{mlflow} ui --backend-store-uri sqlite:///mlflow.db" in commands
    remote = released.model_copy(
        update={"mlflow": "http://mlflow:5000", "experiment": "7", "endpoint": "http://mistere.example"}
    )
    texts = next_steps(remote, {}, "")
    assert texts[0].command.endswith("--url http://mistere.example")
    runs_page = "http://mlflow:5000/#/experiments/7/runs?workflowType=machine_learning"
    assert any(step.text.endswith(f"at {runs_page}.") for step in texts)
    inside = released.model_copy(update={"endpoint": "http://mistere-predictor.speech.svc.cluster.local"})
    forward, ask, *_ = next_steps(inside, {}, "")
    assert "inside the cluster at http://mistere-predictor.speech.svc.cluster.local" in forward.text
    assert forward.command == "kubectl port-forward --namespace speech service/mistere-predictor 8080:80"
    assert ask.command.endswith("--url http://localhost:8080")
    rejected = read_outcome(runs.data_rejected(tmp_path / "b").store, "run-0042")
    info = {"data": {"source": "my data"}, "command": "mistere run --data 'my data'"}
    commands = [step.command for step in next_steps(rejected, info, "")]
    assert commands[1:] == ["mistere run --data 'my data'"]
    for ending in ("held", "rejected"):
        outcome = read_outcome(runs.ENDINGS[ending](tmp_path / ending).store, "run-0042")
        steps = next_steps(outcome, {"command": "mistere run --profile sample"}, "")
        assert "a run with the same ones ends in the same way" in steps[1].text
        assert [step.command for step in steps] == ["", f"{program} settings"], "the rejected command is not repeated"
    failed = read_outcome(runs.ENDINGS["failed"](tmp_path / "failed").store, "run-0042")
    assert next_steps(failed, info, "")[-1].text.startswith("Run again: finished stages are reused")
    failed.exit_code = ExitCode.USAGE
    (step,) = next_steps(failed, info, "")
    assert "run again. The command was:" in step.text and step.command == "mistere run --data 'my data'"
    service = {"config": {"deployment": {"service": "moods"}}}
    assert next_steps(remote, service, "")[0].command.endswith("--url http://mistere.example --model moods")


def test_report_explains_a_release_that_failed_after_the_champion_moved(tmp_path: Path) -> None:
    recorded = runs.deployed(tmp_path)
    recorded.record("deploy_model", "failed", exit_code=1, message="MLflow does not answer.")
    outcome = read_outcome(recorded.store, recorded.run_id)
    assert "had already become the champion" in consequence(outcome, outcome.bundle_digest)
    assert "The champion stays in service" in consequence(outcome, outcome.champion_before)


def test_long_and_unusual_labels_fit_the_axis() -> None:
    assert plots.short("x" * 40) == "x" * 15 + "…"
    assert plots.short("a\x00b") == "a b"


def test_report_stage_is_not_cached() -> None:
    assert STAGE.name == "report_run" and not STAGE.cached and not STAGE.inputs and not STAGE.outputs


def test_engine_runs_and_records_the_report_stage(tmp_path: Path) -> None:
    recorded = runs.killed(tmp_path)
    values = execute(STAGE, recorded.step().run.model_dump(), RegistryConfig().model_dump())
    assert values["verdict"] == "failed" and values["exit_code"] == "1"
    outcome = read_outcome(recorded.store, recorded.run_id)
    assert outcome.stages[-1].task == "report_run" and "did not finish" in outcome.reasons[0]


@pytest.mark.long
@pytest.mark.parametrize("outcome", ["deployed", "held", "rejected"])
def test_a_modality_that_hurts_on_dev_is_named_in_the_verdict(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = SubsetScore(("speech", "text"), Interval(0.6, 0.5, 0.7), Interval(0.0, 0.0, 0.0))
    text = SubsetScore(("text",), Interval(0.63, 0.53, 0.73), Interval(0.03, 0.01, 0.05))
    original = recorded_run.more_metrics
    monkeypatch.setattr(
        recorded_run, "more_metrics", lambda whole: original(whole) | ModalityChoice([both, text]).metrics()
    )
    recorded = getattr(runs, outcome)(tmp_path)
    sentence = "text alone scores +3.0 [+1.0, +5.0] points of weighted F1 against speech and text: speech hurts and is left out."
    page, _ = report(recorded)
    assert sentence in read_outcome(recorded.store, recorded.run_id).reasons[-1]
    assert page.count(sentence) == 2 and "speech + text: 0.600" in page and "text: 0.630, +3.0 [+1.0, +5.0]" in page
    assert "brought by speech: -3.0 [-5.0, -1.0]" in page


@pytest.mark.long
def test_without_a_comparison_no_modality_is_named(tmp_path: Path) -> None:
    assert "What each modality brings" not in report(runs.deployed(tmp_path))[0]


@pytest.mark.long
def test_records_of_other_inputs_are_not_remembered(tmp_path: Path) -> None:
    """A run that was cloned with other parameters, or repeated, finds records of earlier inputs under its id."""
    recorded = runs.held(tmp_path)

    def change(task: str, digest: str, **values: str) -> None:
        key = stage_record_key(recorded.run_id, task)
        record = StageRecord.unsealed(recorded.store.read(key)[0])
        assert record is not None
        changed = record.model_copy(update={"inputs_digest": digest, "values": {**record.values, **values}})
        recorded.store.write(key, changed.sealed())

    def remembered(name: str) -> list[str]:
        execute(STAGE, recorded.step().run.model_dump(), RegistryConfig().model_dump())
        key = f"finished/{name}.json"
        if not recorded.store.exists(key):
            return []
        return [record.task for record in FinishedRun.model_validate_json(recorded.store.read(key)[0]).records]

    tasks = [task for task in TASKS if task not in {"resolve_inputs", "register_model", "deploy_model"}]
    for task in tasks:
        change(task, "earlier")
    change("resolve_inputs", "", **{INPUTS_VALUE: "now"})
    change("pull_data", "now")
    assert remembered("now") == []
    change("resolve_inputs", "", **{INPUTS_VALUE: "earlier"})
    assert remembered("earlier") == [task for task in tasks if task != "pull_data"]
