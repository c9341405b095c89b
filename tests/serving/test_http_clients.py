"""Habits of HTTP and gRPC clients: offers of HTTP/2, columns, compressed bodies, versions, HEAD, and bodies that are too large."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import requests
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mistere.predictor.protocol.content_coding import decompress
from mistere.predictor.protocol.document_page import PAGE_PATH
from tests.serving.conftest import Server, clip, cpu_seconds, peak
from tests.serving.test_errors import infer, message, refused, tensor

MIB = 1 << 20
INFER = "/v2/models/mistere/infer"
V1 = "/v1/models/mistere:predict"
DIALOGUE = json.dumps({"inputs": [tensor("text", ["Where have you been?", "At home."])]}).encode()

JAVA = (
    b"%s %s HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n%sHost: localhost\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\nContent-Type: application/json\r\n\r\n"
)
"""What java.net.http.HttpClient of OpenJDK 17.0.15 sent to a listening socket, head and body in two packets.

The three headers of the offer are set by ``HttpRequestImpl.setH2Upgrade`` (openjdk/jdk, src/java.net.http/share/classes/jdk/internal/net/http)
in every request to an ``http:`` address, unless the client was built with ``version(HTTP_1_1)``.
"""


@pytest.fixture(scope="module")
def rest(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


class Connection:
    """A raw connection, and the responses on it."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.http_port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a packet for each part
        self._received = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._received.close()
        self._socket.close()

    def answer(self, *parts: bytes) -> tuple[int, dict[str, Any]]:
        for part in parts:
            self._socket.sendall(part)
        status = int(self._received.readline().split()[1])
        headers = http.client.parse_headers(self._received)
        return status, json.loads(self._received.read(int(headers["Content-Length"])))


def test_the_body_of_a_request_that_offers_http_2_is_read(server: Server) -> None:
    length = JAVA % (b"POST", INFER.encode(), b"Content-Length: %d\r\n" % len(DIALOGUE))
    chunked = JAVA % (b"POST", INFER.encode(), b"Transfer-Encoding: chunked\r\n")
    get = JAVA % (b"GET", b"/v2/health/ready", b"Content-Length: 0\r\n")
    with Connection(server) as connection:
        for parts in (
            (length, DIALOGUE),
            (length + DIALOGUE,),
            (length[:100], length[100:] + DIALOGUE[:9], DIALOGUE[9:]),
            (chunked, b"%x\r\n%s\r\n" % (len(DIALOGUE), DIALOGUE), b"0\r\n\r\n"),
        ):
            status, content = connection.answer(*parts)
            assert status == 200 and content["outputs"][0]["shape"] == [2]
        assert connection.answer(get) == (200, {"ready": True})
        assert connection.answer(get + get) == (200, {"ready": True})  # the second one is pipelined
        assert connection.answer() == (200, {"ready": True})
        status, content = connection.answer(length.replace(b"Upgrade, ", b"Upgrade, close, ") + DIALOGUE)
        assert status == 200 and content["outputs"][0]["shape"] == [2]


PROBE = """
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpResponse.BodyHandlers;

public class Probe {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (byte[] body : new byte[][] {arguments[1].getBytes("UTF-8"), new byte[9 << 20]}) {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0]));
            var publisher = HttpRequest.BodyPublishers.ofByteArray(body);
            for (int repetition = 0; repetition < 2; repetition++) {
                System.out.println(client.send(request.POST(publisher).build(), BodyHandlers.ofString()).statusCode());
            }
        }
    }
}
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: apt-get install openjdk-17-jdk-headless")
def test_javas_client_gets_its_answers(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Probe.java").write_text(PROBE)
    command = ["java", str(tmp_path / "Probe.java"), server.url + INFER, DIALOGUE.decode()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["200", "200", "413", "413"]


def post_by_urllib(url: str, body: bytes) -> tuple[int, bytes]:
    """urllib sends ``Connection: close`` (``AbstractHTTPHandler.do_open`` in CPython's urllib/request.py)."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post_by_http_client(url: str, body: bytes) -> tuple[int, bytes]:
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", f"/{path}", body, {"Connection": "close"})
    response = connection.getresponse()
    return response.status, response.read()


def post_by_requests(url: str, body: bytes) -> tuple[int, bytes]:
    response = requests.post(url, data=body, timeout=60)
    return response.status_code, response.content


def post_in_chunks(url: str, body: bytes) -> tuple[int, bytes]:
    parts: Iterator[bytes] = (body[start : start + 65536] for start in range(0, len(body), 65536))
    response = requests.post(url, data=parts, headers={"Connection": "close"}, timeout=60)
    return response.status_code, response.content


def post_by_httpx(url: str, body: bytes) -> tuple[int, bytes]:
    response = httpx.post(url, content=body, headers={"Connection": "close"}, timeout=60)
    return response.status_code, response.content


def post_by_curl(url: str, body: bytes) -> tuple[int, bytes]:
    command = ["curl", "-s", "-H", "Expect:", "-w", "%{http_code}", "--data-binary", "@-", url]
    output = subprocess.run(command, input=body, capture_output=True, timeout=60, check=True).stdout
    return int(output[-3:]), output[:-3]


POSTS: list[Callable[[str, bytes], tuple[int, bytes]]] = [
    post_by_urllib,
    post_by_http_client,
    post_by_requests,
    post_in_chunks,
    post_by_httpx,
    post_by_curl,
]


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.__name__)
def test_a_client_that_still_sends_reads_why_its_request_is_refused(server: Server, post: Any) -> None:
    body = b"x" * (9 * MIB)
    for path, code, word in ((INFER, 413, "bytes"), ("/v2/models/other/infer", 404, "name")):
        status, content = post(server.url + path, body)
        assert status == code
        assert word in json.loads(content)["error"]


