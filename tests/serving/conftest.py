"""Fixtures: a tiny real bundle, a server for it, and a server whose model is slow or fails on request."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import soundfile

from mistere.artifacts.identities import EncoderDescription, EncoderIdentity
from mistere.artifacts.manifests import ModelBundle
from mistere.config.encoder import EncoderConfig, SpeechConfig, TextConfig
from mistere.config.mixture import MixtureConfig
from mistere.serving.client import DialogueClient
from tests.local.servers import free_port
from tests.serving.trace_receiver import TraceReceiver, trace_receiver

if TYPE_CHECKING:
    from mistere.artifacts.object_store import ObjectStore
    from mistere.model.mixture.mixture import MixtureOfExperts

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["anger", "joy", "neutral", "sadness"]


@dataclass(frozen=True)
class Utterance:
    text: str | None = None
    audio: bytes | None = None


@dataclass
class Server:
    """A server process and how to reach it."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path
    client: DialogueClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = DialogueClient(self.url, self.grpc_target)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=300)


def launch(command: list[str], bundle: str, log: Path, *options: str, files: int | None = None) -> Server:
    """Start a server, with at most so many open files if given."""
    http_port, grpc_port = free_port(), free_port()
    arguments = ["--host", "127.0.0.1", "--http-port", str(http_port), "--grpc-port", str(grpc_port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, bundle, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"},
        )
    if files is not None:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    return Server(process, http_port, grpc_port, log)


def clip(
    seconds: float = 0.7, rate: int = 16000, file_format: str = "WAV", channels: int = 1, pitch: float = 200
) -> bytes:
    times = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * times).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave] * channels, axis=1), rate, format=file_format)
    return file.getvalue()


def make_bundle(
    folder: Path,
    modalities: tuple[str, ...] = ("speech", "text"),
    *,
    transcribes: bool = False,
    **mixture_settings: Any,
) -> str:
    """Publish a bundle of random encoders and a random mixture in a new store; returns its location."""
    import torch

    from mistere.artifacts.object_store import LocalStore
    from mistere.common.modalities import IMPLICIT_KINDS
    from mistere.model.encoders.families import families
    from mistere.model.encoders.sources import resolve_base
    from mistere.model.encoders.utterance_encoder import UtteranceEncoder, save_tuned
    from mistere.model.mixture.prediction import save_mixture

    torch.manual_seed(0)
    store = LocalStore(folder / "store")
    work = folder / "bundle"
    (work / "encoders").mkdir(parents=True)
    settings = {
        "speech": SpeechConfig(source="random:whisper", projection=16, min_seconds=0.5, max_seconds=30),
        "text": TextConfig(source="random:bidirectional_text", projection=16, max_tokens=32),
        "face": EncoderConfig(source="random:image", projection=16),
        "acoustic": EncoderConfig(source="random:vector", projection=16),
    }
    kinds = {**IMPLICIT_KINDS, "face": "frames", "acoustic": "vector"}
    bundled = {}
    for modality in modalities:
        base = resolve_base(settings[modality], kinds[modality], store)
        family = families()[base.manifest.family](base.path, settings[modality])
        save_tuned(UtteranceEncoder(family, settings[modality], len(LABELS)), work)
        (work / "tuned.safetensors").rename(work / "encoders" / f"{modality}.safetensors")
        bundled[modality] = EncoderDescription(
            family=base.manifest.family,
            base_digest=base.manifest.digest,
            identity=EncoderIdentity(digest=modality[0] * 64),
            dimension=16,
            settings=settings[modality].model_dump(mode="json"),
        )
    dimensions = dict.fromkeys(modalities, 16)
    mixture = tiny_mixture(dimensions, **mixture_settings)
    save_mixture(mixture, work)
    parts: dict[str, Any] = {"encoders": bundled, "scripts": ["Latin"]}
    if transcribes:
        from mistere.artifacts.identities import TranscriptionModel
        from mistere.config.transcription import TranscriptionConfig
        from mistere.model.transcription.base import resolve_transcription

        base = resolve_transcription(TranscriptionConfig(source="random:whisper"), store)
        parts["transcription"] = TranscriptionModel(base_digest=base.manifest.digest, language="en", max_tokens=3)
    return _publish(store, work, mixture.experts, **parts)


