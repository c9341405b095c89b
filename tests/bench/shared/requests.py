"""Requests of benchmarks: variants of a dialogue, their bodies, and how a client sends them."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc
import numpy as np
from kserve import InferInput, InferRequest

from mistere.data.audio import decode, encode_flac
from mistere.data.dataset import Utterance
from mistere.model.dialogue_model import EmotionModel

Send = Callable[[int], None]
"""Sends the request of a number and waits for its response."""


def versions(dialogue: Sequence[Utterance], count: int) -> list[list[Utterance]]:
    """Repetitions of the dialogue with distinct texts and audio."""
    waves = [decode(one.audio) if one.audio else None for one in dialogue]
    return [
        [
            replace(
                one,
                text=f"{one.text} {number}" if one.text else None,
                audio=encode_flac(wave[0] * np.float32(1 - number / (2 * count)), wave[1]) if wave else None,
            )
            for one, wave in zip(dialogue, waves, strict=True)
        ]
        for number in range(count)
    ]


def v1_body(dialogue: Sequence[Utterance]) -> bytes:
    turns = [
        {
            **({"text": one.text} if one.text else {}),
            **({"audio": base64.b64encode(one.audio).decode()} if one.audio else {}),
        }
        for one in dialogue
    ]
    return json.dumps({"instances": [{"utterances": turns}]}).encode()


def embedded_request(model: EmotionModel, vectors: dict[str, np.ndarray]) -> InferRequest:
    inputs = []
    for name in ("speech", "text"):
        if name in vectors:
            tensor = InferInput(f"{name}_embedding", list(vectors[name].shape), "FP32")
            tensor.set_data_from_numpy(vectors[name].astype(np.float32), binary_data=True)
            inputs.append(tensor)
    digests = ",".join(model.encoder_digests[name] for name in ("speech", "text") if name in vectors)
    return InferRequest("mistere", inputs, parameters={"encoder_digest": digests})


def grpc_sender(port: int, messages: Sequence[bytes]) -> Send:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return lambda number: call(messages[number % len(messages)], timeout=120)  # type: ignore[no-any-return]


def rest_sender(port: int, path: str, bodies: Sequence[bytes], headers: dict[str, str] | None = None) -> Send:
    local = threading.local()

    def send(number: int) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        local.connection.request(
            "POST", path, bodies[number % len(bodies)], headers or {"Content-Type": "application/json"}
        )
        answer = local.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {content[:200]!r}")

    return send
