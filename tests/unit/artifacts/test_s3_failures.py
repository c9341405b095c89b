"""Each failure of S3 is one exception class and one sentence, and is tried again or not, as the table says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, StoreError, UnreachableError
from mistere.artifacts.s3.failures import FAILURES, TIMEOUT_VARIABLE
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from tests.local.servers import free_port
from tests.stand_ins.http_server import Reply, running
from tests.stand_ins.scripted_s3 import PAGE, ScriptedS3, content, crc32, cut, refusal

# The messages are those of AWS: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList. An answer to HEAD has
# no body (https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html), and a PUT is answered with an ETag.
NO_KEY = refusal(404, "NoSuchKey", "The specified key does not exist.")
NO_BUCKET = refusal(404, "NoSuchBucket", "The specified bucket does not exist")
DENIED = refusal(
    403,
    "AccessDenied",
    "User: arn:aws:iam::1:user/ci is not authorized to perform: s3:GetObject because no identity-based policy allows it",
)
SLOW_DOWN = refusal(503, "SlowDown", "Please reduce your request rate.")
INTERNAL = refusal(500, "InternalError", "We encountered an internal error. Please try again.")
MOVED = refusal(
    301,
    "PermanentRedirect",
    "The bucket you are attempting to access must be addressed using the specified endpoint.",
    Endpoint="b.s3.eu-west-1.amazonaws.com",
)
MALFORMED = refusal(
    400,
    "AuthorizationHeaderMalformed",
    "The authorization header is malformed; the region is wrong",
    Region="eu-west-1",
)
PROXY = Reply(403, b"<html><body>Blocked by the proxy.</body></html>", {"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedS3]:
    with running(ScriptedS3()) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def scripted(server: ScriptedS3) -> Iterator[S3Store]:
    """A store at the scripted server, whose client makes one attempt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "deep-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv(TIMEOUT_VARIABLE, "0.3")
        patch.setattr("mistere.artifacts.s3.store._TRANSFER_PAUSES", (0.0,))
        yield S3Store("s3://bucket/prefix", server.url, attempts=1)


@pytest.fixture
def play(server: ScriptedS3, scripted: S3Store) -> Callable[..., S3Store]:
    """Let the server answer with some replies, the last one for ever."""

    def start(*replies: Reply) -> S3Store:
        server.received.clear()
        server.script.clear()
        server.script.extend(replies)
        server.respond, scripted._answered = None, False
        return scripted

    return start


FILE = Path(__file__)
READ: Callable[[S3Store], Any] = lambda store: store.read("a")  # noqa: E731
WRITE: Callable[[S3Store], Any] = lambda store: store.write("a", b"x")  # noqa: E731
UPLOAD: Callable[[S3Store], Any] = lambda store: store.upload(FILE, "a")  # noqa: E731
HEAD: Callable[[S3Store], Any] = lambda store: store.exists("a")  # noqa: E731
LIST: Callable[[S3Store], Any] = lambda store: list(store.keys("a"))  # noqa: E731
DELETE: Callable[[S3Store], Any] = lambda store: store.delete_object("a")  # noqa: E731


