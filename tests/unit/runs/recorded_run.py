"""The stored records of a run, written stage by stage without running anything."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import EncoderIdentity, RunIdentity
from mistere.artifacts.io import publish, read_manifest
from mistere.artifacts.manifest import MadeBy, Manifest
from mistere.artifacts.manifests import (
    ChampionEvaluation,
    DatasetShard,
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    ModelBundle,
    MoEModel,
    RuleResult,
    UtteranceSet,
    ValidationReport,
)
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.sealed_record import seal
from mistere.artifacts.usage import Usage
from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.data.calls.catalogue import effects_named
from mistere.data.conditions import usual_conditions
from mistere.engine.stage import RunContext, StageRecord, Step, stage_record_key
from mistere.evaluation.gate_timeline import TIMELINES_FILE, liveliest, write_timelines
from mistere.evaluation.missing_modality import SHARES
from mistere.evaluation.split_metrics import measure, put, write_predictions
from mistere.metrics.classification import Interval
from mistere.metrics.missing_curve import CurvePoint, curve_metrics
from mistere.metrics.predictions import PREDICTIONS_FILE
from mistere.metrics.robustness import CallFigures, LevelFigures, ModelFigures, RobustnessPoint, robustness_metrics
from mistere.model.mixture.prediction import DialoguePrediction
from mistere.runs.tasks import ordered_tasks

LABELS = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
EXPERTS = ["speech", "text", "cross_modal"]
STARTED = 1_770_000_000.0
_SECONDS = {
    "resolve_inputs": 1.2,
    "pull_data": 6.4,
    "validate_data": 9.1,
    "finetune_encoder-speech": 148.0,
    "finetune_encoder-text": 71.0,
    "embed_shard-speech": 22.0,
    "embed_shard-text": 8.3,
    "extract_embeddings-speech": 0.4,
    "extract_embeddings-text": 0.3,
    "train_moe": 64.0,
    "evaluate_model": 11.0,
    "gate_model": 3.0,
    "register_model": 5.5,
    "deploy_model": 24.0,
    "plan_distillation": 1.1,
    "open_teacher": 2.0,
    "distill_encoder-speech": 52.0,
    "distill_encoder-text": 31.0,
    "embed_shard-speech-student": 4.0,
    "embed_shard-text-student": 1.5,
    "extract_embeddings-speech-student": 0.4,
    "extract_embeddings-text-student": 0.3,
    "distill_mixture": 18.0,
}
SENTENCES = [
    "So, did you talk to her after the party?",
    "I did, and it went rather better than I had feared.",
    "Really? The last time you two met she would not even look at you, let alone sit down and listen to the whole of it.",
    "I know!",
    "And what did she say about the money?",
    "That she never wants to hear about it again, and that I should have asked before I signed anything.",
    "Well, she is right about that.",
    "Oh, come on. You said yourself that nobody could have known.",
    "I said that nobody had told you. That is not quite the same thing, is it?",
    "Fine. Let's just go home.",
    "Wait, I can't find my keys.",
    "You are sitting on them.",
]
GAIN = Interval(0.148, 0.091, 0.203)
RUNTIME = {
    "runtime.dialogue_ms.p50": 463.2,
    "runtime.dialogue_ms.p95": 1662.8,
    "runtime.utterance_ms": 92.4,
    "runtime.memory_mb": 1431.4,
    "runtime.size_mb": 24.3,
    "runtime.size_with_base_mb": 862.8,
}
_SLICES = {
    "modalities": {"speech+text": (0.03, 196), "text": (-0.09, 16)},
    "dialogue_turns": {"1-5": (-0.01, 41), "6-10": (0.02, 103), "11-20": (-0.03, 68)},
    "words": {"1-3": (-0.21, 37), "4-8": (0.0, 71), "9-16": (0.05, 88), "17+": (0.07, 16)},
    "seconds": {"0-1": (-0.12, 21), "1-2": (-0.02, 66), "2-4": (0.01, 90), "4-8": (0.04, 33), "8+": (0.1, 2)},
    "speaker": {name: (shift / 100, 26) for shift, name in enumerate(("Ann", "Bo", "Chi", "Dee", "Eli", "Flo", "Gus"))},
}
_LOSSES = (0.011, 0.038, 0.117, 0.021, 0.034, -0.006, 0.055)

_SCRATCH = tempfile.TemporaryDirectory()
"""Directory of the registry database. The page shows its path, which must not contain a test name."""


def more_metrics(whole: float) -> dict[str, float]:
    """Metrics not derived from predictions: curve, slices, robustness, the speaker probe."""

    def interval(value: float, width: float) -> Interval:
        return Interval(value, value - width, min(1.0, value + width))

    curve = [
        CurvePoint(modality, share, interval(whole - cost * share, 0.04))
        for modality, cost in (("speech", 0.12), ("text", 0.3))
        for share in SHARES
    ]
    points = [
        RobustnessPoint(condition, interval(whole - loss, 0.05), interval(loss, 0.02))
        for condition, loss in zip(usual_conditions(), _LOSSES, strict=True)
    ]
    metrics = curve_metrics(curve) | robustness_metrics(interval(whole, 0.05), points)
    for kind, parts in _SLICES.items():
        for value, (shift, support) in parts.items():
            name = f"test.slice.{kind}.{value}"
            put(metrics, f"{name}.weighted_f1", interval(whole + shift, 0.05))
            metrics[f"{name}.support"] = float(support)
    put(metrics, "test.speaker_probe.accuracy", Interval(0.64, 0.58, 0.71))
    put(metrics, "test.speaker_probe.beyond_chance", Interval(0.41, 0.33, 0.48))
    return metrics | {"test.speaker_probe.chance": 0.23, "test.speaker_probe.speakers": 7.0}


def call_metrics(whole: float, champion: bool) -> dict[str, float]:
    """Metrics of ``evaluation.calls`` with two effects; the candidate is clearly worse than the champion where voices are loud."""

    def level(cost: float) -> LevelFigures:
        def figures(value: float, ece: float) -> ModelFigures:
            loss = Interval(cost, cost - 0.02, cost + 0.02) if cost else None
            return ModelFigures(
                Interval(value, value - 0.05, value + 0.05), Interval(ece, ece - 0.02, ece + 0.02), loss
            )

        model = figures(whole - cost, 0.05 + cost / 2)
        if not champion:
            return LevelFigures(212, model)
        gain = 0.02 - cost / 3
        return LevelFigures(
            212, model, figures(whole - cost - gain, 0.06 + cost / 3), Interval(gain, gain - 0.03, gain + 0.03)
        )

    named = [one for effect in effects_named(["codec", "babble"]) for one in effect.levels]
    levels = {one.name: level(0.01 + 0.03 * number) for number, one in enumerate(named)}
    return CallFigures(level(0.0), levels).metrics()


@dataclass
class RecordedRun:
    """A store with one run in it, written stage by stage."""

    root: Path
    run_id: str = "run-0042"
    labels: list[str] = field(default_factory=lambda: list(LABELS))
    synthetic: bool = True
    sentences: list[str] = field(default_factory=lambda: list(SENTENCES))
    clock: float = STARTED + 4.0

    def __post_init__(self) -> None:
        self.store = LocalStore(self.root)
        self._rng = np.random.default_rng(7)

    def start(self, **info: Any) -> None:
        facts = {
            "run_id": self.run_id,
            "profile": "sample",
            "started": STARTED,
            "config": {"seed": 0, "gate": {"min_weighted_f1": 0.4}},
            "command": "mistere run --profile sample",
            "commit": "4f2a9c1d7be0",
            "dirty": True,
            "data": {"source": "data.dvc", "dvc_digest": "c1a5d755692bf1316b31a5fec68d6204.dir"},
            **info,
        }
        self.store.write(f"runs/{self.run_id}/run.json", seal(facts))

    def record(self, task: str, status: str = "done", **fields: Any) -> None:
        seconds = 0.3 if status == "reused" else _SECONDS[task]
        fields.setdefault("usage", Usage(cpu_seconds=1.5 * seconds, memory_gib_seconds=seconds, read_bytes=3 << 20))
        record = StageRecord(
            task=task,
            stage=task.split("-")[0],
            status=status,
            key="ab" * 32,
            started=self.clock,
            seconds=seconds,
            compute_seconds=0.0 if status != "done" else seconds * 0.8,
            import_seconds=0.0 if status == "reused" else seconds * 0.1,
            peak_memory_mb=180.0 + 8 * seconds,
            **fields,
        )
        self.clock += seconds + 1.5
        self.store.write(stage_record_key(self.run_id, task), record.sealed())

    def publish(self, manifest: Manifest, task: str, *files: Path) -> str:
        folder = self.root / "making"
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.move(file, folder / file.name)
        made_by = MadeBy(
            stage=task, key="ab" * 32, code="cd" * 32, run=RunIdentity(commit="4f2a9c1d7be0"), config={"interval": 0.95}
        )
        return publish(self.store, manifest.model_copy(update={"made_by": made_by}), folder).digest

    def data(self, status: str = "done", champion: str = "none") -> None:
        self.record("resolve_inputs", values={"data_digest": "0783", "champion_digest": champion})
        rows = {"train": 1216, "dev": 208, "test": 212}
        shards = [
            DatasetShard(name=f"{split}-0.parquet", md5="0" * 32, size=9, split=split, rows=n)
            for split, n in rows.items()
        ]  # type: ignore[arg-type]
        utterances = UtteranceSet(
            name="mistere-sample",
            dvc_digest="c1a5d755692bf1316b31a5fec68d6204.dir",
            remote="sample",
            info_md5="0" * 32,
            labels=self.labels,
            language="en",
            speaker_disjoint=True,
            synthetic=self.synthetic,
            shards=shards,
            rows=rows,
            dialogues={"train": 152, "dev": 26, "test": 26},
            modalities=["speech", "text"],
            test_digest="t" * 64,
        )
        self.record("pull_data", status, outputs={"utterances": self.publish(utterances, "pull_data")})

    def validate(self, failed: list[str], status: str = "done") -> None:
        verdict = "reject" if failed else "pass"
        report = ValidationReport(
            verdict=verdict,  # type: ignore[arg-type]
            failed=failed,
            expectations=31,
            utterances=1636,
            audio_seconds=4210.0,
        )
        digest = self.publish(report, "validate_data")
        self.record("validate_data", status, outputs={"report": digest}, values={"verdict": verdict})
        self.store.write(f"runs/{self.run_id}/reports/validation_report.html", b"<p>fine</p>")

    def train(self, status: str = "done") -> None:
        for modality, epochs, top in (("speech", 8, 0.44), ("text", 6, 0.55)):
            task = f"finetune_encoder-{modality}"
            encoder = EncoderCheckpoint(modality=modality, labels=self.labels, history=self._history(epochs, top))  # type: ignore[arg-type]
            self.record(task, status, outputs={"encoder": self.publish(encoder, task)})
            self.record(f"embed_shard-{modality}", status)
            self.record(f"extract_embeddings-{modality}", status)
        mixture = MoEModel(
            labels=self.labels,
            dimensions={"speech": 8, "text": 8},
            experts=EXPERTS,
            parameters=1234,
            temperature=1.1,
            encoders={name: EncoderIdentity(test_digest="t" * 64) for name in ("speech", "text")},
            history=[{k: v for k, v in point.items() if k != "dev_loss"} for point in self._history(40, 0.63)],
            automatic={"learning_rate": 5e-4, "expert_rates": {"speech": 3.0}},
            notes=["speech: 1 of its columns is constant in train and not used."],
        )
        self.record("train_moe", status, outputs={"model": self.publish(mixture, "train_moe")})

    def _history(self, epochs: int, top: float) -> list[dict[str, float]]:
        return [
            {
                "epoch": epoch,
                "loss": round(1.9 * 0.9**epoch + 0.3, 4),
                "dev_loss": round(1.7 * 0.92**epoch + 0.5 + 0.01 * epoch, 4),
                "dev_weighted_f1": round(float(top * (1 - 0.7**epoch) - 0.002 * epoch + self._rng.normal(0, 0.008)), 4),
            }
            for epoch in range(1, epochs + 1)
        ]

    def evaluate(self, status: str = "done", champion: str = "", difference: Interval = GAIN) -> EvaluationReport:
        names, answers, true = self._predictions(26)
        measured = measure(answers, np.concatenate(true), names, self.labels, EXPERTS, EvaluationConfig(resamples=100))
        files = [self.root / name for name in (PREDICTIONS_FILE, TIMELINES_FILE)]
        write_predictions(files[0], answers, true, names)
        timelines = liveliest(names, answers, true, self.labels)
        write_timelines(files[1], [one.with_texts(dict(enumerate(self.sentences))) for one in timelines])
        metrics = measured.metrics | more_metrics(measured.metrics["test.weighted_f1"])
        metrics |= call_metrics(metrics["test.weighted_f1"], bool(champion))
        against = None
        if champion:
            against = ChampionEvaluation(bundle_digest=champion, test_digest="t" * 64)
            before = metrics["test.weighted_f1"] - difference.value
            put(metrics, "champion.weighted_f1", Interval(before, before - 0.05, before + 0.05))
            put(metrics, "champion.difference.weighted_f1", difference)
            metrics["champion.disagreement"] = 0.22
        report = EvaluationReport(
            labels=self.labels,
            experts=EXPERTS,
            test_digest="t" * 64,
            utterances=sum(len(labels) for labels in true),
            dialogues=len(names),
            metrics=metrics,
            runtime=RUNTIME,
            confusion=measured.confusion.tolist(),
            champion=against,
        )
        digest = self.publish(report, "evaluate_model", *files)
        self.record("evaluate_model", status, outputs={"report": digest})
        return read_manifest(self.store, EvaluationReport, digest)

    def _predictions(self, dialogues: int) -> tuple[list[str], list[DialoguePrediction], list[np.ndarray]]:
        classes = len(self.labels)
        shares = np.array([0.34, 0.12, 0.08, 0.1, 0.16, 0.05, 0.15][:classes])
        names, answers, true = [], [], []
        for index in range(dialogues):
            turns = int(self._rng.integers(5, 13))
            labels = self._rng.choice(classes, size=turns, p=shares / shares.sum())
            hit = np.array([0.45, 0.7, 0.78])  # how often each expert is right
            by_expert = self._rng.dirichlet(np.ones(classes) * 0.6, size=(turns, 3)) * 0.8
            for turn, label in enumerate(labels):
                by_expert[turn, self._rng.random(3) < hit, label] += 0.6
            by_expert /= by_expert.sum(-1, keepdims=True)
            weights = self._rng.dirichlet([1.2, 2.2, 3.0], size=turns)
            mixed = (weights[:, :, None] * by_expert).sum(1)
            modalities = ["text" if self._rng.random() < 0.06 else "speech+text" for _ in range(turns)]
            names.append(f"test_{index:03d}")
            true.append(labels.astype(np.int64))
            answers.append(DialoguePrediction(mixed, weights, by_expert, modalities))
        return names, answers, true

    def judge(self, verdict: str, rules: list[RuleResult], status: str = "done") -> None:
        gate = GateVerdict(verdict=verdict, rules=rules)  # type: ignore[arg-type]
        digest = self.publish(gate, "gate_model")
        self.record("gate_model", status, outputs={"verdict": digest}, values={"verdict": verdict})

    def bundle(self, metrics: dict[str, float]) -> str:
        bundle = ModelBundle(
            name="mistere",
            labels=self.labels,
            experts=EXPERTS,
            encoders={},
            temperature=1.1,
            test_digest="t" * 64,
            metrics=metrics,
            dvc_digest="0783",
        )
        return self.publish(bundle, "register_model")

    def release(self, metrics: dict[str, float]) -> None:
        digest = self.register(metrics)
        location = self.store.location(f"artifacts/ModelBundle/{digest}")
        values = {
            "deployed": "true",
            "bundle": location,
            "champion": digest,
            "mlflow": "sqlite:///mlflow.db",
            "message": "The endpoint answered a held-out dialogue exactly as the offline evaluation did.",
        }
        self.record("deploy_model", values=values)

    def distil(self, teacher: str) -> None:
        """The records of a distillation's steps before its evaluation."""
        values = {"plan_distillation": {"teacher_digest": teacher, "data_digest": "0783"}}
        for task in ordered_tasks(["plan_distillation"], ("speech", "text")):
            if task in {"evaluate_model", "gate_model", "register_model"}:
                break
            self.record(task, values=values.get(task, {}))

    def register(self, metrics: dict[str, float], values: dict[str, str] | None = None) -> str:
        digest = self.bundle(metrics)
        location = self.store.location(f"artifacts/ModelBundle/{digest}")
        self.record(
            "register_model", outputs={"bundle": digest}, values={"bundle_location": location, **(values or {})}
        )
        return digest

    def step(self) -> Step:
        context = RunContext(
            run_id=self.run_id,
            store=self.store.uri,
            tracking_uri=f"sqlite:///{_SCRATCH.name}/mlflow.db",
            profile="tiny",
        )
        return Step(
            "report_run", "k", context, self.store, Progress("report_run"), Checkpoints(self.store, "report_run", "k")
        )