def make_vectors_bundle(folder: Path, dimensions: dict[str, int], digests: dict[str, str]) -> str:
    """Publish a bundle of a random mixture without encoders; returns its location."""
    from mistere.artifacts.object_store import LocalStore
    from mistere.model.mixture.prediction import save_mixture

    work = folder / "bundle"
    work.mkdir()
    mixture = tiny_mixture(dimensions)
    save_mixture(mixture, work)
    made = {name: EncoderIdentity(digest=digests.get(name, "")) for name in dimensions}
    return _publish(LocalStore(folder / "store"), work, mixture.experts, encoders={}, vectors=made)


def tiny_mixture(dimensions: dict[str, int], classes: int = len(LABELS), **settings: Any) -> MixtureOfExperts:
    """A small random mixture."""
    import torch

    from mistere.model.mixture.automatic_settings import TrainSize, resolve
    from mistere.model.mixture.mixture import MixtureOfExperts

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden": 8,
        "gru_layers": 1,
        "fusion_width": 16,
        "fusion_blocks": 1,
        "attention_width": 12,
    }
    config = resolve(MixtureConfig(**{**sizes, **settings}), TrainSize(10, 100, dimensions))
    return MixtureOfExperts(config, dimensions, classes).eval()


def _publish(store: ObjectStore, work: Path, experts: list[str], **parts: Any) -> str:
    from mistere.artifacts.io import artifact_key, publish

    manifest = ModelBundle(
        name="mistere",
        labels=LABELS,
        experts=experts,
        temperature=1.3,
        test_digest="0" * 64,
        metrics={},
        dvc_digest="0" * 32,
        **parts,
    )
    return store.location(artifact_key("ModelBundle", publish(store, manifest, work).digest))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def bundle_of_four(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with a face (frames) and an acoustic vector beside speech and text."""
    return make_bundle(tmp_path_factory.mktemp("four"), ("speech", "text", "face", "acoustic"))


@pytest.fixture(scope="session")
def receiver() -> Iterator[TraceReceiver]:
    """What the server sends its traces to."""
    with trace_receiver() as running:
        yield running


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Both servers, started in parallel while the bundle is built; users wait for readiness."""
    logs = tmp_path_factory.mktemp("logs")
    faulty = launch(
        [str(Path(__file__).with_name("faulty_server.py"))],
        str(Path(__file__)),
        logs / "faulty.log",
        *("--max-waiting", "1", "--drain-seconds", "1", "--max-body-seconds", "1", "--vector-store-mib", "0"),
        *("--max-head-seconds", "1", "--max-streams", "0"),
        files=128,
    )
    bundle, receiver = request.getfixturevalue("bundle"), request.getfixturevalue("receiver")
    traced = ("--trace-endpoint", receiver.url, "--trace-share", "0")  # the requests whose caller asks for it
    traffic = ("--traffic-store", "bundle", "--traffic-seconds", "0.5")
    kept = ("--sample-share", "1", "--request-log-share", "1")
    real = launch(
        ["-m", "mistere.predictor"], bundle, logs / "real.log", "--max-seconds", "5", *traffic, *kept, *traced
    )
    started = {"real": real, "faulty": faulty}
    yield started
    for server in started.values():
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(servers: dict[str, Server]) -> Server:
    servers["real"].client.wait_ready(300)
    return servers["real"]


@pytest.fixture(scope="session")
def faulty(servers: dict[str, Server]) -> Server:
    servers["faulty"].client.wait_ready(300)
    return servers["faulty"]


def wait_for_depth(server: Server, depth: int, seconds: float = 120) -> None:
    """Wait until the server has accepted that many requests and not yet answered them."""
    deadline = time.monotonic() + seconds
    while f"\nmistere_queue_depth {depth:.1f}\n" not in httpx.get(f"{server.url}/metrics", timeout=60).text:
        assert time.monotonic() < deadline, f"the server never had {depth} requests at once"
        time.sleep(0.02)


def peak(server: Server) -> int:
    """Peak resident memory of the process, bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def cpu_seconds(server: Server) -> float:
    """CPU time of the server so far: unlike wall time, it does not depend on the machine's load."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="session")
def dialogue() -> list[Utterance]:
    """Four utterances: text and audio, text only, audio only, and neither."""
    return [
        Utterance("Where have you been?", clip(0.7)),
        Utterance("At home, why?"),
        Utterance(None, clip(0.9, 8000, "FLAC", 2, 300)),
        Utterance(),
    ]
