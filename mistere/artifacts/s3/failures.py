"""The failures of S3: each is one row, with one exception class and one sentence. ``docs/operations/store.md`` has the table.

A row whose class is :class:`~mistere.artifacts.object_store.UnreachableError` may pass: the S3 client has tried again, and callers
with time (the predictor's start, a run's follower) go on trying. Any other failure needs the user.

The codes and statuses are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mistere.artifacts.object_store import ConflictError, MissingObjectError, StoreError, UnreachableError
from mistere.common.secrets.redaction import redact
from mistere.common.urls import redact_url

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""

TIMEOUT_VARIABLE: Final = "MISTERE_S3_TIMEOUT"
"""Environment variable: seconds to wait for each answer of an S3 server."""

_KEYS: Final = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary keys, AWS_SESSION_TOKEN"
_RIGHTS: Final = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
}


@dataclass(frozen=True)
class S3Failure:
    """A row of the table.

    Attributes:
        name: of the failure.
        error: the exception's class.
        sentence: the message; ``location`` is the object, ``at`` the server, ``answer`` what the server said, ``right`` the permission.
        codes: S3's error codes.
        statuses: HTTP statuses, for an answer with another code.
    """

    name: str
    error: type[StoreError]
    sentence: str
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()

    @property
    def passing(self) -> bool:
        """Whether a later attempt may succeed."""
        return issubclass(self.error, UnreachableError)

    def at(self, location: str, endpoint: str, answer: str, right: str = "s3:PutObject") -> StoreError:
        """The exception for an object.

        Args:
            location: URI of the object.
            endpoint: URL of the server; empty if unknown.
            answer: what the server said.
            right: the permission that the request needs.
        """
        server = f" at {redact_url(endpoint)}" if endpoint else ""
        return self.error(
            self.sentence.format(location=redact_url(location), at=server, answer=answer, right=right), self.name
        )


def _row(name: str, error: type[StoreError], sentence: str, codes: str = "", *statuses: int) -> S3Failure:
    return S3Failure(name, error, sentence, frozenset(codes.split()), frozenset(statuses))


CUT = _row(
    "transfer broken off",
    UnreachableError,
    "the transfer of {location}{at} broke off ({answer}): check the network and the store, and try again.",
    "IncompleteBody",
)
CHECKSUM = _row(
    "wrong checksum",
    StoreError,
    "the bytes of {location}{at} are not those that were sent ({answer}): check the store's disks and the network, and write the "
    "object again.",
    "BadDigest XAmzContentChecksumMismatch XAmzContentSHA256Mismatch InvalidDigest",
)
UNREACHABLE = _row(
    "unreachable",
    UnreachableError,
    "the object store{at} does not answer for {location} ({answer}): check AWS_ENDPOINT_URL and the network, and that the store is "
    "running.",
)
SLOW = _row(
    "too slow",
    UnreachableError,
    "the object store{at} does not answer for {location} in time ({answer}): check that it is not overloaded, or raise "
    f"{TIMEOUT_VARIABLE}.",
    "RequestTimeout",
    408,
)
CERTIFICATE = _row(
    "certificate not trusted",
    StoreError,
    "the object store{at} has no trusted certificate: set AWS_CA_BUNDLE to the file of its authority, or correct AWS_ENDPOINT_URL.",
)
NO_CREDENTIALS = _row(
    "no credentials",
    StoreError,
    "there are no credentials for {location} ({answer}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
)
MISSING = _row("no such object", MissingObjectError, "{location} does not exist.", "NoSuchKey")
NOT_S3 = _row(
    "not S3",
    StoreError,
    "the server{at} does not answer for {location} as S3 does ({answer}): correct AWS_ENDPOINT_URL.",
)
DENIED = _row(
    "access denied",
    StoreError,
    "these credentials lack {right} on {location}{at} ({answer}): grant it to them, or use others (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY).",
    "AccessDenied AllAccessDisabled AccountProblem",
    401,
    403,
)
REFUSED = _row(
    "refused",
    StoreError,
    "the object store{at} refused the request for {location} ({answer}): check the location, AWS_ENDPOINT_URL and the region.",
    "",
    400,
    405,
    411,
    413,
    416,
)
NAME = _row("invalid name", StoreError, "{location} is not a location in S3 ({answer}): correct the bucket's name.")

FAILURES: Final = (
    UNREACHABLE,
    SLOW,
    CUT,
    _row(
        "busy",
        UnreachableError,
        "the object store{at} is overloaded and postponed the request for {location} ({answer}): try again later.",
        "SlowDown ServiceUnavailable Throttling ThrottlingException RequestLimitExceeded BandwidthLimitExceeded",
        429,
        503,
        509,
    ),
    _row(
        "internal error",
        UnreachableError,
        "the object store{at} failed on the request for {location} ({answer}): see its log, and try again later.",
        "InternalError",
        500,
        502,
        504,
    ),
    _row(
        "temporary redirect",
        UnreachableError,
        "the object store{at} is still moving the bucket of {location} ({answer}): try again in some minutes.",
        "TemporaryRedirect",
        307,
    ),
    CHECKSUM,
    MISSING,
    _row(
        "no such bucket",
        StoreError,
        "the bucket of {location} does not exist{at} ({answer}): create it, or correct its name.",
        "NoSuchBucket",
    ),
    _row(
        "changed meanwhile",
        ConflictError,
        "{location} was changed by another process meanwhile; run again.",
        "PreconditionFailed ConditionalRequestConflict OperationAborted",
        409,
        412,
    ),
    _row(
        "other region",
        StoreError,
        "the bucket of {location} is not in the region of the server{at} ({answer}): set AWS_DEFAULT_REGION to the "
        "bucket's region, and AWS_ENDPOINT_URL, if it is set, to that region's address.",
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException",
        301,
    ),
    NO_CREDENTIALS,
    _row(
        "unknown key",
        StoreError,
        f"the object store{{at}} does not know this access key for {{location}} ({{answer}}): {_KEYS}.",
        "InvalidAccessKeyId InvalidClientTokenId",
    ),
    _row(
        "wrong secret key",
        StoreError,
        f"the object store{{at}} refuses the secret key for {{location}} ({{answer}}): {_KEYS}.",
        "SignatureDoesNotMatch",
    ),
    _row(
        "expired credentials",
        StoreError,
        "the credentials for {location}{at} are not valid or have expired: get new ones, with AWS_SESSION_TOKEN ({answer}).",
        "ExpiredToken InvalidToken",
    ),
    _row(
        "wrong clock",
        StoreError,
        "the object store{at} refuses this machine's clock: set it from the network, `timedatectl set-ntp true` ({answer}).",
        "RequestTimeTooSkewed RequestExpired",
    ),
    DENIED,
    _row(
        "store full",
        StoreError,
        "the object store{at} has no room for {location} ({answer}): free some space, or raise its quota.",
        "QuotaExceeded XMinioStorageFull StorageFull InsufficientCapacity",
        507,
    ),
    _row(
        "not supported",
        StoreError,
        "the object store{at} does not support the request for {location} ({answer}): use a store with conditional puts and multipart "
        "uploads.",
        "NotImplemented MethodNotAllowed",
        501,
    ),
    REFUSED,
    NAME,
    CERTIFICATE,
    NOT_S3,
)
"""The table. An error code comes first, else the status decides."""

_BY_CODE: Final = {code: row for row in FAILURES for code in row.codes}
_BY_STATUS: Final = {status: row for row in FAILURES for status in row.statuses}


def s3_error(error: Exception, location: str, endpoint: str) -> StoreError:
    """The exception for a failure of the S3 client.

    Args:
        error: what botocore, boto3 or s3transfer raised.
        location: URI of the object or prefix.
        endpoint: URL of the server.
    """
    from botocore.exceptions import ClientError

    error = _innermost(error)
    if isinstance(error, ClientError):
        row, answer = _refusal(error)
        right = _RIGHTS.get(error.operation_name, "s3:PutObject")
        return row.at(location, endpoint, answer, right)
    row = _of_class(error)
    answer = _one_line(str(error)) if row in {NOT_S3, NAME, CHECKSUM} else type(error).__name__
    return row.at(location, endpoint, answer)


def client_errors() -> tuple[type[Exception], ...]:
    """Every exception class that an S3 client raises for a failure."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

    return BotoCoreError, ClientError, Boto3Error, ResponseParserError, S3DownloadFailedError, S3ValidationError