def test_bytes_that_are_not_http_get_one_sentence(server: Server) -> None:
    with Connection(server) as connection:
        status, content = connection.answer(b"\x16\x03\x01" + b"x" * 200_000)
    assert status == 400
    assert content == {"error": "The request is not valid HTTP/1.1."}


def compressed(coding: str, body: bytes) -> bytes:
    window = {"gzip": 31, "x-gzip": 31, "deflate": 15, "DEFLATE": -15}[coding]
    encoder = zlib.compressobj(1, zlib.DEFLATED, window)
    return encoder.compress(body) + encoder.flush()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "DEFLATE"])
def test_compressed_bodies_are_read(rest: httpx.Client, coding: str) -> None:
    plain = rest.post(INFER, content=DIALOGUE).json()["outputs"]
    headers = {"Content-Encoding": coding}
    response = rest.post(INFER, content=compressed(coding, DIALOGUE), headers=headers)
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(response.json()["outputs"][1]["data"], plain[1]["data"], atol=1e-5)
    # tritonclient compresses JSON and tensors together; its header counts the JSON before compression
    raw = b"\x02\x00\x00\x00hi"
    item = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [item]}).encode()
    headers["Inference-Header-Content-Length"] = str(len(head))
    assert rest.post(INFER, content=compressed(coding, head + raw), headers=headers).status_code == 200


WRONG_CODINGS: dict[str, tuple[str, bytes, int, str]] = {
    "brotli": ("br", DIALOGUE, 415, "gzip or deflate"),
    "two codings": ("gzip, gzip", compressed("gzip", compressed("gzip", DIALOGUE)), 415, "gzip or deflate"),
    "not compressed": ("gzip", DIALOGUE, 400, "not valid gzip"),
    "not deflated": ("deflate", DIALOGUE, 400, "not valid deflate"),
    "cut": ("gzip", compressed("gzip", DIALOGUE)[:-9], 400, "whole gzip"),
    "empty": ("gzip", b"", 400, "whole gzip"),
    "bytes after the end": ("deflate", compressed("deflate", DIALOGUE) + b"x", 400, "whole deflate"),
    "two hundred thousand members": ("gzip", gzip.compress(b"") * 200_000, 400, "whole gzip"),
    "a bomb": ("gzip", compressed("gzip", bytes(16 * MIB)), 413, "after decompression"),
    "a byte above the limit": ("deflate", compressed("deflate", b" " * (8 * MIB + 1)), 413, "after decompression"),
    "the limit": ("deflate", compressed("deflate", b" " * (8 * MIB)), 400, "JSON"),
}


def test_wrong_and_hostile_codings_are_refused_in_bounded_memory(server: Server, rest: httpx.Client) -> None:
    before, start = peak(server), cpu_seconds(server)
    for name, (coding, body, code, words) in WRONG_CODINGS.items():
        response = rest.post(INFER, content=body, headers={"Content-Encoding": coding})
        refused(response, code, words)
        assert (response.headers.get("Accept-Encoding") == "gzip, deflate") is (code == 415), name
    assert peak(server) - before < 120 * MIB
    assert cpu_seconds(server) - start < 5
    assert decompress(compressed("gzip", b"x" * 100), "gzip", 100) == b"x" * 100


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read_within_the_limit(server: Server, algorithm: grpc.Compression) -> None:
    with grpc.insecure_channel(server.grpc_target, options=[("grpc.max_send_message_length", -1)]) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert method(message([b"hi"]).SerializeToString(), timeout=60, compression=algorithm)
        with pytest.raises(grpc.RpcError) as refusal:
            method(b"\x0a\x07mistere" + bytes(16 * MIB), timeout=60, compression=algorithm)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_column_is_read_as_a_list(server: Server) -> None:
    """MLServer's ``StringCodec.encode_input`` sends this (mlserver 1.7.1, codecs/string.py); tritonclient sends what it is given."""
    mlserver = {"shape": [2, 1], "datatype": "BYTES", "parameters": {"content_type": "str"}, "data": ["hi", "ho"]}
    expected = infer(server, tensor("text", ["hi", "ho"])).json()["outputs"]
    for data in (["hi", "ho"], [["hi"], ["ho"]]):
        response = infer(server, {**mlserver, "name": "text", "data": data})
        assert response.status_code == 200, response.text
        assert [output["shape"] for output in response.json()["outputs"]] == [o["shape"] for o in expected]
        np.testing.assert_allclose(response.json()["outputs"][1]["data"], expected[1]["data"], atol=1e-5)
    sounds = [base64.b64encode(clip()).decode()] * 2
    assert infer(server, tensor("audio", sounds, [2, 1], content_type="base64")).status_code == 200
    for shape, data in (([1, 2], ["hi", "ho"]), ([2, 1, 1], ["hi", "ho"]), ([2, 1], ["hi"]), ([2, 1], [["hi", "ho"]])):
        refused(infer(server, tensor("text", data, shape)), 400, "shape")
    request = message([b"hi", b"ho"])
    request.inputs[0].shape.append(1)
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    assert list(answer.outputs[0].shape) == [2]


