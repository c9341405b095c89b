"""A copy asks the shadow what the client asked, whatever form the request had."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson

from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.protocol.wire import read_rest
from mistere.predictor.shadow.copy import DialogueCopy
from mistere.serving import protocol


def sent(dialogue: DialogueRequest, digest: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and parameters that a server reads of a copy."""
    copy = DialogueCopy("call 7", dialogue, np.zeros((len(dialogue), 2)), 0.0, digest)
    body, headers = copy.request()
    request = read_rest(body, headers[protocol.BINARY_HEADER], "mistere")
    assert request.id == "call 7" and [output.name for output in request.request_outputs] == ["probabilities"]
    return {tensor.name: tensor.data for tensor in request.inputs}, request.parameters or {}


def test_turns_become_tensors() -> None:
    turns = [RequestTurn("Hé\x00!", b"RIFF\x00"), RequestTurn("b"), RequestTurn(None, b"\xff" * 3)]
    tensors, parameters = sent(DialogueRequest(turns=turns, context=frozenset({1}), transcribe=False))
    assert tensors["text"] == ["Hé\x00!".encode(), b"b", b""]
    assert tensors["audio"] == [b"RIFF\x00", b"", b"\xff" * 3]
    assert list(tensors["predict"]) == [True, False, True]
    assert parameters == {"transcribe": False}


def test_further_modalities_and_vectors() -> None:
    turns = [
        RequestTurn(others={"face": (b"png", b"jpg"), "acoustic": np.array([1, 2], np.float32)}),
        RequestTurn("b"),
    ]
    tensors, _ = sent(DialogueRequest(turns=turns))
    assert tensors["face"] == [b"png", b"jpg", b"", b""]
    assert np.array_equal(tensors["acoustic"], np.array([1, 2, np.nan, np.nan], np.float32), equal_nan=True)
    rows = np.array([[1, 2, 3], [np.nan] * 3], np.float32)
    tensors, parameters = sent(DialogueRequest(embeddings={"text": rows}), "t" * 64)
    assert np.array_equal(tensors["text_embedding"], rows.ravel(), equal_nan=True)
    assert parameters == {"nan_is_missing": True, "encoder_digest": "t" * 64}


def test_a_recording_that_is_no_longer_held_cannot_be_copied() -> None:
    turns = [RequestTurn(audio_digest="0" * 64), RequestTurn("b")]
    assert not DialogueCopy("x", DialogueRequest(turns=turns), np.zeros((2, 2)), 0.0).is_complete
    assert DialogueCopy("x", DialogueRequest(turns=turns[1:]), np.zeros((1, 2)), 0.0).is_complete


def test_the_size_bounds_what_waits() -> None:
    turns = [RequestTurn("x" * 10, b"a" * 1000, others={"face": (b"b" * 50,), "note": "y"})]
    assert DialogueCopy("x", DialogueRequest(turns=turns), np.zeros((1, 2)), 0.0).size == 1094
    body, _ = DialogueCopy("x", DialogueRequest(turns=turns[:1]), np.zeros((1, 2)), 0.0).request()
    assert struct.pack("<I", 1000) in body and orjson.loads(body[: body.index(b"}]}") + 3])["id"] == "x"
