"""Reference server for the benchmark: the same bundle behind an MLServer runtime as in its documentation.

MLServer lives in an environment of its own; this project's packages stand behind its own in the path.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

SETTINGS = {
    "name": "mistere",
    "implementation": "tests.bench.reference.mlserver_runtime.DialogueRuntime",
    "parameters": {"version": "v1"},
}


def write_settings(folder: Path, bundle: str, port: int, grpc_port: int) -> None:
    """Write what ``mlserver start`` reads."""
    server = {
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_port": port + 1,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps({**SETTINGS, "parameters": {"uri": bundle}}))


def v2_body(dialogue: list[Any]) -> bytes:
    """A dialogue as a V2 request: text, and audio in base64."""
    texts = [one.text or "" for one in dialogue]
    clips = [base64.b64encode(one.audio or b"").decode() for one in dialogue]
    inputs = [
        {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts},
        {
            "name": "audio",
            "datatype": "BYTES",
            "shape": [len(clips)],
            "data": clips,
            "parameters": {"content_type": "str"},
        },
    ]
    return json.dumps({"inputs": inputs}).encode()


if os.environ.get("MISTERE_MLSERVER"):
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec, StringCodec
    from mlserver.types import InferenceRequest, InferenceResponse

    class DialogueRuntime(MLModel):
        """One dialogue a request."""

        async def load(self) -> bool:
            from mistere.model.inference import load_bundle

            self._model = load_bundle(self.settings.parameters.uri)
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            from mistere.model.dialogue_model import UtteranceInput

            columns = {one.name: StringCodec.decode_input(one) for one in payload.inputs}
            dialogue = [
                UtteranceInput(text or None, base64.b64decode(audio) or None)
                for text, audio in zip(columns["text"], columns["audio"], strict=True)
            ]
            answer = self._model.predict([dialogue])[0]
            labels = [self._model.labels[index] for index in answer.probabilities.argmax(1)]
            return InferenceResponse(
                model_name=self.name,
                outputs=[
                    StringCodec.encode_output("label", labels),
                    NumpyCodec.encode_output("probabilities", answer.probabilities),
                    NumpyCodec.encode_output("expert_weights", answer.expert_weights),
                ],
            )
