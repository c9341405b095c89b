"""Traces of a real predictor in a real collector: what is in them, what is not, and that a collector is never in the way."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from mistere.common.errors import UsageError
from mistere.config.predictor_options import resolve
from mistere.predictor.settings import parse_arguments
from tests.serving.conftest import ROOT, Server, clip, launch
from tests.serving.test_lifecycle import FAULTY, wait_for
from tests.serving.test_traffic import shown
from tests.serving.trace_receiver import TraceReceiver, trace_receiver

PHASES = ["decode", "queue", "encode", "mixture", "respond"]
SECRET = "where we hid the money"


def new_trace() -> str:
    return secrets.token_hex(16)


def header(trace: str, span: str = "00f067aa0ba902b7", sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{span}-{'01' if sampled else '00'}"}


def body(text: str = SECRET, identity: str = "caller-0041-79") -> dict[str, Any]:
    return {"id": identity, "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": [text, f"{text}?"]}]}


def sizes(span: Any) -> dict[str, Any]:
    return {
        each.key.removeprefix("mistere."): getattr(each.value, each.value.WhichOneof("value"))
        for each in span.attributes
    }


def ask(server: Server, headers: dict[str, str] | dict[str, bytes], **content: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/mistere/infer", json=body(**content), headers=headers, timeout=60)


def test_a_request_is_a_span_with_its_phases_below(server: Server, receiver: TraceReceiver, bundle: str) -> None:
    trace = new_trace()
    assert ask(server, header(trace), text=f"{SECRET} {trace}").status_code == 200
    root, phases = receiver.of(trace)
    assert root.parent_span_id.hex() == "00f067aa0ba902b7" and root.kind == 2  # a server's span
    assert sizes(root) == {
        "protocol": "rest_v2",
        "code": "200",
        "dialogues": 1,
        "utterances": 2,
        "texts": 2,
        "recordings": 0,
    }
    assert sorted(span.name for span in phases) == sorted(PHASES)
    assert {span.parent_span_id for span in phases} == {root.span_id}
    by_name = {span.name: span for span in phases}
    moments = [root.start_time_unix_nano]
    for name in PHASES:
        moments += [by_name[name].start_time_unix_nano, by_name[name].end_time_unix_nano]
    assert moments == sorted(moments) and moments[-1] <= root.end_time_unix_nano
    assert abs(root.end_time_unix_nano / 1e9 - time.time()) < 60
    assert sizes(by_name["encode"]) == {"batch_requests": 1, "new_vectors": 2}
    assert sizes(by_name["mixture"]) == {"batch_requests": 1, "batch_dialogues": 1}
    resource = receiver.resources[-1]
    assert resource["service.name"] == "mistere-predictor" and resource["mistere.model.digest"] == Path(bundle).name
    assert receiver.headers["path"] == "/v1/traces"


def test_grpc_and_v1_are_traced_too(server: Server, receiver: TraceReceiver) -> None:
    trace, other = new_trace(), new_trace()
    request = pb.ModelInferRequest(model_name="mistere", id="caller-0041-79")
    tensor = request.inputs.add(name="text", shape=[1], datatype="BYTES")
    tensor.contents.bytes_contents.append(SECRET.encode())
    with grpc.insecure_channel(server.grpc_target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        call(request, metadata=list(header(trace).items()), timeout=60)
    answer = httpx.post(
        f"{server.url}/v1/models/mistere:predict",
        json={"instances": [{"utterances": [{"text": SECRET}]}]},
        headers=header(other),
        timeout=60,
    )
    for name, protocol, code in ((trace, "grpc", "OK"), (other, "rest_v1", str(answer.status_code))):
        root, phases = receiver.of(name)
        assert (sizes(root)["protocol"], sizes(root)["code"]) == (protocol, code)
        assert "decode" in {span.name for span in phases}


def test_requests_of_a_batch_have_the_batch_s_spans_each(server: Server, receiver: TraceReceiver) -> None:
    traces = [new_trace() for _ in range(12)]
    with ThreadPoolExecutor(len(traces)) as pool:
        answers = pool.map(lambda trace: ask(server, header(trace), text=f"It is {trace}."), traces)
        assert {answer.status_code for answer in answers} == {200}
    for trace in traces:
        root, phases = receiver.of(trace)
        assert sorted(span.name for span in phases) == sorted(PHASES)
        assert {span.parent_span_id for span in phases} == {root.span_id}


def test_a_refused_request_is_traced_as_its_client_s_fault(server: Server, receiver: TraceReceiver) -> None:
    trace = new_trace()
    url = f"{server.url}/v2/models/mistere/infer"
    assert httpx.post(url, content=SECRET, headers=header(trace), timeout=60).status_code == 400
    root, _ = receiver.of(trace)
    assert sizes(root)["code"] == "400" and root.status.code == 0


@pytest.mark.parametrize(
    "value",
    ["", "00", "x" * 7000, "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01", "é"],
)
def test_a_malformed_header_counts_as_none(server: Server, value: str) -> None:
    assert ask(server, {"traceparent": value.encode("latin-1")}).status_code == 200


def test_the_caller_decides_and_nothing_of_its_content_is_sent(server: Server, receiver: TraceReceiver) -> None:
    unsampled, sampled = new_trace(), new_trace()
    ask(server, header(unsampled, sampled=False))
    ask(server, {"tracestate": "caller=0041-79", "baggage": "name=0041-79", **header(sampled)})
    receiver.of(sampled)
    assert unsampled not in {span.trace_id.hex() for span in receiver.spans}
    everything = b"".join(receiver.bodies)
    assert SECRET.encode() not in everything and b"0041-79" not in everything and b"127.0.0.1" not in everything


def test_audio_is_counted(server: Server, receiver: TraceReceiver) -> None:
    trace = new_trace()
    request = pb.ModelInferRequest(model_name="mistere")
    request.inputs.add(name="audio", shape=[1], datatype="BYTES")
    request.raw_input_contents.append(len(recording := clip(0.9, pitch=523)).to_bytes(4, "little") + recording)
    with grpc.insecure_channel(server.grpc_target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString)
        call(request, metadata=list(header(trace).items()), timeout=60)
    root, _ = receiver.of(trace)
    assert sizes(root)["recordings"] == 1 and sizes(root)["texts"] == 0


def started(tmp_path: Path, *options: str) -> Server:
    gate = tmp_path / "loaded"
    gate.touch()
    server = launch(FAULTY, str(gate), tmp_path / "log", "--drain-seconds", "0", *options)
    wait_for(server, "/v2/health/ready", 200)
    return server


@pytest.mark.long
def test_what_waits_is_sent_at_the_end_and_failures_are_marked(tmp_path: Path) -> None:
    with trace_receiver() as receiver:
        server = started(tmp_path, "--trace-endpoint", receiver.url)
        try:
            assert ask(server, {}).status_code == 200
            assert ask(server, {}, text="crash").status_code == 500
        finally:
            server.terminate()
        roots = [span for span in receiver.spans if span.name == "request"]
        assert [(sizes(span)["code"], span.status.code) for span in roots] == [("200", 0), ("500", 2)]
        assert len({span.trace_id for span in roots}) == 2 and not any(span.parent_span_id for span in roots)


@pytest.mark.long
def test_a_dead_collector_delays_neither_answers_nor_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and never answers
        server = started(tmp_path, "--trace-endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        try:
            began = time.monotonic()
            for _ in range(20):
                assert ask(server, {}).status_code == 200
            assert time.monotonic() - began < 5
            deadline = time.monotonic() + 60
            while not shown(server, "mistere_trace_spans_total"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert ask(server, {}).status_code == 200
        finally:
            began = time.monotonic()
            server.terminate()
        assert time.monotonic() - began < 10
        log = server.log.read_text()
        assert log.count("traces are not sent to http://127.0.0.1") == 1 and "Traceback" not in log


@pytest.mark.long
def test_nothing_is_imported_while_traces_are_off() -> None:
    code = """
import sys
from mistere.predictor import model, model_server
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300).stdout == b"[]\n"


@pytest.mark.parametrize(
    "url",
    [
        "collector:4318",
        "ftp://collector",
        "http://",
        "http://a:99999",
        "http://me:geheim@a",
        "http://a b",
        "http://a?x=1",
    ],
)
def test_a_url_that_is_none_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_arguments(["bundle", "--trace-endpoint", url], {})
    assert "--trace-endpoint" in str(raised.value) and "geheim" not in str(raised.value)


def test_the_path_of_the_protocol_is_added() -> None:
    for url in ("http://collector:4318", "http://collector:4318/", "http://collector:4318/v1/traces"):
        variables = {"MISTERE_PREDICTOR_TRACE_ENDPOINT": url}
        assert resolve({}, variables).trace_endpoint == "http://collector:4318/v1/traces"
