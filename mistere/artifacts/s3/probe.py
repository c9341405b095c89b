"""The S3 location of a DVC remote, and why it cannot be read: DVC hides the reason in its log."""

from __future__ import annotations

import os

from mistere.artifacts.object_store import StoreError
from mistere.artifacts.s3.failures import DENIED
from mistere.artifacts.s3.store import S3Store
from mistere.common.urls import redact_url

AFFECTS_RESULTS = False
"""Whether a store can be reached changes no result."""

_ATTEMPTS = 2
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


def data_store(location: str) -> S3Store:
    """The S3 location of a remote, at the endpoint of the data; credentials are read anew.

    Raises:
        UsageError: no client can be created.
    """
    import boto3

    return S3Store(location, data_endpoint(), boto3.session.Session(), attempts=_ATTEMPTS)


def check_access(location: str, *, listing: bool) -> None:
    """List the first object of an S3 location.

    Args:
        location: ``s3://bucket/prefix``.
        listing: whether a refused listing is an error; credentials that may only read objects cannot list.

    Raises:
        StoreError: the location cannot be reached, access is refused, or the bucket does not exist.
    """
    try:
        data_store(location).check()
    except StoreError as error:
        if listing or error.failure != DENIED.name:
            raise
