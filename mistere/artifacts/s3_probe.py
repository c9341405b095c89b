"""Finds out why an S3 location cannot be read, with one request. DVC hides the reason in its log."""

from __future__ import annotations

import os

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url

AFFECTS_RESULTS = False
"""Whether a store can be reached changes no result."""

_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN"
_REFUSED = {
    "InvalidAccessKeyId": "does not know this access key",
    "InvalidClientTokenId": "does not know this access key",
    "SignatureDoesNotMatch": "refuses the secret key",
    "ExpiredToken": "says that the credentials have expired",
    "InvalidToken": "refuses the session token",
}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}
DATA_ENDPOINT = "MISTERE_DATA_ENDPOINT"
"""Environment variable: the S3 endpoint of the data's remote, if it differs from that of the store."""


def data_endpoint() -> str | None:
    """The S3 endpoint of the data's remote from the environment; None for AWS."""
    names = (DATA_ENDPOINT, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next((redact_url(value) for name in names if (value := os.environ.get(name))), None)


def use_data_endpoint(endpoint: str) -> None:
    """Set the endpoint of the data's remote for this process and its children, unless it is set already."""
    if endpoint:
        os.environ.setdefault(DATA_ENDPOINT, endpoint)


def check_access(location: str, *, listing: bool) -> None:
    """List the first object of an S3 location.

    Args:
        location: ``s3://bucket/prefix``.
        listing: whether a refused listing is an error; credentials that may only read objects cannot list.

    Raises:
        MistereError: the location cannot be reached, access is refused, or the bucket does not exist.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    endpoint = data_endpoint()
    patience = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 2})
    try:
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, config=patience)
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise MistereError(f"there are no credentials for {location}: {_CREDENTIALS}, or AWS_PROFILE.") from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            raise MistereError(
                f"the bucket of {location} does not exist{_at(endpoint)}: create it, or correct the remote's URL."
            ) from error
        if code in _REFUSED:
            raise MistereError(
                f"the S3 server{_at(endpoint)} {_REFUSED[code]} for {location}: {_CREDENTIALS}."
            ) from error
        if code in _FORBIDDEN:
            if listing:
                raise MistereError(
                    f"the S3 server{_at(endpoint)} does not let these credentials read {location}: allow them s3:ListBucket "
                    f"and s3:GetObject there, or {_CREDENTIALS}."
                ) from error
            return
        raise MistereError(
            f"the S3 server{_at(endpoint)} does not answer for {location} ({code}): try again later."
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise MistereError(
            f"{location} cannot be reached{_at(endpoint)} ({type(error).__name__}): check the network, AWS_ENDPOINT_URL and "
            "the remote's endpointurl."
        ) from error


def _at(endpoint: str | None) -> str:
    return f" at {endpoint}" if endpoint else ""
