"""Stored records of finished runs: one run for each outcome."""

from __future__ import annotations

from pathlib import Path

from mistere.artifacts.manifests import EncoderCheckpoint, RuleResult
from mistere.metrics.classification import Interval
from tests.unit.runs.recorded_run import EXPERTS, LABELS, STARTED, RecordedRun

__all__ = ["ENDINGS", "EXPERTS", "LABELS", "STARTED", "RecordedRun"]


def rule(name: str, outcome: str, sentence: str, measured: float | None = 0.5, bound: float | None = 0.4) -> RuleResult:
    return RuleResult(rule=name, outcome=outcome, measured=measured, bound=bound, sentence=sentence)  # type: ignore[arg-type]


FLOOR = rule("minimum_weighted_f1", "promote", "Weighted F1 is 0.712, surely above the minimum of 0.400.").model_copy(
    update={"settings": ["min_weighted_f1"]}
)
COMPARED = (
    "Weighted F1 differs from the champion's by -0.004 (95 % interval -0.031 to +0.022): that does not settle it."
)
TAUGHT = "Weighted F1 differs from the teacher's by -0.004 (paired 95 % interval -0.009 to +0.001): not worse by more than 0.020."
WORSE = "Weighted F1 differs from the champion's by -0.101 (95 % interval -0.140 to -0.060): worse by more than 0.010."
WAITS = "The model is registered as version 5 of mistere and waits for approval."
BETTER = "Weighted F1 differs from the champion's by +0.148 (paired 95 % interval +0.091 to +0.203): not worse by more than 0.010."
GAIN = (
    "The mixture's weighted F1 differs from that of its best expert (cross-modal) by -0.001 (paired 95 % interval -0.030 to +0.027) and "
    "from that of the plain mean of its experts by +0.001 (-0.018 to +0.018): not significantly below either by more than 0.010."
)
OTHERS = [
    rule("mixture_gain", "promote", GAIN, 0.018, -0.01),
    rule(
        "above_majority", "promote", "Always naming the most frequent label gives a weighted F1 of 0.180.", 0.71, 0.18
    ),
    rule("bundle_size", "promote", "The bundle's own parts are 24.3 MiB; up to 500 MiB are allowed.", 24.3, 500),
    rule("committed_code", "promote", "The code that made it has changes that no commit holds.", None, None),
    rule("latency", "promote", "95 of 100 raw dialogues are answered within 1663 ms.", 1662.8, 5000),
    rule("class_floor", "off", "No floor for each emotion is set (gate.min_class_f1).", None, None),
    rule(
        "robustness", "off", "No bound on what degraded input may cost is set (gate.max_robustness_loss).", None, None
    ),
]


def deployed(root: Path, status: str = "done") -> RecordedRun:
    run = RecordedRun(root)
    champion = run.bundle({"test.weighted_f1": 0.664, "test.weighted_f1.low": 0.60, "test.weighted_f1.high": 0.72})
    run.start()
    run.data(status, champion)
    run.validate([], status)
    run.train(status)
    report = run.evaluate(status, champion)
    run.judge("promote", [FLOOR, rule("champion_comparison", "promote", BETTER, 0.091, -0.01), *OTHERS], status)
    run.release(report.metrics)
    return run


def reused(root: Path) -> RecordedRun:
    return deployed(root, "reused")


def waiting(root: Path) -> RecordedRun:
    run = RecordedRun(root)
    run.start()
    run.data()
    run.validate([])
    run.train()
    report = run.evaluate()
    run.judge("promote", [FLOOR, *OTHERS])
    run.register(report.metrics, {"waits_for": WAITS, "state": "waiting", "approvable": "mistere/5", "next": "wait"})
    return run


def distilled(root: Path, values: dict[str, str]) -> RecordedRun:
    """A run of the distillation pipeline whose registration had these values."""
    run = RecordedRun(root)
    run.start()
    teacher = run.bundle({"test.weighted_f1": 0.72})
    run.distil(teacher)
    report = run.evaluate(champion=teacher, difference=Interval(-0.004, -0.009, 0.001))
    run.judge("promote", [rule("teacher_comparison", "promote", TAUGHT, -0.009, -0.02), *OTHERS[3:4]])
    run.register(report.metrics, values)
    return run


def _judged(root: Path, verdict: str, sentence: str, difference: Interval) -> RecordedRun:
    run = RecordedRun(root, synthetic=False)
    run.start()
    champion = run.bundle({"test.weighted_f1": 0.72})
    run.data(champion=champion)
    run.validate([])
    run.train()
    run.evaluate(champion=champion, difference=difference)
    run.judge(verdict, [FLOOR, *OTHERS, rule("champion_comparison", verdict, sentence, difference.low, -0.01)])
    return run


def held(root: Path) -> RecordedRun:
    return _judged(root, "hold", COMPARED, Interval(-0.004, -0.031, 0.022))


def rejected(root: Path) -> RecordedRun:
    return _judged(root, "reject", WORSE, Interval(-0.101, -0.14, -0.06))


def data_rejected(root: Path) -> RecordedRun:
    run = RecordedRun(root)
    run.start()
    run.data()
    run.validate(
        [
            "train: 3 utterances have a label that dataset.yaml does not list ('angry' in train_0004 turn 2, and 2 more).",
            "test: 17 of 212 utterances (8.0 %) are silent, at most 5.0 % may be; the first is test_003 turn 1.",
        ]
    )
    return run


def failed(root: Path) -> RecordedRun:
    run = RecordedRun(root)
    run.start()
    run.data()
    run.validate([])
    message = "the disk is full; free some space or choose another folder (scratch)."
    run.record("finetune_encoder-speech", "failed", exit_code=1, message=f"finetune_encoder-speech: {message}")
    text = EncoderCheckpoint(modality="text", labels=run.labels, history=run._history(6, 0.55))
    run.record("finetune_encoder-text", outputs={"encoder": run.publish(text, "finetune_encoder-text")})
    return run


def killed(root: Path) -> RecordedRun:
    run = RecordedRun(root)
    run.start()
    run.data()
    run.validate([])
    return run


ENDINGS = {
    "deployed": deployed,
    "reused": reused,
    "waiting": waiting,
    "held": held,
    "rejected": rejected,
    "data rejected": data_rejected,
    "failed": failed,
    "killed": killed,
}