@pytest.mark.parametrize(
    ("call", "replies", "failure", "error", "words"),
    [
        (READ, [NO_KEY], "no such object", MissingObjectError, "s3://bucket/prefix/a does not exist."),
        (READ, [NO_BUCKET], "no such bucket", StoreError, "the bucket of s3://bucket/prefix/a does not exist"),
        (HEAD, [Reply(404, b""), NO_BUCKET], "no such bucket", StoreError, "the bucket of"),
        (READ, [DENIED], "access denied", StoreError, "lack s3:GetObject on s3://bucket/prefix/a .*no identity-based policy"),
        (HEAD, [Reply(403, b""), DENIED], "access denied", StoreError, "403 AccessDenied: User: arn"),
        (UPLOAD, [DENIED], "access denied", StoreError, "lack s3:PutObject"),
        (UPLOAD, [SLOW_DOWN], "busy", UnreachableError, "503 SlowDown: Please reduce your request rate"),
        (WRITE, [SLOW_DOWN], "busy", UnreachableError, "overloaded"),
        (READ, [Reply(503, b"<html>Service Unavailable</html>")], "busy", UnreachableError, "503"),
        (READ, [INTERNAL], "internal error", UnreachableError, "500 InternalError: We encountered"),
        (DELETE, [Reply(502, b"Bad Gateway")], "internal error", UnreachableError, "502"),
        (READ, [refusal(307, "TemporaryRedirect", "You are being redirected")], "temporary redirect", UnreachableError, "307"),
        (READ, [MOVED], "other region", StoreError, "301 PermanentRedirect.*eu-west-1.*AWS_DEFAULT_REGION"),
        (UPLOAD, [MOVED], "other region", StoreError, "AWS_DEFAULT_REGION"),
        (HEAD, [Reply(301, b""), Reply(301, b""), MOVED], "other region", StoreError, "301 PermanentRedirect"),
        (LIST, [MALFORMED], "other region", StoreError, "Region eu-west-1"),
        (WRITE, [refusal(400, "EntityTooLarge", "Your proposed upload exceeds")], "refused", StoreError, "400 EntityTooLarge"),
        (WRITE, [refusal(400, "RequestTimeout", "Your socket was not read")], "too slow", UnreachableError, "RequestTimeout"),
        (WRITE, [refusal(400, "BadDigest", "The CRC32 you specified")], "wrong checksum", StoreError, "BadDigest"),
        (WRITE, [refusal(409, "OperationAborted", "A conflicting operation")], "changed meanwhile", ConflictError, "run again"),
        (READ, [refusal(403, "InvalidAccessKeyId", "The key Id")], "unknown key", StoreError, "AWS_ACCESS_KEY_ID"),
        (READ, [refusal(403, "SignatureDoesNotMatch", "The request")], "wrong secret key", StoreError, "refuses the secret key"),
        (READ, [refusal(400, "ExpiredToken", "The token")], "expired credentials", StoreError, "AWS_SESSION_TOKEN"),
        (READ, [refusal(403, "RequestTimeTooSkewed", "The difference")], "wrong clock", StoreError, "clock"),
        (WRITE, [refusal(403, "QuotaExceeded", "")], "store full", StoreError, "raise its quota"),
        (WRITE, [refusal(501, "NotImplemented", "A header")], "not supported", StoreError, "conditional puts"),
        (READ, [cut(b"bytes" * 9)], "transfer broken off", UnreachableError, "broke off"),
        (
            READ,
            [content(b"bytes", **{"x-amz-checksum-crc32": crc32(b"other"), "x-amz-checksum-type": "FULL_OBJECT"})],
            "wrong checksum",
            StoreError,
            "Expected checksum",
        ),
        (READ, [PAGE], "not S3", StoreError, "200 without an ETag.*AWS_ENDPOINT_URL"),
        (WRITE, [PAGE], "not S3", StoreError, "AWS_ENDPOINT_URL"),
        (UPLOAD, [PAGE], "not S3", StoreError, "AWS_ENDPOINT_URL"),
        (HEAD, [PAGE], "not S3", StoreError, "AWS_ENDPOINT_URL"),
        (HEAD, [Reply(404, b""), Reply(404, b"<h1>Not Found</h1>")], "not S3", StoreError, "without an error document"),
        (LIST, [PAGE], "not S3", StoreError, "AWS_ENDPOINT_URL"),
        (LIST, [Reply(200, b"")], "not S3", StoreError, "without a listing"),
        (DELETE, [PAGE], "not S3", StoreError, "AWS_ENDPOINT_URL"),
        (DELETE, [Reply(200, b"")], "not S3", StoreError, "where S3 answers 204"),
        (READ, [PROXY], "not S3", StoreError, "403, without an error document"),
        (READ, [Reply(301, b"", {"Location": "https://elsewhere"})], "not S3", StoreError, "301"),
    ],
)  # fmt: skip
def test_each_answer_is_one_failure(
    call: Callable[[S3Store], Any],
    replies: list[Reply],
    failure: str,
    error: type[StoreError],
    words: str,
    play: Callable[..., S3Store],
) -> None:
    with pytest.raises(StoreError) as raised:
        call(play(*replies))
    message = str(raised.value)
    assert (raised.value.failure, type(raised.value)) == (failure, error), message
    assert re.search(words, message) and "\n" not in message and message.endswith("."), message
    assert "deep-secret" not in message
    assert next(row for row in FAILURES if row.name == failure).error is error


