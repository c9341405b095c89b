"""Every JSON type at every place of a request gets a prediction or a client error, never a server error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import grpc
import httpx
import pytest

from tests.hostile.json_requests import (
    ALL,
    INFER,
    QUICK,
    HostileRequest,
    every_type_everywhere,
    hostile_requests,
    table,
)
from tests.serving.conftest import Server
from tests.serving.test_errors import FORBIDDEN, HI, refused

CALL = "/inference.GRPCInferenceService/ModelInfer"
CLIENT_STATUSES = {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "NOT_FOUND"}


def send(server: Server, requests: Sequence[HostileRequest]) -> Counter[str]:
    """Send requests over one REST and one gRPC connection; returns the number of each status."""
    statuses: Counter[str] = Counter()
    connection = HTTPConnection("127.0.0.1", server.http_port, timeout=120)
    with grpc.insecure_channel(server.grpc_target) as channel:
        call = channel.unary_unary(CALL)
        for request in requests:
            text = ""
            if request.path:
                connection.request("POST", request.path, request.body, request.headers)
                response = connection.getresponse()
                content = response.read()
                status = str(response.status)
                assert response.status < 500, (request.kind, request.changed, content)
                if response.status != 200:
                    answer = json.loads(content)
                    assert set(answer) == {"error"}
                    text = answer["error"]
            else:
                status = "OK"
                try:
                    call(request.body, timeout=120)
                except grpc.RpcError as error:
                    status, text = error.code().name, error.details()
                assert status in CLIENT_STATUSES, (request.kind, request.changed, text)
            assert not any(word in text for word in FORBIDDEN), (request.changed, text)
            statuses[status] += 1
    connection.close()
    return statuses


@pytest.mark.parametrize("value", [[], {}, [1], {"x": []}, 0, True])
@pytest.mark.parametrize("name", ["text", "audio"])
def test_a_content_type_that_is_no_string_is_400(server: Server, name: str, value: object) -> None:
    tensor = {**HI, "name": name, "parameters": {"content_type": value}}
    refused(httpx.post(server.url + INFER, json={"inputs": [tensor]}), 400, "content_type", "string")


def test_hundreds_of_requests_with_any_json_type_are_no_server_error(server: Server) -> None:
    statuses = send(server, hostile_requests(QUICK))
    assert statuses.total() == QUICK
    assert statuses["400"] > QUICK / 2 and statuses["200"] > QUICK / 20
    assert statuses["INVALID_ARGUMENT"] and statuses["OK"]


@pytest.mark.long
def test_ten_thousand_requests_with_any_json_type_are_no_server_error(server: Server) -> None:
    requests = hostile_requests(ALL)
    with ThreadPoolExecutor(4) as pool:
        statuses = sum(pool.map(lambda part: send(server, requests[part::4]), range(4)), Counter[str]())
    print(f"\n{statuses.total()} requests: {dict(statuses.most_common())}")
    assert statuses.total() == ALL
    assert statuses["400"] > ALL / 4 and statuses["200"] > ALL / 40
    assert server.process.poll() is None


@pytest.mark.long
def test_the_table_has_the_counts() -> None:
    rows = table()
    assert [sum(row[column] for row in rows) for column in (2, 3)] == [QUICK, ALL]
    assert ALL >= 10_000
    assert len({request.changed for request in every_type_everywhere()}) > QUICK / 2
    assert all(row[1] and row[2] and row[3] > row[2] for row in rows)
