"""The ``deployment.predictor`` section: the options of the model server, wherever they are set."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from mistere.common.urls import has_credentials
from mistere.config.base import Section
from mistere.config.encoder import Device, Precision

BUNDLE_STORE: Final = "bundle"
"""A value of ``traffic_store``, ``sample_store`` and ``request_log_store``: the store of the served bundle."""
LOCAL_SHADOW: Final = "local"
"""A value of ``shadow``: a process that the predictor starts."""
COPY_MIB: Final = 32
"""Copies of requests that may wait for a shadow, and so the largest copy, MiB."""
MOST_TOKENS: Final = 100_000_000
"""The highest limit of the text of a request, tokens."""
_DAY: Final = 86400
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class NotStated:
    """Marks an option that the model's metadata does not state, because clients need not know it."""


def _prefix(text: str) -> str:
    bucket, _, path = text.removeprefix("s3://").partition("/")
    if not text.startswith("s3://") or not bucket or (path and not path.endswith("/")):
        raise ValueError(f"{text} is not of the form s3://bucket/prefix/ (with the trailing slash)")
    return text if "/" in text.removeprefix("s3://") else f"{text}/"


def _is_plain(url: str) -> bool:
    """Whether a URL has nothing behind its path, not even a lone ``?`` or ``#``, and no space or control character."""
    return url.isascii() and url.isprintable() and not {" ", "?", "#"} & set(url)


def _shadow(text: str) -> str:
    with contextlib.suppress(ValueError):  # of a port that is none
        parts = urlsplit(text)
        plain = parts.hostname and parts.port != 0 and not parts.username and _is_plain(text)
        if not text or text == LOCAL_SHADOW or (parts.scheme in ("http", "https") and plain):
            return text
    raise ValueError(f"{text} is neither {LOCAL_SHADOW} nor of the form http://host:port")


