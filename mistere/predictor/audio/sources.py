"""Audio that is named instead of sent: by the digest of a clip seen before, or by an allow-listed S3 location."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from mistere.predictor.errors import invalid, over_limit


class AudioStore:
    """Encoded clips by SHA-256, the least recently used dropped first.

    Args:
        capacity: bytes held at most; 0 holds nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._clips: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, clip: bytes, digest: str) -> None:
        """Remember a clip under its SHA-256 (lower-case hexadecimal); one larger than the whole store is not kept."""
        if not clip or len(clip) > self._capacity:
            return
        with self._lock:
            if digest not in self._clips:
                self._clips[digest] = clip
                self._size += len(clip)
            self._clips.move_to_end(digest)
            while self._size > self._capacity:
                _, dropped = self._clips.popitem(last=False)
                self._size -= len(dropped)

    def get(self, digest: str) -> bytes | None:
        """The clip with that SHA-256 (lower-case hexadecimal), if it is still held."""
        with self._lock:
            clip = self._clips.get(digest)
            if clip is not None:
                self._clips.move_to_end(digest)
            return clip


class AudioReader:
    """Reads ``audio_uri``: S3 objects under allow-listed prefixes, nothing else.

    Args:
        prefixes: ``s3://bucket/prefix/``; none refuses every location.
        max_bytes: of one object, and of all that one request names.
    """

    def __init__(self, prefixes: Sequence[str], max_bytes: int) -> None:
        self._prefixes = tuple(prefixes)
        self._max_bytes = max_bytes
        self._client: Any = None

    def check(self, uri: str, utterance: int) -> tuple[str, str]:
        """Bucket and key of an allowed location.

        Raises:
            RequestError: switched off, not S3, outside the prefixes, or with steps like ``..`` in it.
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
        """Fetch the audio of several utterances.

        Args:
            uris: utterance → location.

        Raises:
            RequestError: not allowed, not readable, or together above the limit of a request.
        """
        places = {utterance: self.check(uri, utterance) for utterance, uri in uris.items()}
        clips: dict[int, bytes] = {}
        left = self._max_bytes
        for utterance, (bucket, key) in places.items():
            clips[utterance] = self._fetch(bucket, key, utterance, left)
            left -= len(clips[utterance])
        return clips

    def _fetch(self, bucket: str, key: str, utterance: int, limit: int) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._s3().get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                clip: bytes = body.read(limit + 1)
        except (BotoCoreError, ClientError, OSError) as error:
            raise invalid(f"The audio_uri of utterance {utterance} could not be read.") from error
        if len(clip) > limit:
            raise over_limit(f"The audio named by audio_uri is larger than {self._max_bytes} bytes together.")
        return clip

    def _s3(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            self._client = boto3.client(
                "s3", config=Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 2})
            )
        return self._client
