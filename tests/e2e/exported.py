"""A student of the deployed bundle, exported from the store as ONNX graphs in 8-bit integers and served on this machine, outside of the images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.artifacts.onnx_manifest import OnnxModel
from mistere.common.errors import ExitCode, MistereError
from mistere.common.parsing.documents import read_json
from mistere.common.paths import PROJECT_ROOT
from mistere.model.onnx.loading import load_onnx
from mistere.serving.client import DialogueClient
from mistere.serving.example_dialogue import Example, read_example
from tests.local.servers import free_port

_READY_SECONDS = 120.0
_COMMAND = [sys.executable, "-m", "mistere"]
_SMALLEST = ("distillation.epochs=1", "distillation.timed_dialogues=1", "evaluation.resamples=100")
_SAME = 1e-4
"""Largest difference between two computations of one model."""


def serve_student(teacher: str, profile: str, folder: Path) -> str:
    """Distil a bundle, export the student in 8-bit integers, serve it, and compare its answers with those of the same graphs.

    Args:
        teacher: location of the bundle.
        profile: settings to start from.
        folder: for the report and the export.

    Raises:
        MistereError: the answers differ from those of the export in this process, or by more than it records from the student's.
    """
    student = _distilled(teacher, profile, folder)
    root, digest = split_bundle_location(student)
    example = read_example(open_artifact(open_store(root), ModelBundle, digest).path)
    if example is None or not isinstance(example.dialogue, list):
        raise MistereError("the student's bundle holds no example dialogue of texts and recordings.")
    target = folder / "onnx-student"
    _mistere("export", str(target), "--model", student, "--int8", "--unchecked")
    manifest = OnnxModel.model_validate(read_json(target / "manifest.json"))
    if manifest.precision != "int8" or manifest.int8_difference is None or manifest.bundle_digest != digest:
        raise MistereError(f"{target}/manifest.json does not describe the student in 8-bit integers.")
    (own,) = load_onnx(target).predict([example.dialogue])
    answers = _answers(target, example)
    differs, loses = _largest(answers, example, own.probabilities), _largest(answers, example, example.expected)
    if not differs <= _SAME:
        raise MistereError(f"the served student's answer differs by {differs:.2g} from that of the same graphs.")
    if not loses <= manifest.int8_difference + _SAME:
        raise MistereError(
            f"the served student's answer differs by {loses:.2g} from the offline evaluation's, and its export says "
            f"{manifest.int8_difference:.2g}."
        )
    return (
        f"a student as ONNX graphs in 8-bit integers answered by REST and gRPC; largest difference from the same graphs {differs:.1e}, "
        f"from the student {loses:.1e} (its export says {manifest.int8_difference:.1e})"
    )


def _distilled(teacher: str, profile: str, folder: Path) -> str:
    """The location of a student, made with the smallest settings and not registered."""
    settings = [word for setting in _SMALLEST for word in ("--set", setting)]
    options = ("--profile", profile, "--output", str(folder / "distilled"), "--no-register", *settings)
    _mistere("distill", teacher, *options, accepted=(ExitCode.DEPLOYED, ExitCode.NOT_PROMOTED))
    (report,) = (folder / "distilled").glob("distill/*/distill.json")
    return str(json.loads(report.read_text(encoding="utf-8"))["student"]["bundle"])


def _answers(target: Path, example: Example) -> list[Any]:
    """What a server of an export answers to an example by REST and by gRPC."""
    http, grpc = free_port(), free_port()
    with _server("serve", "--onnx", str(target), "--port", str(http), "--grpc-port", str(grpc)):
        client = DialogueClient(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        client.wait_ready(_READY_SECONDS)
        return [client.predict_rest(example.turns), client.predict_grpc(example.turns)]


@contextmanager
def _server(*arguments: str) -> Iterator[None]:
    """A command that runs until SIGTERM, after which it must end with exit code 0."""
    server = subprocess.Popen([*_COMMAND, *arguments], cwd=PROJECT_ROOT)
    try:
        yield
    finally:
        server.terminate()
        code = server.wait()
    if code:
        raise MistereError(f"the server of the exported model ended with exit code {code} after SIGTERM.")


def _mistere(*arguments: str, accepted: Sequence[int] = (0,)) -> None:
    done = subprocess.run([*_COMMAND, *arguments], cwd=PROJECT_ROOT, check=False)
    if done.returncode not in accepted:
        raise MistereError(f"mistere {arguments[0]} ended with exit code {done.returncode}.")


def _largest(answers: Sequence[Any], example: Example, expected: np.ndarray) -> float:
    """The largest difference of a probability; utterances that are context only have no answer."""
    dialogue = example.dialogue
    asked = [one.label is not None for one in dialogue] if isinstance(dialogue, list) else slice(None)
    return max(float(np.abs(answer.probabilities - expected)[asked].max()) for answer in answers)