def error_code(error: BaseException | None) -> str:
    """S3's error code of an exception; a status for an answer without body; empty if there was no answer."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def http_status(error: BaseException | None) -> int:
    """The HTTP status of an exception; 0 if there was no answer."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _innermost(error: Exception) -> Exception:
    """The client's own error behind one of boto3's or s3transfer's, which repeat it as text only."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError
    from s3transfer.exceptions import RetriesExceededError as TransferRetriesExceededError

    if isinstance(error, RetriesExceededError | TransferRetriesExceededError):
        last = error.last_exception
        return last if isinstance(last, Exception) else error
    if isinstance(error, S3UploadFailedError):
        return next((cause for cause in _causes(error) if isinstance(cause, client_errors())), error)
    return error


def _causes(error: BaseException) -> Iterator[Exception]:
    cause = error.__cause__ or error.__context__
    while isinstance(cause, Exception):
        yield cause
        cause = cause.__cause__ or cause.__context__


def _refusal(error: Any) -> tuple[S3Failure, str]:
    """The row of an answer, and the answer: status, code, and the server's sentence."""
    code, status = error_code(error), http_status(error)
    details = error.response.get("Error", {})
    bare = not code or code == str(status)
    answer = f"{status} {'' if bare else f'{code}: '}{_one_line(str(details.get('Message') or ''))}".rstrip(": ")
    for name in ("Region", "Endpoint"):
        if details.get(name):
            answer += f"; {name} {_one_line(str(details[name]))}"
    if code in _BY_CODE:
        return _BY_CODE[code], answer
    if bare and error.operation_name.startswith("Head"):  # its answers have no body
        return (MISSING if status == 404 else _BY_STATUS.get(status, REFUSED)), answer
    if bare and status not in {408, 409, 412, 429} and status < 500:
        return NOT_S3, f"{answer}, without an error document"  # S3 gives one to every other request
    return _BY_STATUS.get(status, REFUSED), answer


