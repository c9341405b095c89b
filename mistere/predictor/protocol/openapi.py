"""Serve the OpenAPI 3.1 document of the REST interface.

``openapi.json`` beside this file is the document, edited by hand. It states the default limits and an example model with the
labels ``joy`` and ``neutral``. A running server answers ``GET /openapi.json`` with its own limits and model name and, once
its model is ready, with the model's labels, experts and embedding widths. :func:`build_document` fills those in.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

from mistere.data.recordings import formats
from mistere.data.transcripts import TextSource
from mistere.predictor.settings import Limits
from mistere.serving import protocol

OPENAPI_PATH: Final = "/openapi.json"
FILE: Final = Path(__file__).with_name("openapi.json")

_EXAMPLE_MODEL: Final = "mistere"
_EXAMPLE_VERSION: Final = "0123456789ab"
_EXAMPLE_LABELS: Final = ("joy", "neutral")
_JSON: Final = "application/json"
_PREDICT: Final = "/v1/models/{model_name}:predict"
_METADATA: Final = "/v2/models/{model_name}"
_INFER: Final = "/v2/models/{model_name}/infer"


def build_document(
    limits: Limits, model_name: str | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fill a server's settings into the document.

    Args:
        limits: limits of a request.
        model_name: name of the served model; None keeps the example's.
        metadata: the response of ``GET /v2/models/{model}``; None before the model is ready.

    Returns:
        A new document.
    """
    document: dict[str, Any] = json.loads(_text())
    properties = metadata["properties"] if metadata else {}
    labels = protocol.split_names(properties.get(protocol.LABELS, ""))
    experts = protocol.split_names(properties.get(protocol.EXPERTS, "")) or list(protocol.EXPERT_NAMES)
    _set_limits(document, limits)
    _set_value_schemas(document["components"]["schemas"], labels, experts)
    if metadata:
        _set_embeddings(document, metadata)
        _set_further_modalities(document["components"]["schemas"], metadata)
        if any(output["name"] == protocol.TEXT_SOURCE for output in metadata.get("outputs", ())):
            _add_text_source(document["components"]["schemas"])
    _set_predictions(document, labels or list(_EXAMPLE_LABELS), experts)
    replacements = {
        _EXAMPLE_MODEL: model_name or _EXAMPLE_MODEL,
        _EXAMPLE_VERSION: properties.get(protocol.MODEL_VERSION, _EXAMPLE_VERSION),
        protocol.join_names(_EXAMPLE_LABELS): protocol.join_names(labels or _EXAMPLE_LABELS),
        protocol.join_names(protocol.EXPERT_NAMES): protocol.join_names(experts),
    }
    for item in document["paths"].values():
        _replace_examples(item, replacements)
    return document


@cache
def _text() -> str:
    return FILE.read_text(encoding="utf-8")


def _set_limits(document: dict[str, Any], limits: Limits) -> None:
    for path in (_PREDICT, _INFER):
        document["paths"][path]["post"]["description"] = (
            f"Limits: {limits.request_bytes} bytes a request, {limits.utterances} utterances, "
            f"{limits.utterance_seconds:g} s of audio an utterance after decoding; of what was not sent before, "
            f"{limits.request_seconds:g} s of audio and {limits.request_tokens} tokens of text (four bytes count as one). "
            "The body may be compressed (`Content-Encoding: gzip` or `deflate`); its limit holds before and after decompression."
        )
    metadata = document["paths"][_METADATA]["get"]["responses"]["200"]["content"][_JSON]["example"]
    metadata["properties"] |= limits.stated() | formats.stated()
    schemas = document["components"]["schemas"]
    instances = schemas["PredictRequest"]["properties"]["instances"]
    raw = {*protocol.RAW_INPUTS, protocol.PREDICT}
    columns = [tensor["data"] for name, tensor in _tensors(schemas).items() if name in raw]
    for array in (instances, instances["items"]["properties"]["utterances"], *columns):
        array["maxItems"] = limits.utterances