def test_head_is_answered_wherever_get_is(rest: httpx.Client) -> None:
    for path in ("/", "/v2/health/live", "/v2/health/ready", "/v2/models/mistere", "/openapi.json", "/metrics"):
        head, get = rest.head(path), rest.get(path)
        assert head.status_code == get.status_code == 200 and not head.content
        assert head.headers["content-type"] == get.headers["content-type"]
    assert rest.head(INFER).status_code == 405


def test_only_the_served_version_is_answered(server: Server, rest: httpx.Client) -> None:
    model = "/v2/models/mistere"
    metadata = rest.get(model).json()
    (version,) = metadata["versions"]
    assert rest.get(f"{model}/versions/{version}").json() == metadata
    assert rest.get(f"{model}/versions/{version}/ready").json() == {"name": "mistere", "ready": True}
    answer = rest.post(f"{model}/versions/{version}/infer", content=DIALOGUE)
    assert answer.status_code == 200 and answer.json()["model_version"] == version
    for other in ("1", version.upper() + "x", "%2e%2e"):
        refused(rest.get(f"{model}/versions/{other}"), 404, version)
        refused(rest.get(f"{model}/versions/{other}/ready"), 404, version)
        refused(rest.post(f"{model}/versions/{other}/infer", content=DIALOGUE), 404, version)
    refused(rest.get(f"/v2/models/other/versions/{version}"), 404)

    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        requests_by_method = {
            "ModelInfer": lambda version: pb.ModelInferRequest(
                model_name="mistere", model_version=version, inputs=message([b"hi"]).inputs
            ),
            "ModelMetadata": lambda version: pb.ModelMetadataRequest(name="mistere", version=version),
            "ModelReady": lambda version: pb.ModelReadyRequest(name="mistere", version=version),
        }
        for method, request in requests_by_method.items():
            for served in ("", version):
                assert getattr(stub, method)(request(served), timeout=60)
            with pytest.raises(grpc.RpcError) as refusal:
                getattr(stub, method)(request("1"), timeout=60)
            assert refusal.value.code() is grpc.StatusCode.NOT_FOUND and version in refusal.value.details()


def test_base64_may_have_line_breaks(server: Server, rest: httpx.Client) -> None:
    sound = clip(0.6)
    mime = base64.encodebytes(sound).decode()  # 76 characters a line, as the command base64 and Java's MIME encoder
    for encoded in (mime, mime.replace("\n", "\r\n")):
        assert infer(server, tensor("audio", [encoded], content_type="base64")).status_code == 200
        body = {"instances": [{"utterances": [{"audio": encoded}]}]}
        assert rest.post(V1, json=body).status_code == 200


def test_json_may_begin_with_a_byte_order_mark(rest: httpx.Client) -> None:
    mark = b"\xef\xbb\xbf"
    assert rest.post(INFER, content=mark + DIALOGUE).status_code == 200
    v1 = json.dumps({"instances": [{"utterances": [{"text": "hi"}]}]}).encode()
    assert rest.post(V1, content=mark + v1).status_code == 200
    refused(rest.post(V1, content=v1.decode().encode("utf-16")), 400, "UTF-8")


class PageReader(HTMLParser):
    """The text of a page, its elements, and the addresses in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.elements, self.addresses = "", set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_document_is_a_page_that_loads_nothing(rest: httpx.Client) -> None:
    response = rest.get(PAGE_PATH)
    assert response.status_code == 200 and response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page, document = PageReader(response.text), rest.get("/openapi.json").json()
    assert not page.elements & {"script", "link", "img", "iframe"}
    assert {address for address in page.addresses if not address.startswith("#")} == {"openapi.json"}
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert all(f'id="{anchor}"' in response.text for anchor in anchors) and len(anchors) > 5
    for path, item in document["paths"].items():
        assert path in page.text
        for method in set(item) - {"parameters"}:
            assert item[method]["summary"].replace("`", "") in page.text
    assert set(document["components"]["schemas"]) <= set(page.text.split())
    (version,) = rest.get("/v2/models/mistere").json()["versions"]
    assert version in page.text and "Where have you been?" in page.text