def _of_class(error: Exception) -> S3Failure:
    """The row of a failure without an answer."""
    from botocore import exceptions as raised
    from botocore.parsers import ResponseParserError
    from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

    rows: tuple[tuple[S3Failure, tuple[type[Exception], ...]], ...] = (
        (CERTIFICATE, (raised.SSLError,)),
        (SLOW, (raised.ReadTimeoutError, TimeoutError)),
        (CUT, (raised.IncompleteReadError, raised.ResponseStreamingError, S3DownloadFailedError)),
        (CHECKSUM, (raised.FlexibleChecksumError, raised.ChecksumError, S3ValidationError)),
        (NOT_S3, (ResponseParserError,)),
        (NAME, (raised.ParamValidationError, raised.UnknownEndpointError, raised.EndpointResolutionError)),
        (
            NO_CREDENTIALS,
            (
                raised.NoCredentialsError,
                raised.PartialCredentialsError,
                raised.CredentialRetrievalError,
                raised.TokenRetrievalError,
                raised.NoAuthTokenError,
            ),
        ),
        (UNREACHABLE, (raised.HTTPClientError, raised.ConnectionError, OSError)),
    )
    return next((row for row, classes in rows if isinstance(error, classes)), REFUSED)


def _one_line(text: str) -> str:
    """A server's text as part of a message: printable, on one line, bounded, without credentials."""
    return redact(re.sub(r"[^\x20-\x7e\xa0-\uffff]+", " ", text)).strip().rstrip(".")[:300]
