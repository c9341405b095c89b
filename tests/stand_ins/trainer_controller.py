"""Kubeflow Trainer's controller, JobSet's and a kubelet, as far as a TrainJob shows them.

Each node is a pod whose container is started by ``start``; one that ends with an error is started again, ``backoff`` times.

Sources of the answers: the status of a TrainJob is that of kubeflow/trainer ``pkg/runtime/framework/plugins/jobset/jobset.go``, which
copies JobSet's conditions (kubernetes-sigs/jobset ``pkg/controllers`` and ``pkg/constants``) under the names Complete and Failed; while it
runs it has none, unless it was suspended (``pkg/controller/trainjob_controller.go``). The pods of an indexed Job are named
JOB-INDEX-RANDOM (kubernetes/kubernetes ``pkg/controller/job/indexed_job_utils.go``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from tests.stand_ins.kubernetes_api import KubernetesApi

NAMESPACE = "mistere"
JOBSET = "jobset.sigs.k8s.io/jobset-name"


class Container(Protocol):
    """A running container."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def stop(self) -> None:
        """Send SIGTERM and wait for termination."""


Start = Callable[[dict[str, Any], dict[str, str], Callable[[str], None]], Container]
"""The trainer section of a TrainJob, what Kubeflow Trainer adds to the environment, where lines go."""


class TrainerController:
    """Reconciles every TrainJob in a loop."""

    def __init__(self, cluster: KubernetesApi, start: Start, backoff: int = 2) -> None:
        self.cluster = cluster
        self.states: dict[int, dict[str, Any]] = {}
        """Container status shown instead of starting a node's container."""
        self.conditions: dict[int, list[dict[str, Any]]] = {}
        self._launch, self._backoff = start, backoff
        self._running: dict[str, Container] = {}
        self._restarts: dict[str, int] = {}
        self._finished: dict[Container, str] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for container in self._running.values():
            container.stop()

    def _loop(self) -> None:
        while not self._over.wait(0.02):
            jobs = {job["metadata"]["name"]: job for job in self.cluster.all("trainjobs")}
            living = {name for name, job in jobs.items() if not job["metadata"].get("deletionTimestamp")}
            for pod in self.cluster.all("pods"):
                if JOBSET in pod["metadata"]["labels"] and pod["metadata"]["labels"][JOBSET] not in living:
                    self._end(pod["metadata"]["name"])
            for name in set(jobs) - living:
                self.cluster.remove("trainjobs", name)
            for name in living:
                self._reconcile(jobs[name])

    def _reconcile(self, job: dict[str, Any]) -> None:
        if job.get("status", {}).get("conditions"):
            return
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        suffix = job["metadata"]["uid"][:5]
        codes = [self._run(job, f"{name}-node-0-{index}-{suffix}", index) for index in range(trainer["numNodes"])]
        if all(code == 0 for code in codes):
            self._finish(job, "Complete", "AllJobsCompleted", "jobset completed successfully")
        elif any(codes):
            message = f"jobset failed due to one or more job failures (first failed job: {name}-node-0)"
            self._finish(job, "Failed", "FailedJobs", message)

    def _run(self, job: dict[str, Any], pod: str, index: int) -> int | None:
        """One kubelet iteration; return the exit code of a container that is not restarted."""
        trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
        state: dict[str, Any] = {"state": {"running": {}}}
        code: int | None = None
        if index in self.states:
            state = self.states[index]
        else:
            if pod not in self._running:
                environment = {
                    "PET_NNODES": str(trainer["numNodes"]),
                    "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                    "PET_NODE_RANK": str(index),
                    "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
                    "PET_MASTER_PORT": "29500",
                }
                self._running[pod] = self._launch(trainer, environment, lambda line: self.cluster.say(pod, line))
            code = self._running[pod].poll()
            if code is not None:
                stamp = self._finished.setdefault(
                    self._running[pod], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                )
                ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": stamp}
                state = {"state": {"terminated": ended}}
                self._last[pod] = state["state"]
            if code and self._restarts.get(pod, 0) < self._backoff:
                self._restarts[pod] = self._restarts.get(pod, 0) + 1
                del self._running[pod]
                waiting = f"back-off 10s restarting failed container=node pod={pod}_{NAMESPACE}"
                state, code = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": waiting}}}, None
            if pod in self._last and "terminated" not in state["state"]:
                state["lastState"] = self._last[pod]
        self._show(job, pod, index, state)
        return code

    def _show(self, job: dict[str, Any], pod: str, index: int, state: dict[str, Any]) -> None:
        (patch,) = job["spec"]["runtimePatches"]
        (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        template = patched["template"]["spec"]["template"]
        index_label = {"batch.kubernetes.io/job-completion-index": str(index)}
        status = {"name": "node", "restartCount": self._restarts.get(pod, 0), **state}
        labels = {**template["metadata"]["labels"], JOBSET: job["metadata"]["name"], **index_label}
        self.cluster.write(
            "pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod, "namespace": NAMESPACE, "labels": labels},
                "spec": template["spec"],
                "status": {"conditions": self.conditions.get(index, []), "containerStatuses": [status]},
            },
        )

    def _end(self, pod: str) -> None:
        container = self._running.pop(pod, None)
        if container is not None:
            container.stop()
        self._restarts.pop(pod, None)
        self._last.pop(pod, None)
        self.cluster.lines.pop(pod, None)
        self.cluster.remove("pods", pod)

    def _finish(self, job: dict[str, Any], kind: str, reason: str, message: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": stamp,
        }
        counts = {
            "ready": 0,
            "succeeded": int(kind == "Complete"),
            "failed": int(kind == "Failed"),
            "active": 0,
            "suspended": 0,
        }
        status = {"conditions": [condition], "jobsStatus": [{"name": "node", **counts}]}
        self.cluster.write_status("trainjobs", {**job, "status": status})
