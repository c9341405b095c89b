"""The OpenAPI document says what the server does, and the server does what the document says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode, checks

from mistere.predictor.protocol.openapi import FILE, OPENAPI_PATH, build_document, render
from mistere.predictor.protocol.rest import build_application
from mistere.predictor.settings import Limits
from tests.serving.conftest import LABELS, ROOT, Server, launch

DOCUMENT = build_document(Limits(), "mistere")
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item if method != "parameters"]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


def test_the_file_is_the_document_of_the_code() -> None:
    assert FILE.read_text() == render(), "out of date: python -m mistere.predictor.protocol.openapi"


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from mistere.predictor.protocol import openapi; openapi.FILE = Path({str(tmp_path / 'x')!r}); openapi.main()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "x").read_text() == FILE.read_text()


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def test_the_document_has_every_path_of_the_application_and_no_other() -> None:
    application = build_application(SimpleNamespace(), Limits())  # type: ignore[arg-type]
    routes = {
        (method.lower(), route.path)
        for route in application.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert routes == set(OPERATIONS)


def served(server: Server) -> dict[str, Any]:
    response = httpx.get(server.url + OPENAPI_PATH)
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def test_a_running_server_names_its_labels_widths_and_limits(server: Server) -> None:
    document = served(server)
    validate(document)
    schemas = document["components"]["schemas"]
    fields = schemas["PredictResponse"]["properties"]["predictions"]["items"]["properties"]
    assert fields["label"]["items"]["enum"] == LABELS
    assert fields["probabilities"]["items"]["minItems"] == len(LABELS)
    assert "5 s of audio" in document["paths"]["/v2/models/{model_name}/infer"]["post"]["description"]
    assert (
        "text_embedding"
        in document["paths"]["/v2/models/{model_name}/infer"]["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ]
    )


def test_the_document_is_there_before_the_model_is(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("moody_server.py"))
    waiting = launch([script], str(tmp_path / "never"), tmp_path / "log")
    try:
        for _ in range(200):
            try:
                assert served(waiting) == DOCUMENT
                break
            except httpx.ConnectError:
                assert waiting.process.poll() is None
                time.sleep(0.1)
        assert httpx.get(f"{waiting.url}/v2/health/ready").status_code == 503
    finally:
        waiting.process.kill()
        waiting.process.wait()


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("method,path", [operation for operation in OPERATIONS if operation[0] == "post"])
def test_every_example_of_a_request_is_valid_and_answered(server: Server, method: str, path: str) -> None:
    document = served(server)
    content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for name, example in content["examples"].items():
        resolved(document, content["schema"]).validate(example["value"])
        url = server.url + path.replace("{model_name}", "mistere")
        response = httpx.post(url, json=example["value"])
        assert response.status_code == 200, (name, response.text)
        answer = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        resolved(document, answer).validate(response.json())


@pytest.mark.parametrize("known", [True, False])
def test_every_example_of_an_answer_is_valid(server: Server, known: bool) -> None:
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
    """Requests made from the document, good ones and bad ones; every answer is one the document knows."""
    schema = schemathesis.openapi.from_url(server.url + OPENAPI_PATH)
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
        case.call_and_validate(checks=CHECKS, timeout=20)

    run()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_made_from_the_document_is_answered_as_it_says(server: Server, method: str, path: str) -> None:
    explore(server, method, path, 30)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_lot_of_what_is_made_from_the_document(server: Server, method: str, path: str) -> None:
    explore(server, method, path, 500)