def _collector(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if url and (not is_right or has_credentials(url) or not _is_plain(url)):
        raise ValueError(
            "a URL of the form http://host:4318 or https://host/v1/traces is expected, without credentials"
        )
    return f"{url.rstrip('/')}/v1/traces" if url and not parts.path.strip("/") else url


def _origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without the scheme's own port."""
    origin = text.lower()
    with contextlib.suppress(ValueError):  # of a port that is none
        parts = urlsplit(origin)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
        if parts.scheme in _PORTS and re.fullmatch(r"https?://[^/\\@,]+", origin) and _is_plain(origin) and host:
            return f"{parts.scheme}://{host}{port}"
    raise ValueError(
        f"{text} is not of the form https://host or https://host:port, with a host in ASCII (xn--… for other letters)"
    )


class PredictorConfig(Section):
    """The options of the model server.

    A field here is all that an option needs. Its name gives the argument of ``python -m mistere.predictor`` and ``mistere serve``
    (``--max-utterances``), the environment variable (``MISTERE_PREDICTOR_MAX_UTTERANCES``), the setting of the profile
    (``deployment.predictor.max_utterances``), which the InferenceService passes on, and the property in the metadata
    (``option.max_utterances``). :mod:`mistere.config.predictor_options` derives them. No name may end as the variables that
    Kubernetes sets for services (``..._PORT``, ``..._SERVICE_HOST``).

    Attributes:
        max_request_mib: limit of the body of a request, MiB.
        max_utterances: limit of the utterances of a request.
        max_seconds: limit of the audio of an utterance after decoding, seconds.
        max_total_seconds: limit of the audio of a request that is not cached, seconds.
        max_total_tokens: limit of the text of a request that is not cached, tokens; four bytes of UTF-8 count as one.
        max_waiting: queued small requests; further ones are answered with 429.
        max_waiting_seconds: queued work, seconds of audio; 25 tokens of text count as one; further long requests are answered with 429.
        max_connections: connections of REST, and as many of gRPC; fewer where the limit on open files is low.
        max_head_seconds: time to send the whole head of a request, seconds.
        max_body_seconds: time to send a body, seconds.
        max_idle_seconds: time between two requests on a connection, seconds.
        audio_store_mib: encoded audio kept for ``audio_digest``, MiB.
        vector_store_mib: vectors kept for the next turn of a conversation, MiB.
        batch_utterances: utterances of a batch; 0 computes every request alone.
        batch_hold_ms: longest delay of a batch for requests that are still being read, ms.
        max_streams: open streams of live audio (``/v1/stream``), each of which may hold three times as much audio as a request;
            further ones are closed with code 1013, and 0 serves none.
        stream_silence_ms: silence that ends a turn of a stream, ms.
        stream_origins: origins such as ``https://calls.example.org`` whose web pages may open streams beside pages of the predictor's
            own host; programs that send no ``Origin`` always may.
        audio_uri_prefixes: locations ``s3://bucket/prefix/`` that ``audio_uri`` may name; without any, ``audio_uri`` is refused. The
            predictor's identity must be allowed to read them.
        int8: compute the encoders in 8-bit integers on a CPU: faster, but the probabilities differ from the evaluated ones.
        device: where the encoders are computed; ``auto`` uses a GPU if there is one.
        dtype: precision of the encoders' weights; ``auto`` is half precision on a GPU and float32 on a CPU. Half precision takes half of
            the memory, and the probabilities differ a little from evaluated ones in float32.
        threads: threads of a computation; 0 for the cores that the container may use.
        log_level: least severe messages that are written.
        traffic_store: object store for statistics of the answers, which hold no text, recording or vector: a folder,
            ``s3://bucket/prefix``, or ``bundle`` for the bundle's; empty writes none.
        traffic_seconds: time between two writes of the statistics, which a killed process loses, seconds.
        sample_share: share of the dialogues with consent that are kept for labelling, with texts and recordings; 0 keeps none.
        sample_days: time after which a kept dialogue is deleted, days.
        sample_store: object store for kept dialogues: a folder, ``s3://bucket/prefix``, or ``bundle`` for the bundle's. The predictor's
            identity must be allowed to read, write, list and delete below ``sample/`` there.
        sample_encryption: server-side encryption of kept dialogues in S3: ``AES256``, ``aws:kms``, or ``aws:kms:KEY`` with the id, alias
            or ARN of a key; empty for the bucket's default.
        request_log_share: share of the requests, refused ones included, of which a line is written to the store: times, sizes, code, labels
            and probabilities, and no content of a request; 0 writes none.
        request_log_days: time after which the lines are deleted, days.
        request_log_store: object store for the log of requests: a folder, ``s3://bucket/prefix``, or ``bundle`` for the bundle's. The
            predictor's identity must be allowed to read, write, list and delete below ``requests/`` there.
        shadow: the predictor that receives copies of requests, whose answers are compared: ``http://host:port``, or ``local`` for one that
            this process runs while `mistere shadow start` says so; empty for none.
        shadow_share: share of the requests that are copied.
        shadow_queue: copies that may wait for the shadow; further ones are dropped.
        shadow_seconds: time limit of an answer of the shadow, seconds.
        shadow_days: time after which the comparisons with a shadow are deleted, days.
        shadow_idle: give a shadow that this process runs only the processor time that nothing else on the machine uses.
        copies: be a shadow: count nothing of what is answered as traffic, copy nothing, and take requests of up to 32 MiB with any amount
            of audio and text in all, because a copy holds again what its client sent before.
        trace_endpoint: collector of traces by OTLP over HTTP, ``http://host:4318``; without a path, ``/v1/traces`` is added; empty sends
            none. A trace holds times and counts: no text, recording, vector or id of a client. ``OTEL_EXPORTER_OTLP_HEADERS`` sets headers.
        trace_share: share of the requests that are traced. Where a request has a ``traceparent``, its caller has decided.
        drain_seconds: time between turning not ready and closing the ports after SIGTERM, so that load balancers stop routing here,
            seconds.
        grace_seconds: time for requests in flight after the ports are closed, seconds.
    """

    max_request_mib: float = Field(default=8.0, gt=0, lt=2048)
    max_utterances: int = Field(default=128, gt=0, le=100_000)
    max_seconds: float = Field(default=30.0, gt=0, le=3600)
    max_total_seconds: float = Field(default=600.0, gt=0, le=_DAY)
    max_total_tokens: int = Field(default=32768, gt=0, le=MOST_TOKENS)
    max_waiting: int = Field(default=64, gt=0, le=100_000)
    max_waiting_seconds: float = Field(default=1200.0, gt=0, le=1e9)
    max_connections: int = Field(default=512, gt=0, le=1_000_000)
    max_head_seconds: float = Field(default=10.0, gt=0, le=_DAY)
    max_body_seconds: float = Field(default=30.0, gt=0, le=_DAY)
    max_idle_seconds: float = Field(default=65.0, gt=0, le=_DAY)
    audio_store_mib: float = Field(default=64.0, ge=0, le=1e6)
    vector_store_mib: float = Field(default=64.0, ge=0, le=1e6)
    batch_utterances: int = Field(default=256, ge=0, le=1_000_000)
    batch_hold_ms: float = Field(default=10.0, ge=0, le=60_000)
    max_streams: int = Field(default=8, ge=0, le=100_000)
    stream_silence_ms: float = Field(default=600.0, ge=100, le=10_000)
    stream_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NotStated()] = ()
    audio_uri_prefixes: Annotated[tuple[Annotated[str, AfterValidator(_prefix)], ...], NotStated()] = ()
    int8: bool = False
    device: Device = "auto"
    dtype: Precision = "float32"
    threads: int = Field(default=0, ge=0, le=4096)
    log_level: Annotated[Literal["debug", "info", "warning", "error"], NotStated()] = "info"
    traffic_store: Annotated[str, NotStated()] = ""
    traffic_seconds: Annotated[float, NotStated()] = Field(default=60.0, gt=0, le=_DAY)
    sample_share: float = Field(default=0.0, ge=0, le=1)
    sample_days: int = Field(default=30, gt=0, le=3650)
    sample_store: Annotated[str, NotStated()] = Field(default=BUNDLE_STORE, min_length=1)
    sample_encryption: Annotated[str, NotStated()] = Field(
        default="", pattern=r"^$|^AES256$|^aws:kms(:[A-Za-z0-9:/_-]{1,2048})?$"
    )
    request_log_share: float = Field(default=0.0, ge=0, le=1)
    request_log_days: int = Field(default=30, gt=0, le=3650)
    request_log_store: Annotated[str, NotStated()] = Field(default=BUNDLE_STORE, min_length=1)
    shadow: Annotated[str, AfterValidator(_shadow), NotStated()] = ""
    shadow_share: Annotated[float, NotStated()] = Field(default=0.1, gt=0, le=1)
    shadow_queue: Annotated[int, NotStated()] = Field(default=64, gt=0, le=100_000)
    shadow_seconds: Annotated[float, NotStated()] = Field(default=10.0, gt=0, le=600)
    shadow_days: Annotated[int, NotStated()] = Field(default=90, gt=0, le=3650)
    shadow_idle: Annotated[bool, NotStated()] = True
    copies: Annotated[bool, NotStated()] = False
    trace_endpoint: Annotated[str, AfterValidator(_collector), NotStated()] = ""
    trace_share: Annotated[float, NotStated()] = Field(default=1.0, ge=0, le=1)
    drain_seconds: Annotated[float, NotStated()] = Field(default=2.0, ge=0, le=3600)
    grace_seconds: Annotated[int, NotStated()] = Field(default=30, gt=0, le=3600)

    @model_validator(mode="after")
    def _int8_is_for_a_cpu(self) -> PredictorConfig:
        if self.int8 and self.device == "cuda":
            raise ValueError("int8 is for a CPU: leave it out, or set device to cpu")
        if self.int8 and self.dtype in ("bfloat16", "float16"):
            raise ValueError("int8 quantises weights in float32: leave it out, or set dtype to float32")
        return self

    def for_shadow(self) -> PredictorConfig:
        """The options of a shadow of a predictor with these options."""
        stores = {"traffic_store": "", "sample_store": BUNDLE_STORE, "request_log_store": BUNDLE_STORE}
        changes = {"copies": True, "shadow": "", "sample_share": 0.0, "request_log_share": 0.0, **stores}
        return self.model_copy(update=changes)