def _tensors(schemas: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Input tensor of V2 → its ``properties``."""
    tensors = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    return {tensor["properties"]["name"]["const"]: tensor["properties"] for tensor in tensors}


def _set_value_schemas(schemas: dict[str, Any], labels: Sequence[str], experts: Sequence[str]) -> None:
    """State the labels and the number of experts; without labels, any label in any number is valid."""
    fields = schemas["PredictResponse"]["properties"]["predictions"]["items"]["properties"]
    weights, by_expert = fields[protocol.EXPERT_WEIGHTS], fields[protocol.EXPERT_PROBABILITIES]
    for array in (weights["items"], by_expert["items"]):
        array |= {"minItems": len(experts), "maxItems": len(experts)}
    if not labels:
        return
    for array in (fields[protocol.PROBABILITIES]["items"], by_expert["items"]["items"]):
        array |= {"minItems": len(labels), "maxItems": len(labels)}
    fields[protocol.LABEL]["items"] = {"enum": [*labels, ""]}
    for tensor in schemas["InferResponse"]["properties"]["outputs"]["items"]["oneOf"]:
        if tensor["properties"]["name"]["const"] == protocol.LABEL:
            tensor["properties"]["data"]["items"] = {"enum": [*labels, ""]}


def _set_embeddings(document: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """State the widths of the embeddings that the model takes, and add an example request for each."""
    tensors = _tensors(document["components"]["schemas"])
    examples = document["paths"][_INFER]["post"]["requestBody"]["content"][_JSON]["examples"]
    for tensor in metadata["inputs"]:
        name = tensor["name"]
        modality = protocol.modality_of(name)
        if not modality:
            continue
        if name not in tensors:
            tensors[name] = _add_tensor(document["components"]["schemas"], name)
        width = tensor["shape"][1]
        row = next(schema for schema in tensors[name]["data"]["items"]["anyOf"] if schema["type"] == "array")
        row |= {"minItems": width, "maxItems": width}
        digest = metadata["properties"].get(f"encoder_digest.{modality}", "")
        inputs = [{"name": name, "datatype": "FP32", "shape": [1, width], "data": [0.0] * width}]
        parameters = {"parameters": {protocol.ENCODER_DIGEST: digest}} if digest else {}
        examples[name] = {"value": {"inputs": inputs, **parameters}}
    if not any(tensor["name"] in protocol.RAW_INPUTS for tensor in metadata["inputs"]):
        _leave_out_raw_inputs(document)


def _add_tensor(schemas: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Add an embedding tensor like that of text; returns its ``properties``."""
    tensors = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    added = copy.deepcopy(next(one for one in tensors if one["properties"]["name"]["const"] == protocol.TEXT_EMBEDDING))
    added["properties"]["name"]["const"] = name
    tensors.append(added)
    properties: dict[str, Any] = added["properties"]
    return properties


def _set_further_modalities(schemas: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Add the raw tensors and V1 fields of a model's modalities beside speech and text."""
    known = _tensors(schemas)
    tensors = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    fields = schemas["PredictRequest"]["properties"]["instances"]["items"]["properties"]["utterances"]["items"]
    text = next((one for one in tensors if one["properties"]["name"]["const"] == protocol.TEXT), None)
    for tensor in metadata["inputs"]:
        name, numbers, several = tensor["name"], tensor["datatype"] == "FP32", len(tensor["shape"]) == 2
        if name in known or text is None:
            continue
        added = copy.deepcopy(text)
        value = {"type": ["number", "null"]} if numbers else {"type": "string"}
        properties = added["properties"]
        properties["name"], properties["datatype"] = {"const": name}, {"const": tensor["datatype"]}
        properties["shape"] = {
            "type": "array", "minItems": 1 + (numbers or several), "maxItems": 2, "items": {"type": "integer", "minimum": 0},
        }  # fmt: skip
        properties["data"] = {
            "type": "array",
            "description": "A row of null: the utterance has none." if numbers else "Base64; an empty element: none.",
            "items": {"anyOf": [value, {"type": "array", "items": value}]},
        }
        tensors.append(added)
        one = {"type": "number"} if numbers else {"type": "string", "contentEncoding": "base64"}
        fields["properties"][name] = {"type": ["array", "null"], "items": one} if numbers or several else {
            "type": ["string", "null"]
        }  # fmt: skip
    inputs = schemas["InferRequest"]["properties"]["inputs"]
    inputs["maxItems"] = max(inputs["maxItems"], len(tensors))


def _add_text_source(schemas: dict[str, Any]) -> None:
    """Add the output of a model that transcribes, in the form of ``modalities_used``."""
    source = {
        "enum": list(get_args(TextSource)),
        "description": "Where the utterance's text comes from: the client (`human`), a transcript of its audio (`asr`), or nowhere.",
    }
    prediction = schemas["PredictResponse"]["properties"]["predictions"]["items"]
    prediction["properties"][protocol.TEXT_SOURCE] = {"type": "array", "items": source}
    prediction["required"].append(protocol.TEXT_SOURCE)
    schemas["InferRequest"]["properties"]["outputs"]["items"]["properties"]["name"]["enum"].append(protocol.TEXT_SOURCE)
    outputs = schemas["InferResponse"]["properties"]["outputs"]
    tensors = outputs["items"]["oneOf"]
    added = copy.deepcopy(
        next(one for one in tensors if one["properties"]["name"]["const"] == protocol.MODALITIES_USED)
    )
    added["properties"]["name"]["const"] = protocol.TEXT_SOURCE
    added["properties"]["data"]["items"] = source
    tensors.append(added)


def _leave_out_raw_inputs(document: dict[str, Any]) -> None:
    """Leave texts and recordings out of V2, for a model that takes vectors only. V1 has nothing else, and answers 400."""
    schema = document["components"]["schemas"]["InferRequest"]["properties"]["inputs"]["items"]
    schema["oneOf"] = [
        tensor for tensor in schema["oneOf"] if tensor["properties"]["name"]["const"] not in protocol.RAW_INPUTS
    ]
    content = document["paths"][_INFER]["post"]["requestBody"]["content"][_JSON]
    content["examples"] = {name: one for name, one in content["examples"].items() if protocol.modality_of(name)}


def _set_predictions(document: dict[str, Any], labels: Sequence[str], experts: Sequence[str]) -> None:
    """Make the example answers the model's: the first label with certainty, from the text expert alone."""
    rows: dict[str, str | list[float]] = {
        protocol.LABEL: labels[0],
        protocol.PROBABILITIES: [1.0] + [0.0] * (len(labels) - 1),
        protocol.EXPERT_WEIGHTS: [float(name == "text") for name in experts],
    }
    answers = {
        path: document["paths"][path]["post"]["responses"]["200"]["content"][_JSON]["example"]
        for path in (_PREDICT, _INFER)
    }
    for prediction in answers[_PREDICT]["predictions"]:
        prediction |= {name: [row] * len(prediction[name]) for name, row in rows.items()}
    for output in answers[_INFER]["outputs"]:
        row = rows.get(output["name"])
        if isinstance(row, list):
            output |= {"shape": [output["shape"][0], len(row)], "data": row * output["shape"][0]}
        elif row is not None:
            output["data"] = [row] * output["shape"][0]


def _replace_examples(value: Any, replacements: Mapping[str, str]) -> None:
    """Replace, in place, every string that the document uses for the example model."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, content in pairs:
        if isinstance(content, dict | list):
            _replace_examples(content, replacements)
        elif isinstance(content, str) and content in replacements:
            value[key] = replacements[content]
