"""The body of a REST response: what kserve's own writer makes of the same response."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput

from mistere.predictor.protocol.wire import write_rest
from mistere.serving import protocol

ARRAYS = {
    "label": ("BYTES", np.array(["joy", "Ärger", ""], dtype=object)),
    "probabilities": ("FP32", np.array([[0.1, 0.9], [1e-9, 1.0], [0.0, 0.0]], np.float32)),
    "context_turns": ("INT32", np.array([[0, -1], [2, 1], [7, 3]], np.int32)),
}


def response(**options: Any) -> InferResponse:
    outputs = [InferOutput(name, list(array.shape), kind, data=array) for name, (kind, array) in ARRAYS.items()]
    return InferResponse(
        response_id="7",
        model_name="mistere",
        model_version="v",
        infer_outputs=outputs,
        parameters={"labels": "a,b", "weights": 0.5, "kept": True},
        **options,
    )


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "requested",
    [None, {"label": False}, {"probabilities": True, "label": False}, {"context_turns": True, "label": True}],
)
def test_a_response_is_written_as_kserve_writes_it(binary: bool, requested: dict[str, bool] | None) -> None:
    outputs = None
    if requested:
        outputs = [RequestedOutput(name, {protocol.BINARY_DATA: raw}) for name, raw in requested.items()]
    tensor = InferInput("text", [1], "BYTES", data=[b"hi"])
    request = InferRequest("mistere", [tensor], parameters={protocol.BINARY_OUTPUT: binary}, request_outputs=outputs)
    options = {"use_binary_outputs": bool(request.use_binary_outputs), "requested_outputs": outputs}
    content, headers = write_rest(response(**options), request)
    expected, length = response(**options).to_rest()
    if length is None:
        assert headers == {"Content-Type": "application/json"} and json.loads(content) == expected
        return
    assert headers == {
        "Content-Type": "application/octet-stream",
        protocol.BINARY_HEADER: str(len(content) - rest(content)),
    }
    head, split = json.loads(content[: -rest(content)]), len(expected) - rest(content)
    assert head == json.loads(expected[:length]) and split == length and content[-rest(content) :] == expected[length:]


def rest(content: bytes) -> int:
    """The length of the binary part: what the tensors of the JSON part say."""
    head, _ = json.JSONDecoder().raw_decode(content.decode("utf-8", "replace"))
    return sum(tensor.get("parameters", {}).get(protocol.BINARY_SIZE, 0) for tensor in head["outputs"])
