"""The object store in S3, through boto3. Each failure is a row of :mod:`mistere.artifacts.s3.failures`."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from mistere.artifacts.object_store import (
    ABSENT,
    ConflictError,
    MissingObjectError,
    ObjectStore,
    StoreError,
    checked_key,
)
from mistere.artifacts.s3.content import Content
from mistere.artifacts.s3.encryption import encryption_arguments
from mistere.artifacts.s3.failures import (
    CHECKSUM,
    CUT,
    NOT_S3,
    TIMEOUT_VARIABLE,
    client_errors,
    error_code,
    http_status,
    s3_error,
)
from mistere.artifacts.usage import MOVED
from mistere.common.errors import UsageError
from mistere.common.urls import redact_url

AFFECTS_RESULTS = False
"""Objects are addressed by content and verified, so where and how they are stored changes no result."""

T = TypeVar("T")

_BUSY_PAUSES: Final = (0.2, 0.5, 1.0)
"""Seconds before each repetition of a conditional put that collided with another one in progress."""
_TRANSFER_PAUSES: Final = (0.2, 1.0)
"""Seconds before each repetition of a transfer that broke off or arrived damaged; botocore repeats only what has no answer yet."""
_ONE_REQUEST_BYTES: Final = 32 << 20
"""Larger objects are transferred in parts, several at a time."""
_PART_BYTES: Final = 16 << 20
_CONNECT_SECONDS, _READ_SECONDS, _LONGEST = 10.0, 30.0, 3600.0


def s3_client(
    location: str,
    endpoint: str | None = None,
    session: Any = None,
    attempts: int | None = None,
    seconds: float | None = None,
) -> Any:
    """A client of S3. Credentials, region and endpoint come from the environment, as boto3 reads them.

    Args:
        location: URI that is accessed, for the message.
        endpoint: URL of the server; None for that of the environment.
        session: of boto3; None for the default one.
        attempts: of each request; None for ``AWS_MAX_ATTEMPTS``, or boto3's 5.
        seconds: to wait for each answer, at most; None for the environment's limit.

    Raises:
        UsageError: no client can be created.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    seconds = min(seconds or _LONGEST, _timeout())
    retries = {} if attempts is None else {"retries": {"total_max_attempts": attempts}}
    config = Config(connect_timeout=min(_CONNECT_SECONDS, seconds), read_timeout=seconds, **retries)
    try:
        client = (session or boto3).client("s3", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(
            f"{redact_url(location)}: cannot create an S3 client ({redact_url(str(error))}): check AWS_ENDPOINT_URL, AWS_PROFILE and "
            "AWS_DEFAULT_REGION."
        ) from error
    client.meta.events.register_last("before-parameter-build.s3", _end_redirects)
    client.meta.events.register("before-parse.*.*", _reject_page)  # a pattern that comes before botocore's `s3.*`
    return client


def _end_redirects(params: Mapping[str, Any], context: dict[str, Any], model: Any, **_: Any) -> None:
    """Mark a HEAD of the bucket as redirected already.

    botocore finds the region of a redirected request by such a HEAD, whose redirect without region it would follow by another one,
    without end (``S3RegionRedirectorv2.redirect_from_error`` and ``get_bucket_region`` in botocore/utils.py).
    """
    if model.name == "HeadBucket" and "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True


def _reject_page(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Raise an error for a page with status 200.

    botocore takes a 200 whose document is not XML for an answer of S3 that was cut, makes it a 500 and repeats the request
    (``_handle_200_error`` in botocore/handlers.py).
    """
    from botocore.parsers import ResponseParserError

    body = response_dict["body"]
    if response_dict["status_code"] == 200 and isinstance(body, bytes):
        start = body[:100].lstrip().lower()
        if start and (not start.startswith(b"<") or start.startswith((b"<!doctype", b"<html"))):
            raise ResponseParserError("200 with another document")


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or _READ_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(
            f"{TIMEOUT_VARIABLE}={text} is not a number of seconds between 0 and {_LONGEST:g}: correct or unset it."
        )
    return seconds


class S3Store(ObjectStore):
    """A bucket and prefix.

    Args:
        uri: ``s3://bucket/prefix``.
        endpoint: URL of the server; None for that of the environment.
        session: of boto3; None for the default one.
        attempts: of each request; None for ``AWS_MAX_ATTEMPTS``, or boto3's 5.
        encryption: see :func:`mistere.artifacts.s3.encryption.encryption_arguments`.

    Raises:
        UsageError: no client can be created, or the encryption is unknown.
    """

    def __init__(
        self,
        uri: str,
        endpoint: str | None = None,
        session: Any = None,
        attempts: int | None = None,
        encryption: str = "",
    ) -> None:
        self._encryption = encryption_arguments(encryption)
        self.uri = uri.rstrip("/")
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._s3 = s3_client(uri, endpoint, session, attempts)
        self.endpoint = str(self._s3.meta.endpoint_url)
        self._answered = False

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}" if self._prefix else checked_key(key)

    def _failure(self, error: Exception, key: str) -> StoreError:
        return s3_error(error, self.location(key) if key else self.uri, self.endpoint)

    def _not_s3(self, key: str, answer: str) -> StoreError:
        return NOT_S3.at(self.location(key), self.endpoint, answer)

    def _call(self, key: str, operation: str, **arguments: Any) -> Any:
        """Make a request, and check that the answer is that of an S3 server: any web server answers 200."""
        try:
            answer = getattr(self._s3, operation)(Bucket=self._bucket, **arguments)
        except client_errors() as error:
            if operation == "head_object":
                self._explain_head(error, key)
            raise self._failure(error, key) from error
        status = answer["ResponseMetadata"].get("HTTPStatusCode")
        if operation == "delete_object":
            if status != 204:
                raise self._not_s3(key, f"{status} to a DELETE, where S3 answers 204")
        elif operation == "list_objects_v2":
            if "IsTruncated" not in answer:
                raise self._not_s3(key, f"{status} without a listing")
        elif not answer.get("ETag"):
            raise self._not_s3(key, f"{status} without an ETag")
        self._answered = True
        return answer

    def _explain_head(self, error: Exception, key: str) -> None:
        """Raise the reason of a failed HEAD, whose answer has no body, if a listing fails for the same one."""
        status = http_status(error)
        if status not in {301, 400, 403, 404} or (self._answered and status == 404):
            return
        try:
            self._call(key, "list_objects_v2", Prefix=self._key(key), MaxKeys=1)
        except StoreError as listed:
            reason = error_code(listed.__cause__)
            if listed.failure == NOT_S3.name or (http_status(listed.__cause__) == status and reason != str(status)):
                raise

    def _repeated(self, work: Callable[[], T]) -> T:
        """Repeat a transfer that broke off or whose bytes are damaged."""
        for pause in _TRANSFER_PAUSES:
            try:
                return work()
            except StoreError as error:
                if error.failure not in {CUT.name, CHECKSUM.name}:
                    raise
            time.sleep(pause)
        return work()

    def read(self, key: str) -> tuple[bytes, str]:
        def work() -> tuple[bytes, str]:
            answer = self._call(key, "get_object", Key=self._key(key))
            try:
                with closing(answer["Body"]) as body:
                    data = body.read()
                MOVED.add(read=len(data))
                return data, answer["ETag"]
            except client_errors() as error:
                raise self._failure(error, key) from error

        return self._repeated(work)

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        if expected is None:
            return self._repeated(lambda: self._put(key, Content(data)))
        condition = {"IfNoneMatch": "*"} if expected == ABSENT else {}
        if expected != ABSENT:
            condition["IfMatch"] = expected.strip('"')  # Ceph compares with the bare digest; others take both spellings
        for wait in (*_BUSY_PAUSES, None):
            try:
                return self._put(key, Content(data), **condition)
            except MissingObjectError as error:
                raise self._conflict(key) from error
            except ConflictError as error:
                # boto3 repeats a request whose response was lost; the conflicting object is then our own write.
                with suppress(MissingObjectError):
                    current, version = self.read(key)
                    if current == data:
                        return version
                if wait is None or error_code(error.__cause__) != "ConditionalRequestConflict":
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _put(self, key: str, content: Content, **condition: str) -> str:
        """Write by one request; returns the version."""
        arguments = {**self._encryption, **condition}
        if isinstance(content.source, bytes):
            answer = self._call(key, "put_object", Key=self._key(key), Body=content.source, **arguments)
        else:
            with content.source.open("rb") as file:
                answer = self._call(key, "put_object", Key=self._key(key), Body=file, **arguments)
        MOVED.add(written=content.size)
        self._require(key, content, answer)
        return str(answer["ETag"])

    def _require(self, key: str, content: Content, answer: Mapping[str, Any], part_size: int | None = None) -> None:
        """Raise an error unless the object has the content; read it back if the answer does not prove it."""
        proven = content.is_proven(answer, part_size)
        if proven is None:
            digest = hashlib.sha256()
            for chunk in self._chunks(key, self._call(key, "get_object", Key=self._key(key))):
                digest.update(chunk)
            proven = digest.hexdigest() == content.sha256()
        if not proven:
            raise CHECKSUM.at(self.location(key), self.endpoint, "what was read back differs from what was written")

    def _chunks(self, key: str, answer: Mapping[str, Any]) -> Iterator[bytes]:
        try:
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(1 << 20)
        except client_errors() as error:
            raise self._failure(error, key) from error

    def age(self, key: str) -> float:
        answer = self._call(key, "head_object", Key=self._key(key))
        if not answer.get("LastModified"):
            raise self._not_s3(key, "200 without Last-Modified")
        written = answer["LastModified"].timestamp()
        try:
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        except (KeyError, ValueError, TypeError):  # a proxy has removed it
            now = time.time()
        return now - written

    def exists(self, key: str) -> bool:
        try:
            self._call(key, "head_object", Key=self._key(key))
        except MissingObjectError:
            return False
        return True

    def upload(self, path: Path, key: str) -> None:
        content = Content(path)
        large = content.size > _ONE_REQUEST_BYTES
        self._repeated(lambda: self._upload_parts(key, content) if large else self._put(key, content))

    def _upload_parts(self, key: str, content: Content) -> None:
        from s3transfer.utils import ChunksizeAdjuster

        self._transfer(key, "upload_file", str(content.source))
        MOVED.add(written=content.size)
        answer = self._call(key, "head_object", Key=self._key(key), ChecksumMode="ENABLED")
        if int(answer.get("ContentLength", -1)) != content.size:
            raise CHECKSUM.at(
                self.location(key), self.endpoint, f"{answer.get('ContentLength')} bytes of {content.size}"
            )
        self._require(key, content, answer, ChunksizeAdjuster().adjust_chunksize(_PART_BYTES, content.size))

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            self._repeated(lambda: self._download(key, partial))
            MOVED.add(read=partial.stat().st_size)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _download(self, key: str, partial: Path) -> None:
        answer = self._call(key, "get_object", Key=self._key(key))
        size = int(answer.get("ContentLength", 0))
        if size > _ONE_REQUEST_BYTES:
            answer["Body"].close()
            self._transfer(key, "download_file", str(partial))
            if partial.stat().st_size != size:
                raise CUT.at(self.location(key), self.endpoint, f"{partial.stat().st_size} bytes of {size}")
            return
        with partial.open("wb") as file:
            for chunk in self._chunks(key, answer):
                file.write(chunk)

    def _transfer(self, key: str, operation: str, filename: str) -> None:
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_threshold=_ONE_REQUEST_BYTES, multipart_chunksize=_PART_BYTES)
        extra = self._encryption if operation == "upload_file" else None
        try:
            getattr(self._s3, operation)(
                Bucket=self._bucket, Key=self._key(key), Filename=filename, Config=parts, ExtraArgs=extra
            )
        except client_errors() as error:
            raise self._failure(error, key) from error

    def check(self) -> None:
        """List the first object.

        Raises:
            StoreError: the store does not answer, or refuses.
        """
        self._call("", "list_objects_v2", Prefix=self._prefix, MaxKeys=1)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        skip = len(self._prefix) + 1 if self._prefix else 0
        after: dict[str, str] = {}
        while True:
            page = self._call(prefix, "list_objects_v2", Prefix=f"{self._key(prefix)}/", **after)
            for item in page.get("Contents", []):
                yield item["Key"][skip:], item["ETag"]
            if not page.get("NextContinuationToken"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, prefix: str) -> None:
        for key in list(self.keys(prefix)):
            self.delete_object(key)

    def delete_object(self, key: str) -> None:
        self._call(key, "delete_object", Key=self._key(key))
