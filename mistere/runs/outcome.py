"""The outcome of a run, read from its records in the store: for the command's exit code, for ``--wait`` and for the report.

The rules, in this order: a failed stage sets its own exit code; a rejected dataset gives 4; a gate that held or rejected gives
3, and so does a model that a person rejected before; a finished deployment gives 0, and so do finished scores and a student that is the champion; traffic that has
drifted gives 5, and other traffic 0; a registered model that waits for approval gives 6; anything else is an unfinished run and gives 1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mistere.artifacts.io import artifact_key, read_manifest
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ModelBundle, ValidationReport
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import unseal
from mistere.common.errors import ArtifactError, ExitCode, MistereError
from mistere.config.modalities import modalities_of
from mistere.config.stages import DISTILLATION, stages
from mistere.engine.stage import StageRecord, stage_record_key
from mistere.registry.lineage import read_lineage
from mistere.registry.release.champion import NO_CHAMPION
from mistere.runs.tasks import ordered_tasks, pipeline_of

M = TypeVar("M", bound=Manifest)
EXIT_HANDLER: Final = next((name for name, info in stages().items() if info.exit_handler), "")
RELEASE_VALUE: Final = "release"
"""The value of the exit handler that says what has become of a release that the run had left unfinished."""
FINISHED: Final = frozenset({"done", "reused"})
Verdict = Literal["deployed", "waiting", "held", "rejected", "data rejected", "failed", "scored", "monitored"]
SAME_MODEL: Final = "This model is the champion itself: the same data, code and settings made it again, so there is nothing new to release."
SAME_STUDENT: Final = (
    "The student is version {version}, which a person released before and which is the champion already."
)
EXAMPLE: Final = "example/dialogue.json"
"""The example dialogue in a bundle (:mod:`mistere.serving.example_dialogue`)."""
REPAIR: Final = "restore it from a copy of the store, or start the run again, which finds the finished steps"
"""What to do about a damaged record of a run."""
STOPPED: Final = "The run was stopped; the next run finds its finished steps."
_KILLED: Final = (
    "If nobody stopped it and the log has no trace of an error, its process was killed, most likely because memory ran out (see the kernel's log, `dmesg`): give it more memory or "
    "lower the batch size, and run again; finished steps are found again."
)
_SCORES: Final = "summarise_scores"
"""The last stage of the scoring pipeline."""
SCORES_PAGE: Final = "scores.html"
_MONITOR: Final = "monitor_traffic"
"""The stage of the monitoring pipeline."""
TRAFFIC_PAGE: Final = "traffic.html"


class Estimate(BaseModel):
    """A metric and its interval, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def exactly_zero(self) -> bool:
        """Whether a paired difference is 0 in every resample, as of two models that predict alike."""
        return self.value == self.low == self.high == 0

    @classmethod
    def of(cls, metrics: dict[str, float], name: str) -> Estimate | None:
        """The metric ``name`` with ``name.low`` and ``name.high``; None if it was not measured."""
        if name not in metrics:
            return None
        return cls(value=metrics[name], low=metrics.get(f"{name}.low"), high=metrics.get(f"{name}.high"))