def test_a_download_fails_as_a_read_does(play: Callable[..., S3Store], tmp_path: Path) -> None:
    """The predictor waits for a store that raises UnreachableError, and ends with any other error."""
    for reply, error in ((cut(b"bytes" * 9), UnreachableError), (SLOW_DOWN, UnreachableError), (PAGE, StoreError)):
        with pytest.raises(error):
            play(reply).download("a", tmp_path / "file")
        assert list(tmp_path.iterdir()) == []


def test_a_silent_and_an_absent_server_are_unreachable(
    play: Callable[..., S3Store], server: ScriptedS3, scripted: S3Store
) -> None:
    play()
    server.silent = True
    try:
        for call in (READ, HEAD):
            with pytest.raises(UnreachableError, match=f"in time .ReadTimeoutError.*{TIMEOUT_VARIABLE}"):
                call(scripted)
    finally:
        server.silent = False
    absent = S3Store("s3://bucket/prefix", f"http://me:hush-hush@127.0.0.1:{free_port()}", attempts=1)
    for call in (READ, WRITE, UPLOAD, HEAD, LIST, DELETE):
        with pytest.raises(UnreachableError, match=r"the object store at http://127\.0\.0\.1.*does not answer"):
            call(absent)
    with pytest.raises(StoreError, match="no trusted certificate"):
        S3Store("s3://bucket/prefix", server.url.replace("http", "https"), attempts=1).read("a")


def test_passing_failures_are_tried_again(play: Callable[..., S3Store], server: ScriptedS3) -> None:
    patient = S3Store("s3://bucket/prefix", server.url, attempts=2)
    play(SLOW_DOWN, content(b"bytes"))
    assert patient.read("a") == (b"bytes", '"a"') and len(server.received) == 2
    scripted = play(cut(b"bytes" * 9), content(b"bytes"))
    assert scripted.read("a")[0] == b"bytes" and len(server.received) == 2
    play(DENIED)
    with pytest.raises(StoreError):
        patient.read("a")
    assert len(server.received) == 1


def test_damaged_bytes_are_found_where_the_store_gives_no_checksum(
    play: Callable[..., S3Store], server: ScriptedS3, tmp_path: Path
) -> None:
    """A store without checksums whose ETag is no MD5, as with SSE-KMS, is read back."""
    scripted, stored = play(), dict[str, bytes]()

    def respond(method: str, path: str, body: bytes) -> Reply:
        if method == "PUT":
            stored[path] = body if damaged == "no" else body[:-1] + b"!"
            crc = {"x-amz-checksum-crc32": crc32(stored[path])} if damaged == "with a checksum" else {}
            return Reply(200, b"", {"ETag": '"0123-opaque"', **crc})
        return content(stored[path])

    server.respond = respond
    file = tmp_path / "file"
    file.write_bytes(b"content")
    for damaged in ("no", "with a checksum", "without"):
        for work in (
            lambda: scripted.write("a", b"content"),
            lambda: scripted.write("a", b"content", expected=ABSENT),
            lambda: scripted.upload(file, "a"),
        ):
            if damaged == "no":
                work()
                assert server.received[-1].startswith("GET")
                continue
            with pytest.raises(StoreError, match="are not those that were sent") as raised:
                work()
            assert raised.value.failure == "wrong checksum"


@pytest.fixture
def default_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that answers: a busy machine needs longer than the scripted server's clients wait."""
    monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False)


def test_large_files_are_transferred_in_verified_parts(
    default_timeout: None, s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistere.artifacts.s3.store._ONE_REQUEST_BYTES", 5 << 20)
    monkeypatch.setattr("mistere.artifacts.s3.store._PART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * 26_000)
    reads: list[str] = []
    real = s3_store._call
    monkeypatch.setattr(s3_store, "_call", lambda key, name, **rest: reads.append(name) or real(key, name, **rest))
    s3_store.upload(source, "large")
    assert reads == ["head_object"], "checksum or ETag of the parts proves the content"
    s3_store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_an_invalid_timeout_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "soon")
    with pytest.raises(UsageError, match="MISTERE_S3_TIMEOUT=soon is not a number of seconds"):
        S3Store("s3://bucket/prefix")


def test_the_table_is_documented() -> None:
    page = (PROJECT_ROOT / "docs" / "operations" / "store.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-zA-Z0-9 ]+) \| [^|]+ \| `(\w+)` \| ([^|]+) \|$", page, re.MULTILINE)
    documented = {name: (error, again.startswith("yes")) for name, error, again in rows}
    assert documented == {row.name: (row.error.__name__, row.passing) for row in FAILURES}
