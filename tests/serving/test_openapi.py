"""The OpenAPI document describes every response of the server, and the server accepts every request it describes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode, checks
from starlette.routing import Route

from mistere.predictor.protocol.openapi import FILE, OPENAPI_PATH, build_document
from mistere.predictor.protocol.rest import build_application
from mistere.predictor.settings import Limits, ServerSettings
from mistere.serving import protocol
from tests.serving.conftest import LABELS, Server, launch

DOCUMENT = build_document(Limits(), "mistere")
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item if method != "parameters"]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


def test_the_file_states_the_servers_defaults() -> None:
    assert build_document(Limits()) == json.loads(FILE.read_text())
    assert build_document(Limits(), ServerSettings(bundle="").model_name) == DOCUMENT


def test_the_file_names_the_tensors_and_headers_of_the_protocol() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    inputs = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    outputs = schemas["InferResponse"]["properties"]["outputs"]["items"]["oneOf"]
    prediction = schemas["PredictResponse"]["properties"]["predictions"]["items"]
    known = (*protocol.OUTPUTS, *protocol.EXPLANATION_OUTPUTS)
    infer = DOCUMENT["paths"]["/v2/models/{model_name}/infer"]["post"]
    predict = DOCUMENT["paths"]["/v1/models/{model_name}:predict"]["post"]
    turn = schemas["PredictRequest"]["properties"]["instances"]["items"]["properties"]["utterances"]["items"]
    assert [tensor["properties"]["name"]["const"] for tensor in inputs] == [
        *protocol.RAW_INPUTS,
        *protocol.EMBEDDING_MODALITY,
        protocol.PREDICT,
    ]
    assert [tensor["properties"]["name"]["const"] for tensor in outputs] == list(known)
    assert schemas["InferRequest"]["properties"]["outputs"]["items"]["properties"]["name"]["enum"] == list(known)
    assert set(prediction["properties"]) == set(known)
    weights = [prediction["properties"][protocol.EXPERT_WEIGHTS], outputs[known.index(protocol.EXPERT_WEIGHTS)]]
    assert [one["description"] for one in weights] == 2 * [
        f"{protocol.WEIGHTS_MEAN[0].upper()}{protocol.WEIGHTS_MEAN[1:]}."
    ]
    on_request = {protocol.EXPERT_PROBABILITIES, *protocol.EXPLANATION_OUTPUTS}
    assert set(prediction["properties"]) - set(prediction["required"]) == on_request
    assert set(turn["properties"]) == {*protocol.RAW_INPUTS, protocol.PREDICT}
    assert set(schemas["ResponseParameters"]["required"]) == {
        protocol.MODEL_VERSION,
        protocol.BUNDLE_DIGEST,
        protocol.LABELS,
        protocol.EXPERTS,
    }
    assert set(schemas["InferRequest"]["properties"]["parameters"]["properties"]) == {
        protocol.DETAIL,
        protocol.TRANSCRIBE,
        protocol.DIALOGUE_ID,
        protocol.CONSENT,
        protocol.ENCODER_DIGEST,
        protocol.NAN_IS_MISSING,
        protocol.BINARY_OUTPUT,
    }
    assert [header["name"] for header in infer["parameters"]] == [protocol.REQUEST_ID_HEADER, protocol.BINARY_HEADER]
    assert [header["name"] for header in predict["parameters"]] == [protocol.REQUEST_ID_HEADER]
    assert list(infer["responses"]["200"]["headers"]) == [protocol.BINARY_HEADER]


def test_a_servers_settings_and_model_are_filled_in_everywhere() -> None:
    labels, experts = ["calm", "glad", "sad"], [*protocol.EXPERT_NAMES, "pose"]
    metadata = {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "text_embedding", "datatype": "FP32", "shape": [-1, 768]},
        ],
        "properties": {"labels": ",".join(labels), "experts": ",".join(experts), "encoder_digest.text": "7" * 64},
    }
    limits = Limits(request_bytes=1234, utterances=9, utterance_seconds=5.5)
    document = build_document(limits, "feelings", metadata)
    validate(document)
    schemas, text = document["components"]["schemas"], json.dumps(document)
    for example_value in ('"mistere"', "joy", '"speech,text,cross_modal"', '"maxItems": 128', "8388608"):
        assert example_value in json.dumps(DOCUMENT) and example_value not in text
    assert text.count('"maxItems": 9,') + text.count('"maxItems": 9}') == 7
    for path in ("/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer"):
        description = document["paths"][path]["post"]["description"]
        assert "1234 bytes" in description and "9 utterances" in description and "5.5 s of audio" in description
    fields = schemas["PredictResponse"]["properties"]["predictions"]["items"]["properties"]
    assert fields["label"]["items"] == {"enum": [*labels, ""]}
    assert fields["probabilities"]["items"]["maxItems"] == 3 and fields["expert_weights"]["items"]["maxItems"] == 4
    embedding = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"][5]["properties"]
    assert embedding["name"] == {"const": "text_embedding"}
    assert embedding["data"]["items"]["anyOf"][1]["minItems"] == 768
    infer = document["paths"]["/v2/models/{model_name}/infer"]["post"]
    examples = infer["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"text", "text_and_audio", "one_output", "text_embedding"}
    assert examples["text_embedding"]["value"]["parameters"] == {"encoder_digest": "7" * 64}
    outputs = infer["responses"]["200"]["content"]["application/json"]["example"]["outputs"]
    assert [output["shape"] for output in outputs] == [[2], [2, 3], [2, 4], [2]]
    assert outputs[2]["data"] == [0.0, 1.0, 0.0, 0.0] * 2
    assert build_document(Limits()) == json.loads(FILE.read_text()), (
        "filling in one server changed the next one's document"
    )


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_the_document_has_every_path_of_the_application_and_no_other() -> None:
    application = build_application(SimpleNamespace(), Limits())  # type: ignore[arg-type]
    routes = {
        (method.lower(), route.path)
        for route in application.routes
        if isinstance(route, Route)
        for method in route.methods
    }
    heads = {(method, path) for method, path in routes if method == "head"}
    assert routes - heads == set(OPERATIONS)
    assert {path for _, path in heads} == {
        path for method, path in routes if method == "get"
    }  # as the description says
    assert "HEAD" in DOCUMENT["info"]["description"]


def served(server: Server) -> dict[str, Any]:
    response = httpx.get(server.url + OPENAPI_PATH, timeout=120)
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def test_a_running_server_names_its_labels_widths_and_limits(server: Server) -> None:
    document = served(server)
    validate(document)
    schemas = document["components"]["schemas"]
    fields = schemas["PredictResponse"]["properties"]["predictions"]["items"]["properties"]
    assert fields["label"]["items"]["enum"] == [*LABELS, ""]
    assert fields["probabilities"]["items"]["minItems"] == len(LABELS)
    assert "5 s of audio" in document["paths"]["/v2/models/{model_name}/infer"]["post"]["description"]
    assert (
        "text_embedding"
        in document["paths"]["/v2/models/{model_name}/infer"]["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ]
    )


@pytest.mark.long
def test_the_document_is_served_before_the_model_is_loaded(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("faulty_server.py"))
    waiting = launch([script], str(tmp_path / "never"), tmp_path / "log")
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                assert served(waiting) == DOCUMENT
                break
            except httpx.ConnectError:
                assert waiting.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        assert httpx.get(f"{waiting.url}/v2/health/ready").status_code == 503
    finally:
        waiting.process.kill()
        waiting.process.wait()


def served_version(document: dict[str, Any]) -> str:
    """The version in the document's examples."""
    parameters = document["paths"]["/v2/models/{model_name}/versions/{version}"]["parameters"]
    (version,) = [parameter["example"] for parameter in parameters if parameter["name"] == "version"]
    return str(version)


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("method,path", [operation for operation in OPERATIONS if operation[0] == "post"])
def test_every_request_example_is_valid_and_succeeds(server: Server, method: str, path: str) -> None:
    document = served(server)
    content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    url = server.url + path.replace("{model_name}", "mistere").replace("{version}", served_version(document))
    for name, example in content["examples"].items():
        resolved(document, content["schema"]).validate(example["value"])
        response = httpx.post(url, json=example["value"])
        assert response.status_code == 200, (name, response.text)
        answer = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        resolved(document, answer).validate(response.json())


