"""Training on one or several nodes of the cluster: create a TrainJob, follow it to its end and delete it.

The nodes read their input from the store under the step's key, and the TrainJob is named by the key. A step whose pod was
killed finds the running TrainJob and follows it again.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from components.finetune_encoder.nodes.node import FAILURES, JOB, SPOOLS, USAGES, WEIGHTS
from components.finetune_encoder.nodes.pods import NodePods
from components.finetune_encoder.nodes.train_job import POD_LABEL, TERMINATION_SECONDS, train_job, train_job_name
from components.finetune_encoder.processes.local import train_in_halves
from components.finetune_encoder.processes.torchrun import Failure
from components.finetune_encoder.processes.worker import CURVE
from components.finetune_encoder.training.job import Curve, PreemptedError, TrainingJob, share_step
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore, UnreachableError
from mistere.artifacts.usage import FURTHER, Usage
from mistere.common.counting import counted
from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import load_json
from mistere.config.encoder import EncoderConfig
from mistere.engine.stage import Step
from mistere.kubernetes.api import KubernetesApi, KubernetesError, connect
from mistere.kubernetes.current_pod import TRAINER_API, current_pod, is_inside
from mistere.kubernetes.images import image

_POLL_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 900.0
"""Time limit for an API or store that does not answer during training, and for the removal of pods."""
_REMOVAL_SECONDS: Final = TERMINATION_SECONDS + 30.0
"""Longest wait for nodes to end before their files are deleted."""
_ENDING_SECONDS: Final = 15.0
"""The same if this step has SIGTERM itself, after which Kubernetes kills it in half a minute."""


def check_nodes(config: EncoderConfig, modality: str, store: ObjectStore) -> None:
    """Check that training in a TrainJob is possible.

    Raises:
        UsageError: the run is not in a cluster, the store is a local folder, or the batch cannot be split evenly.
    """
    several = config.num_nodes > 1
    where = f"{modality}.num_nodes={config.num_nodes}" if several else f"{modality}.nodes.trainjob=true"
    if not is_inside():
        nodes = "several nodes" if several else "a node"
        raise UsageError(
            f"{where} trains on {nodes} of a cluster, and this run is not in one: set {_without_trainjob(config, modality)} (and "
            f"{modality}.processes for several GPUs here), or submit the run."
        )
    if isinstance(store, LocalStore):
        raise UsageError(
            f"{where} needs a store that the nodes can reach: name s3://bucket/prefix, not the folder {store.uri}."
        )
    share_step(config.batch_size * config.accumulation, config.batch_size, config.num_nodes * config.processes)


def _without_trainjob(config: EncoderConfig, modality: str) -> str:
    """The settings that train in the step's own pod."""
    settings = {"num_nodes=1": config.num_nodes > 1, "nodes.trainjob=false": config.nodes.trainjob}
    return " and ".join(f"{modality}.{setting}" for setting, needed in settings.items() if needed)


def train_on_nodes(job: TrainingJob, base_digest: str, step: Step) -> Curve:
    """Train on ``job.config.num_nodes`` nodes; the best epoch's weights are written to ``job.output``.

    Args:
        job: the training, with prepared utterances.
        base_digest: digest of the base weights in the store.
        step: this execution.

    Raises:
        PreemptedError: SIGTERM; the TrainJob is deleted, its checkpoints are kept.
        MistereError: a node failed, or the cluster refuses the TrainJob.
    """
    api = connect()
    nodes = _Nodes(api, current_pod(api), base_digest, step, job)

    def note_sigterm(_signal: int, _frame: Any) -> None:
        nodes.terminated = True

    before = signal.signal(signal.SIGTERM, note_sigterm)
    try:
        processes = job.config.num_nodes * job.config.processes
        return train_in_halves(nodes.as_it_runs(job), processes, nodes.attempt, step.progress)
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


