"""Fixtures: a cluster with Kubeflow Trainer, and a step whose pod runs on it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.finetune_encoder.training.job import TrainingJob
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.object_store import ObjectStore
from mistere.common.progress import Progress
from mistere.config.encoder import TextConfig
from mistere.engine.stage import RunContext, Step
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES
from tests.stand_ins.kubernetes_api import KubernetesApi
from tests.stand_ins.kubernetes_server import KubernetesServer
from tests.stand_ins.trainer_controller import TrainerController

KEY = "0123456789abcdef" * 4
NAME = "mistere-text-0123456789ab"
POD = "mistere-x-finetune-encoder"
STEP_POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": POD,
        "namespace": "mistere",
        "labels": {"workflows.argoproj.io/workflow": "mistere-x"},
        "ownerReferences": [
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Workflow",
                "name": "mistere-x",
                "uid": "5f1d",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    },
    "spec": {
        "serviceAccountName": "mistere-pipeline",
        "imagePullSecrets": [{"name": "registry"}],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "mistere-train",
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "other", "key": "word"}}},
                    *(
                        {"name": variable, "valueFrom": {"secretKeyRef": {"name": "storage", "key": key}}}
                        for key, variable in STORAGE_VARIABLES.items()
                    ),
                ],
            },
        ],
    },
}
"""A pod in the form that Kubeflow Pipelines creates."""


class RecordedProgress(Progress):
    """Collects the messages for the user."""

    def __init__(self) -> None:
        super().__init__("finetune_encoder-text")
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class Thread:
    """A container that runs a function with the node's index and an event that SIGTERM sets."""

    def __init__(self, work: Callable[[int, threading.Event], int], index: int, ended: list[int]) -> None:
        self._code: int | None = None
        self._stopped, self._ended = threading.Event(), ended
        self._index = index
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[int, threading.Event], int]) -> None:
        self._code = work(self._index, self._stopped)

    def poll(self) -> int | None:
        return self._code

    def stop(self) -> None:
        if self._code is None:
            self._ended.append(self._index)
        self._stopped.set()
        self._thread.join()


@dataclass
class TrainerCluster:
    """The stand-in, and the step whose pod calls it."""

    api: KubernetesApi
    server: KubernetesServer
    store: ObjectStore
    folder: Path
    progress: RecordedProgress = field(default_factory=RecordedProgress)
    stopped: list[int] = field(default_factory=list)
    controller: TrainerController | None = None

    def run_containers(self, work: Callable[..., int], **options: Any) -> TrainerController:
        """Let containers of nodes run ``work(node, say, stopped, prefix)``."""

        def start(trainer: dict[str, Any], environment: dict[str, str], say: Callable[[str], None]) -> Thread:
            index, prefix = int(environment["PET_NODE_RANK"]), trainer["args"][1]
            return Thread(lambda node, stopped: work(node, say, stopped, prefix), index, self.stopped)

        self.controller = TrainerController(self.api, start, **options)
        return self.controller

    def step(self) -> Step:
        context = RunContext(run_id="test", store=self.store.uri, tracking_uri="")
        checkpoints = Checkpoints(self.store, "finetune_encoder", KEY)
        return Step("finetune_encoder-text", KEY, context, self.store, self.progress, checkpoints)

    def job(self, **changes: Any) -> TrainingJob:
        """A training job with prepared utterances."""
        for split in ("train", "dev"):
            (self.folder / split).mkdir(exist_ok=True)
            (self.folder / split / "features.bin").write_bytes(split.encode())
        (self.folder / "output").mkdir(exist_ok=True)
        settings: dict[str, Any] = {"num_nodes": 2, "processes": 1, "batch_size": 8, "device": "cpu", **changes}
        return TrainingJob(
            config=TextConfig.model_validate(settings),
            modality="text",
            family="bidirectional_text",
            base=self.folder,
            classes=2,
            class_weights=None,
            micro_batch=8,
            train=self.folder / "train",
            dev=self.folder / "dev",
            output=self.folder / "output",
            store=self.store.uri,
            key=KEY,
            task="finetune_encoder-text",
            run_id="test",
            tracking_uri="",
        )

    def calls(self, method: str) -> int:
        return sum(call[0] == method for call in self.server.calls)

    def close(self) -> None:
        if self.controller is not None:
            self.controller.stop()
        self.server.stop()


def tls(folder: Path) -> ssl.SSLContext:
    """A TLS certificate for the local machine, in ``ca.crt``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
    return context


def step_inside(folder: Path, store: ObjectStore, monkeypatch: Any, **options: Any) -> TrainerCluster:
    """A cluster in which this process is the pod of a step."""
    from kubernetes.config import incluster_config

    account = folder / "serviceaccount"
    account.mkdir()
    api = KubernetesApi(**options)
    server = KubernetesServer(api, tls(account))
    (account / "token").write_text("admin", encoding="utf-8")
    (account / "namespace").write_text("mistere", encoding="utf-8")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setenv("KFP_POD_NAME", POD)
    api.write("pods", STEP_POD)
    return TrainerCluster(api, server, store, folder)


def use_token(cluster: TrainerCluster, token: str, rules: frozenset[tuple[str, str]]) -> None:
    """Restrict the pod's service account to the given permissions."""
    cluster.api.tokens[token] = rules
    (cluster.folder / "serviceaccount" / "token").write_text(token, encoding="utf-8")


def environment_of(node: int, environment: dict[str, str], folder: Path, port: int) -> dict[str, str]:
    """The environment of a local node: all nodes share one address, each has its own cache."""
    own = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port), "MISTERE_CACHE": str(folder / f"node-{node}")}
    return {**os.environ, **environment, **own, "OMP_NUM_THREADS": "1"}


def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; the limit is for a machine under load."""
    deadline = time.monotonic() + 180
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()
