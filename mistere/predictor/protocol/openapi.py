"""The OpenAPI 3.1 document of the REST interface: what the code here answers, said in one place.

``python -m mistere.predictor.protocol.openapi`` writes the one beside this file, for a server with its defaults. A running
server answers ``GET /openapi.json`` with its own limits and, once it is ready, its model's labels and widths.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistere.predictor.settings import Limits, ServerSettings
from mistere.serving import protocol

OPENAPI_PATH: Final = "/openapi.json"
FILE: Final = Path(__file__).with_name("openapi.json")

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_ERRORS: Final[Mapping[int, tuple[str, str, str]]] = {
    400: ("Malformed", "Malformed body, wrong shape or datatype, unknown tensor, NaN.", "The body is not valid JSON."),
    404: ("NotFound", "Unknown model or path.", "No model of that name is served here."),
    408: ("TooSlow", "The body did not arrive in time.", "The request's body did not arrive within 30 s."),
    409: (
        "UnknownDigest",
        "An `audio_digest` whose audio this server does not hold; the sentence names which to send again.",
        f"This server does not hold the audio of these utterances; send it again: 1 ({'a' * 64}).",
    ),
    413: ("TooLarge", "Above one of the limits.", "A request may hold 128 utterances; this one holds 129."),
    415: (
        "UnsupportedAudio",
        "Audio that does not decode, or a codec that is not accepted.",
        "The audio of utterance 0 does not decode, or its codec is not accepted: send WAV, FLAC or OGG.",
    ),
    429: ("Overloaded", "More requests than may wait.", "The server is busy; try again in 2 s."),
    500: ("Failed", "Anything else.", "The server could not answer this request; its id is 6f1c."),
    503: ("NotReady", "Still loading, or about to stop.", "The model is not ready."),
}
_RETRY: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
_EXAMPLE_LABELS: Final = ("joy", "neutral")


def build_document(
    limits: Limits, model_name: str | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document.

    Args:
        limits: of a request.
        model_name: of the served model.
        metadata: what ``GET /v2/models/{model}`` answers; None before the model is ready.
    """
    model = _Model(limits, model_name or ServerSettings(bundle="").model_name, metadata)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MiSTER-E predictor",
            "version": "1",
            "description": "Emotions in a dialogue, utterance by utterance: Open Inference Protocol (V2), V1 JSON, health and "
            "metrics. One request is one dialogue, in order; the answer has one row per utterance.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "inference", "description": "Dialogues in, emotions out."},
            {"name": "models", "description": "What is served."},
            {"name": "health", "description": "Liveness, readiness, metrics."},
        ],
        "paths": model.paths(),
        "components": {"schemas": model.schemas(), "responses": _error_responses()},
    }


def _ref(name: str, kind: str = "schemas") -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(properties: Mapping[str, Any], required: Sequence[str] = (), more: bool = True) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    if not more:
        schema["additionalProperties"] = False
    return schema


def _error_responses() -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for code, (name, description, sentence) in _ERRORS.items():
        responses[name] = {
            "description": description,
            "content": {_JSON: {"schema": _ref("Error"), "example": {"error": sentence}}},
        }
        if code in (429, 503):
            responses[name]["headers"] = _RETRY
    return responses


def _errors(*codes: int) -> dict[str, Any]:
    return {str(code): _ref(_ERRORS[code][0], "responses") for code in codes}


