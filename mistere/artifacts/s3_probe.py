"""Why an S3 place cannot be read: one request that tells what DVC, which hides it in its log, does not."""

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
"""Environment variable: the S3 endpoint of the data's remote, where it is not that of everything else."""


def data_endpoint() -> str | None:
    """The S3 endpoint of the data's remote, as the environment says; None for AWS itself."""
    names = (DATA_ENDPOINT, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next((redact_url(value) for name in names if (value := os.environ.get(name))), None)


def use_data_endpoint(endpoint: str) -> None:
    """Let this process and its children reach the data's remote at its own endpoint, unless one was named already."""
    if endpoint:
        os.environ.setdefault(DATA_ENDPOINT, endpoint)


def check_access(place: str, *, listing: bool) -> None:
    """Ask for the first object of an S3 place.

    Args:
        place: ``s3://bucket/prefix``.
        listing: whether being refused the listing counts; who may only read objects is refused it.

    Raises:
        MistereError: it cannot be reached, is refused, or is not there.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    endpoint = data_endpoint()
    patience = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 2})
    try:
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, config=patience)
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise MistereError(f"there are no credentials for {place}: {_CREDENTIALS}, or AWS_PROFILE.") from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            raise MistereError(
                f"the bucket of {place} does not exist{_at(endpoint)}: make it, or correct the remote's URL."
            ) from error
        if code in _REFUSED:
            raise MistereError(f"the S3 server{_at(endpoint)} {_REFUSED[code]} for {place}: {_CREDENTIALS}.") from error
        if code in _FORBIDDEN:
            if listing:
                raise MistereError(
                    f"the S3 server{_at(endpoint)} does not let these credentials read {place}: allow them s3:ListBucket "
                    f"and s3:GetObject there, or {_CREDENTIALS}."
                ) from error
            return
        raise MistereError(
            f"the S3 server{_at(endpoint)} does not answer for {place} ({code}): try again later."
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise MistereError(
            f"{place} cannot be reached{_at(endpoint)} ({type(error).__name__}): check the network, AWS_ENDPOINT_URL and "
            "the remote's endpointurl."
        ) from error


def _at(endpoint: str | None) -> str:
    return f" at {endpoint}" if endpoint else ""
