"""KServe's own model server with a model that returns its request, for comparison with the predictor.

usage: python tests/bench/reference/kserve_echo.py HTTP_PORT GRPC_PORT
"""

from __future__ import annotations

import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Echo(Model):  # type: ignore[misc]  # kserve has no type information
    """Returns the tensors of a request."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """The request's tensors as outputs."""
        outputs = []
        for given in payload.inputs:
            output = InferOutput(given.name, given.shape, given.datatype)
            output.set_data_from_numpy(given.as_numpy(), binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id or "echo", self.name, outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), enable_latency_logging=False).start(
        [Echo("mistere")]
    )