class Outcome(BaseModel):
    """The outcome of a run.

    Attributes:
        exit_code: of the command.
        modalities: of the run.
        verdict: the outcome in one or two words.
        reasons: a sentence for each reason.
        message: of the deployment.
        candidate: the registered version that a person may approve, as ``mistere approve`` takes it; empty if there is none.
        stages: records of the tasks that were reached, in the pipeline's order.
        champion_before: bundle digest of the champion at the start of the run; empty if there was none.
        teacher: bundle digest of the teacher of a distillation, which takes the champion's place in the comparison; otherwise empty.
        champion_weighted_f1: the weighted F1 of champion or teacher on the same test split; None if unknown.
        champion_difference: the candidate's weighted F1 minus that of champion or teacher, paired; None if unknown.
        bundle: location of the bundle; empty if none was made.
        example: location of the bundle's example dialogue; empty if it has none.
        is_champion: whether the run made again what is the champion already.
        on_cluster: whether the store is a remote one, so that the run's commands were typed on another machine.
        report: location of the run report.
        endpoint: address of the inference service, if the deployment named one.
        mlflow: the tracking server or database, if the run was logged there.
        experiment: MLflow's id of the run's experiment; empty if unknown.
        stopped: whether somebody stopped the run.
        unreadable: a sentence for each record or artifact that should have given a reason or a metric and could not be read.
        damaged: locations of the stage records that are damaged.
    """

    model_config = ConfigDict(protected_namespaces=())

    run_id: str
    modalities: list[str] = Field(default_factory=list)
    exit_code: int = int(ExitCode.ERROR)
    verdict: Verdict = "failed"
    reasons: list[str] = Field(default_factory=list)
    message: str = ""
    candidate: str = ""
    stages: list[StageRecord] = Field(default_factory=list)
    weighted_f1: Estimate | None = None
    experts: dict[str, Estimate] = Field(default_factory=dict)
    majority_weighted_f1: float | None = None
    champion_before: str = ""
    teacher: str = ""
    champion_weighted_f1: Estimate | None = None
    champion_difference: Estimate | None = None
    bundle: str = ""
    bundle_digest: str = ""
    example: str = ""
    is_champion: bool = False
    on_cluster: bool = False
    report: str = ""
    endpoint: str = ""
    mlflow: str = ""
    experiment: str = ""
    stopped: bool = False
    unreadable: list[str] = Field(default_factory=list)
    damaged: list[str] = Field(default_factory=list)

    @property
    def compared_with(self) -> str:
        """What the comparison is with: ``teacher`` in a distillation, else ``champion``."""
        return "teacher" if self.teacher else "champion"

    @property
    def unexplained(self) -> bool:
        """Whether the run failed and no step recorded a reason: a process, pod or node was lost, or Kubeflow Pipelines failed."""
        failed = [record for record in self.stages if record.status == "failed" and record.task != EXIT_HANDLER]
        explained = any(record.explained for record in failed)
        return self.verdict == "failed" and not self.stopped and not explained

    def record(self, task: str) -> StageRecord | None:
        """The record of a task; None if it was not reached."""
        return next((record for record in self.stages if record.task == task), None)

    def finished(self, task: str) -> StageRecord | None:
        """The record of a task that ran or was reused, and so has outputs; None otherwise."""
        record = self.record(task)
        return record if record is not None and record.status in FINISHED else None


def report_key(run_id: str, name: str) -> str:
    """The key of a report in the store."""
    return f"runs/{run_id}/reports/{name}"


def stop_key(run_id: str) -> str:
    """The key of the note that somebody stopped the run. Kubeflow Pipelines forgets it: a stopped run counts as failed there."""
    return f"runs/{run_id}/stopped.json"


def note_stop(store: ObjectStore, run_id: str) -> None:
    """Note in the store that somebody stopped the run."""
    store.write(stop_key(run_id), json.dumps({"noted": time.time()}).encode())


def run_info_key(run_id: str) -> str:
    """The key of the record of a run's start in the store."""
    return f"runs/{run_id}/run.json"