@pytest.mark.parametrize("known", [True, False])
def test_every_response_example_is_valid(server: Server, known: bool) -> None:
    document = served(server) if known else DOCUMENT
    responses = [*document["components"]["responses"].values()]
    for method, path in OPERATIONS:
        responses += [
            answer for answer in document["paths"][path][method]["responses"].values() if "$ref" not in answer
        ]
    examples = [content for answer in responses for content in answer["content"].values() if "example" in content]
    assert len(examples) > 15
    for content in examples:
        resolved(document, content["schema"]).validate(content["example"])


def explore(server: Server, method: str, path: str, examples: int) -> None:
    """Send valid and invalid requests generated from the document; the document must describe every response."""
    schema = schemathesis.openapi.from_url(server.url + OPENAPI_PATH)
    version = served_version(schema.raw_schema)
    operation = schema[path][method]
    modes = [GenerationMode.POSITIVE]
    if DOCUMENT["paths"][path].get("parameters"):
        modes.append(GenerationMode.NEGATIVE)

    @given(known=st.booleans(), case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]))
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def run(known: bool, case: Case) -> None:
        if known and "model_name" in case.path_parameters:
            case.path_parameters["model_name"] = "mistere"
            if "version" in case.path_parameters:
                case.path_parameters["version"] = version
        case.call_and_validate(checks=CHECKS, timeout=20)

    run()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_generated_requests_get_responses_that_the_document_describes(server: Server, method: str, path: str) -> None:
    explore(server, method, path, 10 if "{version}" in path else 30)  # the same handlers as without a version


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_generated_requests_get_responses_that_the_document_describes(
    server: Server, method: str, path: str
) -> None:
    explore(server, method, path, 500)
