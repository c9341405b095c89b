"""The server's command line, settings and limits, and binding its ports early."""

from __future__ import annotations

import argparse
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from mistere.common.errors import MistereError, UsageError
from mistere.serving.protocol import GRPC_PORT, HTTP_PORT

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits on a request and on all requests together.

    Attributes:
        request_bytes: size of a request's body, bytes.
        utterance_seconds: audio of an utterance after decoding, seconds.
        request_seconds: audio of a request that is not cached, all utterances together, seconds.
        request_tokens: text of a request that is not cached, all utterances together, tokens; four bytes of UTF-8 count as one.
        utterances: utterances of a request.
        waiting_requests: small requests that wait in the queue; further ones are answered with 429.
        waiting_seconds: work that waits in the queue, seconds of audio (25 tokens of text count as one); further long requests
            are answered with 429.
        head_seconds: time for a client to send the whole head of a request, seconds.
        body_seconds: time for a client to send a body, seconds.
        idle_seconds: time between two requests on a connection, seconds.
        connections: connections of REST, and as many of gRPC; fewer if the process may open fewer files.
        audio_store_bytes: encoded audio kept for ``audio_digest``, bytes.
        vector_store_bytes: vectors of utterances kept for the next turn of a conversation, bytes.
        batch_utterances: utterances of a batch; 0 computes every request alone.
        batch_hold_seconds: delay of a batch for requests that are still being read, seconds.
    """

    request_bytes: int = 8 * MIB
    utterance_seconds: float = 30.0
    request_seconds: float = 600.0
    request_tokens: int = 32768
    utterances: int = 128
    waiting_requests: int = 64
    waiting_seconds: float = 1200.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 65.0
    connections: int = 512
    audio_store_bytes: int = 64 * MIB
    vector_store_bytes: int = 64 * MIB
    batch_utterances: int = 256
    batch_hold_seconds: float = 0.01

    def stated(self) -> dict[str, str]:
        """The limits of a request as the model's metadata states them, for example ``limit.utterances``: ``128``."""
        names = ("request_bytes", "utterances", "utterance_seconds", "request_seconds", "request_tokens")
        return {f"limit.{name}": str(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        bundle: folder or ``s3://`` location of a ModelBundle.
        host: address to listen on.
        http_port: port of REST, health and metrics.
        grpc_port: port of gRPC.
        model_name: the model's name in the endpoint's paths.
        limits: limits on requests.
        audio_uri_prefixes: ``s3://bucket/prefix/`` prefixes that ``audio_uri`` may name; if empty, ``audio_uri`` is refused.
        drain_seconds: time between turning not ready and closing the ports after SIGTERM, so that load balancers stop routing here, seconds.
        grace_seconds: time for requests in flight after the ports are closed, seconds.
        int8: run the encoders in 8-bit integers on a CPU: faster, but the probabilities differ from the evaluated ones.
    """

    bundle: str
    host: str = "0.0.0.0"  # noqa: S104  (a pod is reached from outside; `mistere serve` listens on loopback)
    http_port: int = HTTP_PORT
    grpc_port: int = GRPC_PORT
    model_name: str = "mistere"
    limits: Limits = field(default_factory=Limits)
    audio_uri_prefixes: tuple[str, ...] = ()
    drain_seconds: float = 2.0
    grace_seconds: int = 30
    int8: bool = False


def _positive(kind: type[int | float], text: str) -> float:
    value = kind(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _positive_int(text: str) -> int:
    return int(_positive(int, text))


def _positive_float(text: str) -> float:
    return float(_positive(float, text))


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (1 to 65535)")
    return value


def _prefix(text: str) -> str:
    bucket, _, path = text.removeprefix("s3://").partition("/")
    if not text.startswith("s3://") or not bucket or (path and not path.endswith("/")):
        raise argparse.ArgumentTypeError(f"{text} is not of the form s3://bucket/prefix/ (with the trailing slash)")
    return text if "/" in text.removeprefix("s3://") else f"{text}/"


def parse_arguments(arguments: Sequence[str] | None = None) -> ServerSettings:
    """Parse the command line of ``python -m mistere.predictor``."""
    parser = argparse.ArgumentParser(
        prog="python -m mistere.predictor",
        description="Serve a model bundle over REST and gRPC (Open Inference Protocol, and V1 JSON).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    default, limits = ServerSettings(bundle=""), Limits()
    parser.add_argument("bundle", help="folder or s3:// location of a ModelBundle")
    parser.add_argument("--http-port", type=_port, default=default.http_port)
    parser.add_argument("--grpc-port", type=_port, default=default.grpc_port)
    parser.add_argument("--host", default=default.host, help="address to listen on")
    parser.add_argument("--model-name", default=default.model_name, help="the model's name in the endpoint's paths")
    parser.add_argument(
        "--max-request-mib", type=_positive_float, default=limits.request_bytes / MIB, help="body of a request, MiB"
    )
    parser.add_argument(
        "--max-seconds", type=_positive_float, default=limits.utterance_seconds, help="audio of an utterance, seconds"
    )
    parser.add_argument(
        "--max-total-seconds",
        type=_positive_float,
        default=limits.request_seconds,
        help="audio of a request that is not cached, seconds",
    )
    parser.add_argument(
        "--max-total-tokens",
        type=_positive_int,
        default=limits.request_tokens,
        help="text of a request that is not cached, tokens; four bytes of UTF-8 count as one",
    )
    parser.add_argument(
        "--max-utterances", type=_positive_int, default=limits.utterances, help="utterances of a request"
    )
    parser.add_argument(
        "--max-waiting", type=_positive_int, default=limits.waiting_requests, help="queued small requests"
    )
    parser.add_argument(
        "--max-waiting-seconds",
        type=_positive_float,
        default=limits.waiting_seconds,
        help="queued work, seconds of audio; 25 tokens of text count as one",
    )
    parser.add_argument(
        "--max-connections",
        type=_positive_int,
        default=limits.connections,
        help="connections of REST, and as many of gRPC; fewer where the limit on open files is low",
    )
    parser.add_argument(
        "--max-head-seconds", type=_positive_float, default=limits.head_seconds, help="time to send a head, seconds"
    )
    parser.add_argument(
        "--max-idle-seconds",
        type=_positive_float,
        default=limits.idle_seconds,
        help="time between two requests on a connection, seconds",
    )
    parser.add_argument(
        "--max-body-seconds", type=_positive_float, default=limits.body_seconds, help="time to send a body, seconds"
    )
    parser.add_argument(
        "--audio-store-mib", type=float, default=limits.audio_store_bytes / MIB, help="audio kept for audio_digest, MiB"
    )
    parser.add_argument(
        "--vector-store-mib",
        type=float,
        default=limits.vector_store_bytes / MIB,
        help="vectors kept for the next turn of a conversation, MiB",
    )
    parser.add_argument(
        "--batch-utterances",
        type=int,
        default=limits.batch_utterances,
        help="utterances of a batch; 0 disables batching",
    )
    parser.add_argument(
        "--batch-hold-ms", type=float, default=limits.batch_hold_seconds * 1000, help="longest delay of a batch, ms"
    )
    parser.add_argument(
        "--audio-uri-prefix",
        type=_prefix,
        action="append",
        default=[],
        help="s3://bucket/prefix/ that audio_uri may name; repeatable",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=default.drain_seconds,
        help="time between not ready and closing the ports, seconds",
    )
    parser.add_argument(
        "--grace-seconds",
        type=_positive_int,
        default=default.grace_seconds,
        help="time for requests in flight, seconds",
    )
    parser.add_argument("--int8", action="store_true", help="run the encoders in 8-bit integers on a CPU")
    options = parser.parse_args(arguments)
    if options.http_port == options.grpc_port:
        parser.error("--http-port and --grpc-port must differ")
    return ServerSettings(
        bundle=options.bundle,
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        model_name=options.model_name,
        limits=Limits(
            request_bytes=int(options.max_request_mib * MIB),
            utterance_seconds=options.max_seconds,
            request_seconds=options.max_total_seconds,
            utterances=options.max_utterances,
            request_tokens=options.max_total_tokens,
            waiting_requests=options.max_waiting,
            waiting_seconds=options.max_waiting_seconds,
            head_seconds=options.max_head_seconds,
            body_seconds=options.max_body_seconds,
            idle_seconds=options.max_idle_seconds,
            connections=options.max_connections,
            audio_store_bytes=max(0, int(options.audio_store_mib * MIB)),
            vector_store_bytes=max(0, int(options.vector_store_mib * MIB)),
            batch_utterances=max(0, options.batch_utterances),
            batch_hold_seconds=max(0.0, options.batch_hold_ms / 1000),
        ),
        audio_uri_prefixes=tuple(options.audio_uri_prefix),
        drain_seconds=max(0.0, options.drain_seconds),
        grace_seconds=options.grace_seconds,
        int8=options.int8,
    )


def reserve_port(host: str, port: int, option: str) -> socket.socket:
    """Bind a port before any slow work, so that a port in use is reported at once.

    Args:
        host: address to listen on.
        port: the port.
        option: the command line option of the port, for the error message.

    Returns:
        The bound socket, which does not listen yet.

    Raises:
        MistereError: the port is in use, or this user may not bind it.
        UsageError: the address does not belong to this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"--host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for every network."
        ) from error
    reserved = socket.socket(family, kind, protocol)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind(address)
    except OSError as error:
        reserved.close()
        if error.errno == errno.EADDRINUSE:
            raise MistereError(
                f"Port {port} is already in use: stop the process that listens there, or choose another {option}."
            ) from error
        if error.errno == errno.EACCES:
            raise MistereError(f"Port {port} cannot be opened by this user: choose a {option} above 1023.") from error
        raise UsageError(
            f"--host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for every network."
        ) from error
    return reserved