def read_run_info(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """The record of the run's start; empty if there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        info = unseal(store.read(run_info_key(run_id))[0])
    except MissingObjectError:
        return {}
    if info is None:
        raise ArtifactError(f"the record of the run's start {store.location(run_info_key(run_id))} is damaged", REPAIR)
    return info


def has_stages(store: ObjectStore, run_id: str) -> bool:
    """Whether a stage of a run has begun."""
    return any(True for _ in store.keys(f"runs/{run_id}/stages"))


def read_outcome(store: ObjectStore, run_id: str) -> Outcome:
    """Read the outcome from the run's records; a damaged or missing artifact or record only removes its sentences and metrics."""
    outcome = Outcome(
        run_id=run_id,
        report=store.location(report_key(run_id, "run_report.html")),
        on_cluster=not isinstance(store, LocalStore),
    )
    with suppress(MistereError):  # who reads the run's start says so
        outcome.modalities = list(modalities_of(read_run_info(store, run_id).get("config") or {}))
    outcome.stages = _records(store, run_id, outcome)
    _decide(store, outcome)
    _figures(store, outcome)
    handler = outcome.record(EXIT_HANDLER)
    if handler is not None and handler.status == "failed":
        outcome.reasons.append(f"The run report could not be written: {handler.message}")
    if handler is not None and handler.status in FINISHED and handler.values.get(RELEASE_VALUE):
        outcome.reasons.insert(0, handler.values[RELEASE_VALUE])
    return outcome


def _records(store: ObjectStore, run_id: str, outcome: Outcome) -> list[StageRecord]:
    records = []
    recorded = [PurePosixPath(key).stem for key in store.keys(f"runs/{run_id}/stages")]
    for task in (*ordered_tasks(recorded, outcome.modalities), EXIT_HANDLER):
        key = stage_record_key(run_id, task)
        try:
            record = StageRecord.unsealed(store.read(key)[0])
        except MissingObjectError:
            continue
        if record is not None and record.task == task:
            records.append(record)
        else:
            outcome.unreadable.append(f"The record of {task} is damaged ({store.location(key)}).")
            outcome.damaged.append(store.location(key))
    return records


def _decide(store: ObjectStore, outcome: Outcome) -> None:
    failed = [record for record in outcome.stages if record.status == "failed" and record.task != EXIT_HANDLER]
    validated, gated = outcome.finished("validate_data"), outcome.finished("gate_model")
    gate = gated.values.get("verdict", "") if gated else ""
    deployment, registered = outcome.finished("deploy_model"), outcome.finished("register_model")
    waits_for = registered.values.get("waits_for", "") if registered else ""
    if failed:
        outcome.exit_code = failed[0].exit_code or int(ExitCode.ERROR)
        outcome.verdict = "data rejected" if outcome.exit_code == ExitCode.DATA_REJECTED else "failed"
        outcome.reasons = [record.message or f"{record.task} failed without a message." for record in failed]
    elif validated and validated.values.get("verdict") == "reject":
        outcome.exit_code, outcome.verdict = int(ExitCode.DATA_REJECTED), "data rejected"
        report = _output(store, outcome, ValidationReport, "validate_data", "report")
        outcome.reasons = (report.failed if report else []) or ["The dataset did not meet every expectation."]
    elif gate in {"hold", "reject"}:
        outcome.exit_code, outcome.verdict = int(ExitCode.NOT_PROMOTED), "held" if gate == "hold" else "rejected"
        outcome.reasons = _gate_sentences(store, outcome, {"reject", "hold"}) or [f"The gate's verdict was {gate}."]
        outcome.reasons += [waits_for] if waits_for else []
    elif deployment:
        outcome.exit_code, outcome.verdict = int(ExitCode.DEPLOYED), "deployed"
        outcome.reasons = _gate_sentences(store, outcome, {"promote"})
    elif registered and waits_for:
        rejected = registered.values.get("state") == "rejected"
        outcome.exit_code = int(ExitCode.NOT_PROMOTED if rejected else ExitCode.WAITING)
        outcome.verdict = "rejected" if rejected else "waiting"
        outcome.reasons = [waits_for, *_gate_sentences(store, outcome, {"promote"})]
    elif registered and _released_before(outcome, registered):
        outcome.exit_code, outcome.verdict, outcome.is_champion = int(ExitCode.DEPLOYED), "deployed", True
        outcome.reasons = [SAME_STUDENT.format(version=registered.values.get("model_version", "?"))]
    elif outcome.finished(_SCORES):
        outcome.exit_code, outcome.verdict = 0, "scored"
        outcome.report = store.location(report_key(outcome.run_id, SCORES_PAGE))
    elif monitored := outcome.finished(_MONITOR):
        drifted = monitored.values.get("verdict") == "drifted"
        outcome.exit_code, outcome.verdict = int(ExitCode.DIFFERENT if drifted else ExitCode.DEPLOYED), "monitored"
        outcome.reasons = [monitored.values.get("headline", "")]
        outcome.report = store.location(report_key(outcome.run_id, TRAFFIC_PAGE))
    elif store.exists(stop_key(outcome.run_id)):
        outcome.stopped, outcome.reasons = True, [STOPPED]
    elif outcome.damaged:
        outcome.reasons = [
            f"How the run ended is unknown: the record of a stage is damaged ({outcome.damaged[0]}); {REPAIR}."
        ]
    else:
        outcome.reasons = [_unfinished(outcome)]


def _released_before(outcome: Outcome, registered: StageRecord) -> bool:
    """Whether the run made a student that is the champion already; no stage follows its registration, and so none deploys it."""
    distilled = pipeline_of(record.task for record in outcome.stages) == DISTILLATION
    return distilled and registered.values.get("state") == "released"


def _gate_sentences(store: ObjectStore, outcome: Outcome, kinds: set[str]) -> list[str]:
    """The sentences of the gate's rules with one of these outcomes; rejections first."""
    verdict = _output(store, outcome, GateVerdict, "gate_model", "verdict")
    rules = verdict.rules if verdict else []
    return [rule.sentence for rule in sorted(rules, key=lambda rule: rule.outcome != "reject") if rule.outcome in kinds]


def _unfinished(outcome: Outcome) -> str:
    cause = "" if outcome.on_cluster else f" {_KILLED}"  # the pods' states say more
    interrupted = [r.task for r in outcome.stages if r.task != EXIT_HANDLER and r.status not in FINISHED]
    if interrupted:
        return f"The run did not finish: it was interrupted in {' and '.join(interrupted)}.{cause}"
    reached = [record.task for record in outcome.stages if record.task != EXIT_HANDLER]
    if not reached:
        return "The run did not finish: no stage has a record."
    missing = [task for task in ordered_tasks(reached, outcome.modalities) if task not in reached]
    if not missing:
        return "The run did not finish: each stage ended, and none says what has become of the model."
    return f"The run did not finish: {missing[0]} has no record of its end.{cause}"


def _output(store: ObjectStore, outcome: Outcome, cls: type[M], task: str, name: str) -> M | None:
    record = outcome.finished(task)
    digest = record.outputs.get(name) if record else None
    return _read_or_note(store, outcome, cls, digest) if digest else None


def _read_or_note(store: ObjectStore, outcome: Outcome, cls: type[M], digest: str) -> M | None:
    try:
        return read_manifest(store, cls, digest)
    except MistereError as error:
        outcome.unreadable.append(str(error))
        return None


def _figures(store: ObjectStore, outcome: Outcome) -> None:
    report = _output(store, outcome, EvaluationReport, "evaluate_model", "report")
    if report is not None:
        outcome.weighted_f1 = Estimate.of(report.metrics, "test.weighted_f1")
        alone = {name: Estimate.of(report.metrics, f"test.expert.{name}.weighted_f1") for name in report.experts}
        outcome.experts = {name: estimate for name, estimate in alone.items() if estimate is not None}
        outcome.majority_weighted_f1 = report.metrics.get("test.majority.weighted_f1")
        if outcome.verdict in {"deployed", "waiting", "held", "rejected"}:
            outcome.reasons += _left_out(report.metrics)
    started, registered = outcome.finished("resolve_inputs"), outcome.finished("register_model")
    planned = outcome.finished("plan_distillation")
    outcome.teacher = planned.values.get("teacher_digest", "") if planned else ""
    champion = started.values.get("champion_digest", "") if started else ""
    outcome.champion_before = "" if champion == NO_CHAMPION else champion
    if outcome.champion_before and outcome.verdict in {"held", "rejected"}:
        outcome.is_champion = _made_again(store, outcome)
        if outcome.is_champion:
            outcome.reasons.insert(0, SAME_MODEL)
    if (outcome.champion_before or outcome.teacher) and report is not None:
        outcome.champion_weighted_f1 = Estimate.of(report.metrics, "champion.weighted_f1")
        outcome.champion_difference = Estimate.of(report.metrics, "champion.difference.weighted_f1")
    if registered:
        outcome.bundle_digest = registered.outputs.get("bundle", "")
        outcome.experiment = registered.values.get("experiment", "")
        if registered.values.get("state") == "waiting":
            outcome.candidate = registered.values.get("approvable", "")
    if outcome.bundle_digest:  # not the recorded location: the store may have been moved since
        key = artifact_key(ModelBundle.__name__, outcome.bundle_digest)
        outcome.bundle = store.location(key)
        outcome.example = store.location(f"{key}/{EXAMPLE}") if store.exists(f"{key}/{EXAMPLE}") else ""
    deployment = outcome.finished("deploy_model")
    if deployment:
        values = deployment.values
        outcome.bundle = outcome.bundle or values.get("bundle", "")
        outcome.message, outcome.mlflow = values.get("message", ""), values.get("mlflow", "")
        outcome.endpoint = values.get("endpoint") or values.get("url", "")
    handler = outcome.finished(EXIT_HANDLER)
    if handler:
        outcome.mlflow = handler.values.get("mlflow") or outcome.mlflow
        outcome.experiment = handler.values.get("experiment") or outcome.experiment


def _made_again(store: ObjectStore, outcome: Outcome) -> bool:
    """Whether encoders and mixture of the run are those of the champion at its start."""
    try:
        champion = read_lineage(store, outcome.champion_before).artifacts
    except MistereError:
        return False
    tasks = {
        **{f"{name} encoder": (f"finetune_encoder-{name}", "encoder") for name in outcome.modalities},
        "mixture": ("train_moe", "model"),
    }
    made = {
        name: record.outputs.get(output, "")
        for name, (task, output) in tasks.items()
        if (record := outcome.finished(task)) is not None
    }
    return bool(made.get("mixture")) and all(
        champion.get(name, "") == digest for name, digest in made.items() if digest
    )


def _left_out(metrics: Mapping[str, float]) -> list[str]:
    """The sentence that names modalities that hurt on dev; none if no modality was left out."""
    if not any(name.startswith("dev.modalities.") for name in metrics):
        return []
    from mistere.metrics.modality_choice import choice_from_metrics  # imports numpy, which other outcomes do not need

    choice = choice_from_metrics(metrics)
    return [choice.sentence()] if choice is not None and choice.left_out else []
