"""Audio that a request refers to by an allow-listed S3 location."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from mistere.predictor.errors import audio_unavailable, invalid, over_limit

logger = logging.getLogger("kserve.predictor")

_SECONDS = 5.0
"""To wait for each answer of the object store, at most; a client is waiting."""


class AudioReader:
    """Reads ``audio_uri``: S3 objects under allow-listed prefixes only.

    Args:
        prefixes: ``s3://bucket/prefix/``; if empty, every location is refused.
        max_bytes: size of all objects that a request names, bytes.
    """

    def __init__(self, prefixes: Sequence[str], max_bytes: int) -> None:
        self._prefixes = tuple(prefixes)
        self._max_bytes = max_bytes
        self._client: Any = None

    def check(self, uri: str, utterance: int) -> tuple[str, str]:
        """Check a location; returns bucket and key.

        Raises:
            RequestError: ``audio_uri`` is disabled, or the location is not S3, outside the prefixes, or has segments like ``..``.
        """
        if not self._prefixes:
            raise invalid("audio_uri is not enabled on this server: send the audio itself.")
        allowed = any(uri.startswith(prefix) and len(uri) > len(prefix) for prefix in self._prefixes)
        key = uri.removeprefix("s3://").partition("/")[2]
        parts = key.split("/")
        if not allowed or ".." in parts or "." in parts or "" in parts or not uri.isprintable():
            raise invalid(f"The audio_uri of utterance {utterance} is not under a location this server may read.")
        return urlsplit(uri).netloc, key

    def read(self, uris: dict[int, str]) -> dict[int, bytes]:
        """Read the audio of several utterances.

        Args:
            uris: utterance → location.

        Raises:
            RequestError: a location is not allowed or not readable, or all objects together exceed the limit.
        """
        locations = {utterance: self.check(uri, utterance) for utterance, uri in uris.items()}
        clips: dict[int, bytes] = {}
        left = self._max_bytes
        for utterance, (bucket, key) in locations.items():
            clips[utterance] = self._fetch(bucket, key, utterance, left)
            left -= len(clips[utterance])
        return clips

    def _fetch(self, bucket: str, key: str, utterance: int, limit: int) -> bytes:
        from mistere.artifacts.object_store import UnreachableError
        from mistere.artifacts.s3.failures import client_errors, s3_error

        client = self._s3()
        failures: tuple[type[Exception], ...] = (*client_errors(), OSError)
        try:
            answer = client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                clip: bytes = body.read(limit + 1)
        except failures as error:
            # Percent-encoded, so that a key with spaces cannot forge a field of the log.
            failure = s3_error(error, f"s3://{bucket}/{quote(key[:256])}", client.meta.endpoint_url)
            logger.warning("audio_uri: %s", failure)
            if isinstance(failure, UnreachableError):
                raise audio_unavailable(utterance) from error
            raise invalid(f"The audio_uri of utterance {utterance} could not be read.") from error
        if len(clip) > limit:
            raise over_limit(f"The audio named by audio_uri is larger than {self._max_bytes} bytes together.")
        return clip

    def _s3(self) -> Any:
        if self._client is None:
            from mistere.artifacts.s3.store import s3_client

            self._client = s3_client(self._prefixes[0], attempts=3, seconds=_SECONDS)
        return self._client
