"""Runs as they lie in the store once they have ended: one for each way to end."""

from __future__ import annotations

from pathlib import Path

from components.core.manifests import EncoderCheckpoint, RuleResult
from tests.unit.recorded_run import EXPERTS, LABELS, STARTED, RecordedRun

__all__ = ["ENDINGS", "EXPERTS", "LABELS", "STARTED", "RecordedRun"]


def rule(name: str, outcome: str, sentence: str) -> RuleResult:
    return RuleResult(rule=name, outcome=outcome, measured=0.5, bound=0.4, sentence=sentence)  # type: ignore[arg-type]


FLOOR = rule("minimum_weighted_f1", "promote", "Weighted F1 is 0.712, surely above the minimum of 0.400.")
COMPARED = (
    "Weighted F1 differs from the champion's by -0.004 (95 % interval -0.031 to +0.022): that does not settle it."
)
WORSE = "Weighted F1 differs from the champion's by -0.101 (95 % interval -0.140 to -0.060): worse by more than 0.010."


def deployed(root: Path, status: str = "done") -> RecordedRun:
    run = RecordedRun(root)
    champion = run.bundle({"test.weighted_f1": 0.664, "test.weighted_f1.low": 0.60, "test.weighted_f1.high": 0.72})
    run.start()
    run.data(status, champion)
    run.validate([], status)
    run.train(status)
    report = run.evaluate(status)
    better = rule("champion_comparison", "promote", "Weighted F1 differs from the champion's by +0.048: not worse.")
    run.judge("promote", [FLOOR, better], status)
    run.release(report.metrics)
    return run


def reused(root: Path) -> RecordedRun:
    return deployed(root, "reused")


def _judged(root: Path, verdict: str, sentence: str) -> RecordedRun:
    run = RecordedRun(root, synthetic=False)
    run.start()
    run.data(champion=run.bundle({"test.weighted_f1": 0.72}))
    run.validate([])
    run.train()
    run.evaluate()
    run.judge(verdict, [FLOOR, rule("champion_comparison", verdict, sentence)])
    return run


def held(root: Path) -> RecordedRun:
    return _judged(root, "hold", COMPARED)


def rejected(root: Path) -> RecordedRun:
    return _judged(root, "reject", WORSE)


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
    message = "the disk is full; free some space or choose another --output (scratch)."
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
    "held": held,
    "rejected": rejected,
    "data rejected": data_rejected,
    "failed": failed,
    "killed": killed,
}