def _json(description: str, schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": dict(schema), "example": example}}}


class _Model:
    """The parts of the document that depend on the model and the limits."""

    def __init__(self, limits: Limits, name: str, metadata: Mapping[str, Any] | None) -> None:
        self._limits, self._name = limits, name
        properties = metadata["properties"] if metadata else {}
        self._labels = protocol.split_names(properties.get(protocol.LABELS, ""))
        self._experts = protocol.split_names(properties.get(protocol.EXPERTS, "")) or list(protocol.EXPERT_NAMES)
        inputs = metadata["inputs"] if metadata else []
        self._widths = {tensor["name"]: tensor["shape"][1] for tensor in inputs if len(tensor["shape"]) == 2}
        self._digests = {
            tensor: properties.get(f"encoder_digest.{modality}", "t" * 64)
            for tensor, modality in protocol.EMBEDDING_MODALITY.items()
        }

    def paths(self) -> dict[str, Any]:
        name = {
            "name": "model_name",
            "in": "path",
            "required": True,
            "description": "The served model's name.",
            "schema": {"type": "string", "minLength": 1},
            "example": self._name,
        }
        live = self._get("health", "The process answers.", _object({"live": {"const": True}}, ["live"], False))
        ready = self._get("health", "New callers may be routed here.", _ref("Ready"), {"ready": True}, 503)
        models = self._get("models", "Names of what is served.", _ref("Models"), {"models": [self._name]})
        model_ready = self._get(
            "models", "Whether the model is ready.", _ref("ModelReady"), {"name": self._name, "ready": True}, 404, 503
        )
        one = {"parameters": [name]}
        paths: dict[str, Any] = {
            "/": live,
            "/metrics": self._metrics(),
            OPENAPI_PATH: self._get("health", "This document.", {"type": "object"}, {"openapi": "3.1.0"}),
            "/v1/models": models,
            "/v1/models/{model_name}": one | model_ready,
            "/v1/models/{model_name}:predict": one | {"post": self._predict()},
            "/v2": self._get("models", "The server.", _ref("ServerMetadata"), _server_example()),
            protocol.LIVE_PATH: live,
            protocol.READY_PATH: ready,
            "/v2/models": models,
            "/v2/models/{model_name}": one
            | self._get(
                "models",
                "Tensors, version, and under `properties` labels, experts and digests.",
                _ref("ModelMetadata"),
                self._metadata_example(),
                404,
                503,
            ),
            "/v2/models/{model_name}/ready": one | model_ready,
            "/v2/models/{model_name}/infer": one | {"post": self._infer()},
        }
        for path, item in paths.items():
            paths[path] = {
                key: value if key == "parameters" else {"operationId": _operation_id(key, path), **value}
                for key, value in item.items()
            }
        return paths

    def _get(
        self, tag: str, summary: str, schema: Mapping[str, Any], example: Any = None, *codes: int
    ) -> dict[str, Any]:
        answer = _json(summary, schema, {"live": True} if example is None else example)
        return {"get": {"tags": [tag], "summary": summary, "responses": {"200": answer, **_errors(*codes, 500)}}}

    @staticmethod
    def _metrics() -> dict[str, Any]:
        text = {"schema": {"type": "string"}}
        formats = {"text/plain": text, "application/openmetrics-text": text}
        answer = {"description": "Prometheus exposition.", "content": formats}
        summary = "Counts, latencies, batch sizes, expert weights, queue depth."
        return {"get": {"tags": ["health"], "summary": summary, "responses": {"200": answer, **_errors(500)}}}

    def _post(
        self, summary: str, body: dict[str, Any], answer: dict[str, Any], *headers: dict[str, Any]
    ) -> dict[str, Any]:
        size = self._limits.request_bytes
        identity = {
            "name": protocol.REQUEST_ID_HEADER,
            "in": "header",
            "description": "The response's id where the body has none; the first 64 characters are used.",
            "schema": {"type": "string"},
        }
        return {
            "tags": ["inference"],
            "summary": summary,
            "description": f"Limits: {size} bytes a request, {self._limits.utterances} utterances, "
            f"{self._limits.utterance_seconds:g} s of audio an utterance after decoding.",
            "parameters": [identity, *headers],
            "requestBody": {"required": True, "content": body},
            "responses": {"200": answer, **_errors(400, 404, 408, 409, 413, 415, 429, 500, 503)},
        }

    def _predict(self) -> dict[str, Any]:
        turns = [{"text": "Where have you been?"}, {"text": "At home.", "audio": _clip()}]
        examples = {
            "text": {
                "value": {"instances": [{"utterances": [{"text": "Where have you been?"}, {"text": "At home."}]}]}
            },
            "text_and_audio": {"value": {"instances": [{"utterances": turns}], "parameters": {protocol.DETAIL: True}}},
        }
        fields = {output["name"]: output["data"] for output in self._rows()}
        answer = {"id": "call-7", "predictions": [fields], "parameters": self._parameters_example()}
        return self._post(
            "Emotions of dialogues, V1 JSON.",
            {_JSON: {"schema": _ref("PredictRequest"), "examples": examples}},
            _json("One prediction per instance.", _ref("PredictResponse"), answer),
        )

    def _infer(self) -> dict[str, Any]:
        header = {
            "name": protocol.BINARY_HEADER,
            "in": "header",
            "description": "Length of the body's JSON part, bytes; the tensors with `binary_data_size` follow it as raw bytes.",
            "schema": {"type": "integer", "minimum": 0},
        }
        content = {
            _JSON: {"schema": _ref("InferRequest"), "examples": self._infer_examples()},
            _BINARY: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": f"JSON of `{protocol.BINARY_HEADER}` bytes, then the raw tensors in their order: FP32 as "
                    "little-endian floats, BYTES as elements that each follow their length (4 bytes, little-endian).",
                }
            },
        }
        answer: dict[str, Any] = {
            "id": "call-7",
            "model_name": self._name,
            "model_version": "0123456789ab",
            "outputs": self._flat_rows(),
            "parameters": self._parameters_example(),
        }
        response = _json("One row per utterance.", _ref("InferResponse"), answer)
        response["content"][_BINARY] = {"schema": {"type": "string", "format": "binary"}}
        response["headers"] = {
            protocol.BINARY_HEADER: {
                "description": "Length of the JSON part, where outputs were asked for as raw bytes.",
                "schema": {"type": "string", "pattern": "^[0-9]+$"},
            }
        }
        return self._post("Emotions of a dialogue, Open Inference Protocol (V2).", content, response, header)

    def _infer_examples(self) -> dict[str, Any]:
        text = {"name": protocol.TEXT, "datatype": "BYTES", "shape": [2], "data": ["Where have you been?", "At home."]}
        sound = {
            "name": protocol.AUDIO,
            "datatype": "BYTES",
            "shape": [2],
            "parameters": {protocol.CONTENT_TYPE: protocol.BASE64},
            "data": ["", _clip()],
        }
        examples: dict[str, Any] = {
            "text": {"value": {"id": "call-7", "inputs": [text]}},
            "text_and_audio": {"value": {"inputs": [text, sound], "parameters": {protocol.DETAIL: True}}},
            "one_output": {"value": {"inputs": [text], "outputs": [{"name": protocol.LABEL}]}},
        }
        for name, width in self._widths.items():
            tensor = {"name": name, "datatype": "FP32", "shape": [1, width], "data": [0.0] * width}
            examples[name] = {
                "value": {"inputs": [tensor], "parameters": {protocol.ENCODER_DIGEST: self._digests[name]}}
            }
        return examples

    def _parameters_example(self) -> dict[str, str]:
        return {
            protocol.MODEL_VERSION: "0123456789ab",
            protocol.BUNDLE_DIGEST: "0123456789ab" + "0" * 52,
            protocol.LABELS: protocol.join_names(self._labels or list(_EXAMPLE_LABELS)),
            protocol.EXPERTS: protocol.join_names(self._experts),
        }

    def _rows(self) -> list[dict[str, Any]]:
        """The outputs of the examples' two utterances: the first label is certain, the text expert decides."""
        labels = self._labels or list(_EXAMPLE_LABELS)
        sure = [1.0] + [0.0] * (len(labels) - 1)
        weights = [float(name == "text") for name in self._experts]
        return [
            {"name": protocol.LABEL, "datatype": "BYTES", "data": [labels[0]] * 2},
            {"name": protocol.PROBABILITIES, "datatype": "FP32", "data": [sure] * 2},
            {"name": protocol.EXPERT_WEIGHTS, "datatype": "FP32", "data": [weights] * 2},
            {"name": protocol.MODALITIES_USED, "datatype": "BYTES", "data": ["text", "text"]},
        ]

    def _flat_rows(self) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        for row in self._rows():
            data = row["data"]
            nested = isinstance(data[0], list)
            shape = [2, len(data[0])] if nested else [2]
            outputs.append(
                {**row, "shape": shape, "data": [value for values in data for value in values] if nested else data}
            )
        return outputs

    def _metadata_example(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "versions": ["0123456789ab"],
            "platform": "",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in protocol.RAW_INPUTS],
            "outputs": [{"name": protocol.LABEL, "datatype": "BYTES", "shape": [-1]}],
            "properties": self._parameters_example(),
        }

    def schemas(self) -> dict[str, Any]:
        schemas: dict[str, Any] = {
            "Error": _object({"error": {"type": "string", "minLength": 1}}, ["error"], False),
            "Ready": _object({"ready": {"const": True}}, ["ready"], False),
            "Models": _object({"models": {"type": "array", "items": {"type": "string"}}}, ["models"], False),
            "ModelReady": _object({"name": {"type": "string"}, "ready": {"const": True}}, ["name", "ready"], False),
            "ServerMetadata": _object(
                {
                    "name": {"type": "string"},
                    "version": {"type": "string"},
                    "extensions": {"type": "array", "items": {"type": "string"}},
                },
                ["name", "version", "extensions"],
            ),
            "TensorMetadata": _object(
                {
                    "name": {"type": "string"},
                    "datatype": {"enum": ["BYTES", "FP32"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
                },
                ["name", "datatype", "shape"],
                False,
            ),
            "ModelMetadata": _object(
                {
                    "name": {"type": "string"},
                    "versions": {"type": "array", "items": {"type": "string"}},
                    "platform": {"type": "string"},
                    "inputs": {"type": "array", "items": _ref("TensorMetadata")},
                    "outputs": {"type": "array", "items": _ref("TensorMetadata")},
                    "properties": {"type": "object", "additionalProperties": {"type": "string"}},
                },
                ["name", "versions", "platform", "inputs", "outputs", "properties"],
                False,
            ),
            "ResponseParameters": _object(
                {
                    protocol.MODEL_VERSION: {"type": "string"},
                    protocol.BUNDLE_DIGEST: {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    protocol.LABELS: {"type": "string", "description": "Comma-joined, in order."},
                    protocol.EXPERTS: {"type": "string", "description": "Comma-joined, in order."},
                },
                [protocol.MODEL_VERSION, protocol.BUNDLE_DIGEST, protocol.LABELS, protocol.EXPERTS],
                False,
            ),
        }
        return schemas | self._v1_schemas() | self._v2_schemas()

    def _v1_schemas(self) -> dict[str, Any]:
        text = {"type": ["string", "null"]}
        most = self._limits.utterances
        utterance = _object(
            {
                protocol.TEXT: text | {"description": "Transcript; empty or absent: no text."},
                protocol.AUDIO: text | {"contentEncoding": "base64", "description": "WAV, FLAC or OGG, base64."},
                protocol.AUDIO_URI: text | {"description": "`s3://`, under a location this server may read."},
                protocol.AUDIO_DIGEST: text | {"description": "SHA-256 (hexadecimal) of audio sent before."},
            },
            more=False,
        )
        turns = {"type": "array", "minItems": 1, "maxItems": most, "items": utterance}
        rows = {name: schema for name, schema in self._value_schemas().items() if name in protocol.OUTPUTS}
        always = [name for name in protocol.OUTPUTS if name != protocol.EXPERT_PROBABILITIES]
        return {
            "PredictRequest": _object(
                {
                    "id": _identity(),
                    "instances": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": most,
                        "items": _object({"utterances": turns}, ["utterances"]),
                    },
                    "parameters": {
                        "type": ["object", "null"],
                        "properties": {protocol.DETAIL: {"type": "boolean", "description": "Per-expert output, too."}},
                    },
                },
                ["instances"],
            ),
            "PredictResponse": _object(
                {
                    "id": {"type": "string"},
                    "predictions": {"type": "array", "items": _object(rows, always, False)},
                    "parameters": _ref("ResponseParameters"),
                },
                ["id", "predictions", "parameters"],
                False,
            ),
        }

    def _value_schemas(self) -> dict[str, Any]:
        """V1's fields."""
        share = {"type": "number", "minimum": 0, "maximum": 1.0001}
        by_label: dict[str, Any] = {"type": "array", "items": share}
        if self._labels:
            by_label |= {"minItems": len(self._labels), "maxItems": len(self._labels)}
        by_expert = {"type": "array", "minItems": len(self._experts), "maxItems": len(self._experts)}
        label: dict[str, Any] = {"enum": self._labels} if self._labels else {"type": "string"}
        used = {"type": "string", "description": "Modalities joined by `+`, or `none`."}
        return {
            protocol.LABEL: {"type": "array", "items": label},
            protocol.PROBABILITIES: {"type": "array", "items": by_label},
            protocol.EXPERT_WEIGHTS: {"type": "array", "items": by_expert | {"items": share}},
            protocol.EXPERT_PROBABILITIES: {"type": "array", "items": by_expert | {"items": by_label}},
            protocol.MODALITIES_USED: {"type": "array", "items": used},
        }

    def _v2_schemas(self) -> dict[str, Any]:
        binary = _object({protocol.BINARY_DATA: {"type": "boolean"}}) | {"maxProperties": 64}
        output = _object({"name": {"enum": list(protocol.OUTPUTS)}, "parameters": binary}, ["name"])
        tensors = [self._raw_tensor(name) for name in protocol.RAW_INPUTS]
        tensors += [self._embedding(name) for name in protocol.EMBEDDING_MODALITY]
        parameters = {
            protocol.DETAIL: {"type": "boolean", "description": "Per-expert output, too."},
            protocol.ENCODER_DIGEST: {"type": "string", "description": "With embeddings: of the model's encoders."},
            protocol.BINARY_OUTPUT: {"type": "boolean", "description": "All outputs as raw bytes."},
        }
        return {
            "InferRequest": _object(
                {
                    "id": _identity(),
                    "inputs": {"type": "array", "minItems": 1, "maxItems": 6, "items": {"oneOf": tensors}},
                    "outputs": {"type": "array", "maxItems": 64, "items": output},
                    "parameters": _object(parameters) | {"maxProperties": 64},
                },
                ["inputs"],
            ),
            "InferResponse": _object(
                {
                    "id": {"type": "string"},
                    "model_name": {"type": "string"},
                    "model_version": {"type": "string"},
                    "outputs": {"type": "array", "items": {"oneOf": self._outputs()}},
                    "parameters": _ref("ResponseParameters"),
                },
                ["id", "model_name", "model_version", "outputs", "parameters"],
                False,
            ),
        }

    def _raw_tensor(self, name: str) -> dict[str, Any]:
        audio = name == protocol.AUDIO
        content = [protocol.BASE64] if audio else [protocol.BASE64, "str"]
        parameters = {
            protocol.CONTENT_TYPE: {"enum": content},
            protocol.BINARY_SIZE: {
                "type": "integer",
                "minimum": 0,
                "description": "Of the raw bytes, instead of data.",
            },
        }
        data = {"type": "array", "minItems": 1, "maxItems": self._limits.utterances, "items": {"type": "string"}}
        return _object(
            {
                "name": {"const": name},
                "datatype": {"const": "BYTES"},
                "shape": _shape(1),
                "parameters": _object(parameters) | {"maxProperties": 64},
                "data": data,
            },
            ["name", "datatype", "shape", *(["parameters"] if audio else [])],
        )

    def _embedding(self, name: str) -> dict[str, Any]:
        number = {"type": "number"}
        row: dict[str, Any] = {"type": "array", "items": number}
        if name in self._widths:
            row |= {"minItems": self._widths[name], "maxItems": self._widths[name]}
        return _object(
            {
                "name": {"const": name},
                "datatype": {"const": "FP32"},
                "shape": _shape(2),
                "parameters": _object({protocol.BINARY_SIZE: {"type": "integer", "minimum": 0}})
                | {"maxProperties": 64},
                "data": {"type": "array", "items": {"anyOf": [number, row]}},
            },
            ["name", "datatype", "shape"],
        )

    def _outputs(self) -> list[dict[str, Any]]:
        values = self._value_schemas()
        share = {"type": "array", "items": values[protocol.PROBABILITIES]["items"]["items"]}
        ranks = {protocol.PROBABILITIES: 2, protocol.EXPERT_WEIGHTS: 2, protocol.EXPERT_PROBABILITIES: 3}
        outputs: list[dict[str, Any]] = []
        for name in protocol.OUTPUTS:
            rank = ranks.get(name, 1)
            outputs.append(
                _object(
                    {
                        "name": {"const": name},
                        "datatype": {"const": "BYTES" if rank == 1 else "FP32"},
                        "shape": _shape(rank),
                        "data": values[name] if rank == 1 else share,
                        "parameters": _object({protocol.BINARY_SIZE: {"type": "integer", "minimum": 0}}),
                    },
                    ["name", "datatype", "shape"],
                    False,
                )
            )
        return outputs


def _identity() -> dict[str, Any]:
    return {"type": ["string", "null"], "maxLength": 256, "description": "Echoed; made up where there is none."}


def _shape(rank: int) -> dict[str, Any]:
    return {"type": "array", "minItems": rank, "maxItems": rank, "items": {"type": "integer", "minimum": 0}}


def _server_example() -> dict[str, Any]:
    return {"name": "kserve", "version": "0.21.0", "extensions": ["binary_tensor_data"]}


def _operation_id(method: str, path: str) -> str:
    words = "".join(character if character.isalnum() else " " for character in path).split()
    return "_".join([method, *words] if words else [method, "root"])


def _clip() -> str:
    """A WAV file of a tenth of a second of silence (8 kHz, 8 bit), base64."""
    samples = b"\x80" * 800
    head = b"WAVEfmt " + (16).to_bytes(4, "little") + b"\x01\x00\x01\x00" + (8000).to_bytes(4, "little") * 2
    content = head + b"\x01\x00\x08\x00data" + len(samples).to_bytes(4, "little") + samples
    return base64.b64encode(b"RIFF" + len(content).to_bytes(4, "little") + content).decode()


def render() -> str:
    """The document of a server with its defaults, as the file holds it."""
    return json.dumps(build_document(Limits()), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """``python -m mistere.predictor.protocol.openapi``."""
    FILE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