class _Nodes:
    """The nodes of one step.

    Attributes:
        terminated: SIGTERM was received.
    """

    def __init__(
        self, api: KubernetesApi, step_pod: dict[str, Any], base_digest: str, step: Step, job: TrainingJob
    ) -> None:
        self.terminated = False
        self._api, self._step_pod, self._base_digest = api, step_pod, base_digest
        self._store, self._progress, self._modality = step.store, step.progress, job.modality
        self._without = _without_trainjob(job.config, job.modality)
        self._prefix = f"nodes/{job.modality}/{step.key}"
        self._name = train_job_name(job.modality, step.key)
        self._namespace = str(step_pod["metadata"]["namespace"])
        self._collection = f"/apis/{TRAINER_API}/namespaces/{self._namespace}/trainjobs"
        self._path = f"{self._collection}/{self._name}"

    def as_it_runs(self, job: TrainingJob) -> TrainingJob:
        """The job, with the micro-batch of a TrainJob that already runs, which may have been halved."""
        if self._settled() is None:
            return job
        self._progress.note(f"TrainJob {self._name} is already running and is followed.")
        with suppress(MissingObjectError):
            content = load_json(self._store.read(f"{self._prefix}/{JOB}")[0])
            return job.model_copy(update={"micro_batch": int(content["training"]["micro_batch"])})
        return job

    def attempt(self, job: TrainingJob) -> tuple[Curve, list[Failure]]:
        """Train on the nodes; returns the learning curve, or the failures of processes."""
        try:
            if self._settled() is None:
                self._start(job)
            return self._follow(job)
        finally:
            self._end()

    def _settled(self) -> dict[str, Any] | None:
        """The TrainJob, or None if there is none; waits for one that is being removed."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                live = self._api.get(self._path)
            except KubernetesError as error:
                raise self._refusal(error) from error
            if live is None or not live["metadata"].get("deletionTimestamp"):
                return live
            if time.monotonic() > deadline:
                raise MistereError(
                    f"TrainJob {self._name} in namespace {self._namespace} was deleted but still exists: find the finalizer "
                    f"that holds it, then run again."
                )
            self._pause()

    def _start(self, job: TrainingJob) -> None:
        self._store.delete(self._prefix)
        for name, folder in ((SPOOLS[0], job.train), (SPOOLS[1], job.dev)):
            for file in sorted(folder.iterdir()):
                self._store.upload(file, f"{self._prefix}/{name}/{file.name}")
        content = {"training": job.model_dump(mode="json"), "base_digest": self._base_digest}
        self._store.write(f"{self._prefix}/{JOB}", json.dumps(content).encode())
        arguments = (self._store.uri, self._prefix)
        manifest = train_job(self._name, job.config, image("train"), arguments, self._step_pod)
        try:
            self._api.create(self._collection, manifest)
        except KubernetesError as error:
            raise self._refusal(error) from error
        self._progress.note(
            f"TrainJob {self._name} in namespace {self._namespace}: {counted(job.config.num_nodes, 'node', 'nodes')} with "
            f"{counted(job.config.processes, 'process', 'processes')}{' each' if job.config.num_nodes > 1 else ''}."
        )

    def _follow(self, job: TrainingJob) -> tuple[Curve, list[Failure]]:
        pods = NodePods(self._api, self._namespace, self._name, self._modality, self._progress)
        silent_since: float | None = None
        while True:
            try:
                answer = self._look(job, pods)
                if answer is not None:
                    return answer
                silent_since = None
            except (KubernetesError, UnreachableError) as error:
                now = time.monotonic()
                silent_since = now if silent_since is None else silent_since
                passing = isinstance(error, UnreachableError) or error.code in {0, 429} or error.code >= 500
                if not passing or now - silent_since > _PATIENCE_SECONDS:
                    raise
            self._pause()

    def _look(self, job: TrainingJob, pods: NodePods) -> tuple[Curve, list[Failure]] | None:
        """The result of the TrainJob; None while it runs."""
        live = self._api.get(self._path)
        pods.look()
        if live is None or live["metadata"].get("deletionTimestamp"):
            raise MistereError(
                f"TrainJob {self._name} was deleted by another client before it ended: run again to resume from the last "
                "checkpoint."
            )
        conditions = live.get("status", {}).get("conditions") or []
        true = {condition["type"]: condition for condition in conditions if condition["status"] == "True"}
        if "Complete" in true:
            return self._fetch(job), []
        failures = self._failures()
        if failures:
            return [], failures
        if "Failed" in true:
            why = str(true["Failed"].get("message") or true["Failed"].get("reason", "")).strip().rstrip(".")
            raise MistereError(
                f"TrainJob {self._name} failed ({'; '.join(filter(None, (why, pods.why())))}): its log is above; run again to "
                "resume from the last checkpoint."
            )
        created = str(live["metadata"].get("creationTimestamp", ""))
        pods.expect(job.config.num_nodes, created, suspended="Suspended" in true)
        return None

    def _failures(self) -> list[Failure]:
        """Failures that a retry would not help, as the nodes wrote them to the store."""
        return [
            failure
            for key in sorted(self._store.keys(f"{self._prefix}/{FAILURES}"))
            for failure in load_json(self._store.read(key)[0])
        ]

    def _fetch(self, job: TrainingJob) -> Curve:
        try:
            self._store.download(f"{self._prefix}/{WEIGHTS}", job.output / WEIGHTS)
            curve: Curve = load_json(self._store.read(f"{self._prefix}/{CURVE}")[0])
        except MissingObjectError as error:
            raise MistereError(f"TrainJob {self._name} ended without weights ({error}): run again.") from error
        return curve

    def _end(self) -> None:
        """Delete the TrainJob and its files; a failure here does not hide another error."""
        try:
            self._api.delete(self._path, dependents_first=True)
        except MistereError as error:
            self._progress.note(f"TrainJob {self._name} may still exist: {error}")
            return  # with nodes that read their files
        self._wait_for_pods()
        with suppress(MistereError):  # the costs of a run are no reason to keep its files
            self._count_usage()
        try:
            self._store.delete(self._prefix)
        except MistereError as error:
            self._progress.note(
                f"files of TrainJob {self._name} may remain in {self._store.location(self._prefix)}: {error}"
            )

    def _wait_for_pods(self) -> None:
        """Wait, not for long, until the nodes are gone: one that gets SIGTERM still writes what it used."""
        began, path = time.monotonic(), f"/api/v1/namespaces/{self._namespace}/pods"
        with suppress(KubernetesError):
            while self._api.list(path, f"{POD_LABEL}={self._name}")[0]:
                if time.monotonic() - began > (_ENDING_SECONDS if self.terminated else _REMOVAL_SECONDS):
                    return
                time.sleep(min(0.5, _POLL_SECONDS))

    def _count_usage(self) -> None:
        """Count what the nodes used as used by this task; a node that was killed has not said it."""
        for key in sorted(self._store.keys(f"{self._prefix}/{USAGES}")):
            with suppress(MissingObjectError, ValidationError):
                FURTHER.add(Usage.model_validate_json(self._store.read(key)[0]))

    def _pause(self) -> None:
        """Wait a little.

        Raises:
            PreemptedError: SIGTERM.
        """
        deadline = time.monotonic() + _POLL_SECONDS
        while not self.terminated and time.monotonic() < deadline:
            time.sleep(min(0.2, _POLL_SECONDS))
        if self.terminated:
            raise PreemptedError(
                f"stopped by SIGTERM, TrainJob {self._name} is deleted: run again to resume from the last checkpoint."
            )

    def _refusal(self, error: KubernetesError) -> MistereError:
        """An error that explains the refusal in terms of the settings."""
        if error.code == 404:
            return MistereError(
                f"the cluster has no TrainJobs: install Kubeflow Trainer (2.3 or later) there, or set {self._without}."
            )
        about_the_job = "admission webhook" in error.reason or "quota" in error.reason
        if error.code in {400, 422} or (error.code == 403 and about_the_job):
            return MistereError(
                f"the cluster refuses TrainJob {self._name} ({error.reason}): correct {self._modality}.nodes, or check that Kubeflow "
                "Trainer is 2.3 or later."
            )
        return error
