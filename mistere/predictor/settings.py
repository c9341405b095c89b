"""The server's command line, settings and limits, and binding its ports early."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mistere.common.errors import MistereError, UsageError
from mistere.serving import protocol

MIB = 1 << 20
BUNDLE_STORE = "bundle"


@dataclass(frozen=True)
class LimitOption:
    """The argument that sets a limit.

    Attributes:
        name: of the argument.
        help: what it limits, in the argument's unit.
        factor: the argument's unit in that of the field: MIB for bytes that are given in MiB.
        may_be_zero: whether 0 is a value, too.
        in_metadata: whether clients read the limit in the model's metadata.
    """

    name: str
    help: str
    factor: float = 1
    may_be_zero: bool = False
    in_metadata: bool = False

    def shown(self, value: float) -> str:
        """A value of the field in the argument's unit."""
        return f"{value / self.factor:g}"


def _limit(default: float, name: str, description: str, **further: Any) -> Any:
    return field(default=default, metadata={"option": LimitOption(name, description, **further)})


@dataclass(frozen=True)
class Limits:
    """Limits on a request and on all requests together. Each field states its argument, whose help says what it limits.

    Fields that end with ``_bytes`` are in bytes, those with ``_seconds`` in seconds.
    """

    request_bytes: int = _limit(
        protocol.MAX_BYTES, "--max-request-mib", "body of a request, MiB", factor=MIB, in_metadata=True
    )
    utterances: int = _limit(protocol.MAX_UTTERANCES, "--max-utterances", "utterances of a request", in_metadata=True)
    utterance_seconds: float = _limit(
        protocol.MAX_UTTERANCE_SECONDS,
        "--max-seconds",
        "audio of an utterance after decoding, seconds",
        in_metadata=True,
    )
    request_seconds: float = _limit(
        protocol.MAX_SECONDS, "--max-total-seconds", "audio of a request that is not cached, seconds", in_metadata=True
    )
    request_tokens: int = _limit(
        protocol.MAX_TOKENS,
        "--max-total-tokens",
        "text of a request that is not cached, tokens; four bytes of UTF-8 count as one",
        in_metadata=True,
    )
    waiting_requests: int = _limit(64, "--max-waiting", "queued small requests; further ones are answered with 429")
    waiting_seconds: float = _limit(
        1200.0,
        "--max-waiting-seconds",
        "queued work, seconds of audio; 25 tokens of text count as one; further long requests are answered with 429",
    )
    connections: int = _limit(
        512,
        "--max-connections",
        "connections of REST, and as many of gRPC; fewer where the limit on open files is low",
    )
    head_seconds: float = _limit(10.0, "--max-head-seconds", "time to send the whole head of a request, seconds")
    body_seconds: float = _limit(30.0, "--max-body-seconds", "time to send a body, seconds")
    idle_seconds: float = _limit(65.0, "--max-idle-seconds", "time between two requests on a connection, seconds")
    audio_store_bytes: int = _limit(
        64 * MIB, "--audio-store-mib", "encoded audio kept for audio_digest, MiB", factor=MIB, may_be_zero=True
    )
    vector_store_bytes: int = _limit(
        64 * MIB,
        "--vector-store-mib",
        "vectors kept for the next turn of a conversation, MiB",
        factor=MIB,
        may_be_zero=True,
    )
    batch_utterances: int = _limit(
        256, "--batch-utterances", "utterances of a batch; 0 computes every request alone", may_be_zero=True
    )
    batch_hold_seconds: float = _limit(
        0.01,
        "--batch-hold-ms",
        "longest delay of a batch for requests that are still being read, ms",
        factor=0.001,
        may_be_zero=True,
    )

    @classmethod
    def options(cls) -> dict[str, LimitOption]:
        """Field → its argument."""
        return {each.name: each.metadata["option"] for each in fields(cls)}

    def stated(self) -> dict[str, str]:
        """The limits of a request as the model's metadata states them, for example ``limit.utterances``: ``128``."""
        named = self.options().items()
        return {f"limit.{name}": str(getattr(self, name)) for name, option in named if option.in_metadata}


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
        traffic_store: object store for statistics of the answers, a folder or ``s3://``, or :data:`BUNDLE_STORE` for the bundle's; empty
            writes none.
        traffic_seconds: time between two writes of the statistics, which a killed process loses, seconds.
        int8: run the encoders in 8-bit integers on a CPU: faster, but the probabilities differ from the evaluated ones.
        http_option: the option that sets ``http_port`` in the command that serves, for messages.
    """

    bundle: str
    host: str = "0.0.0.0"  # noqa: S104  (a pod is reached from outside; `mistere serve` listens on loopback)
    http_port: int = protocol.HTTP_PORT
    grpc_port: int = protocol.GRPC_PORT
    model_name: str = "mistere"
    limits: Limits = field(default_factory=Limits)
    audio_uri_prefixes: tuple[str, ...] = ()
    drain_seconds: float = 2.0
    grace_seconds: int = 30
    traffic_store: str = ""
    traffic_seconds: float = 60.0
    int8: bool = False
    http_option: str = "--http-port"


def _number(kind: type[int | float], factor: float = 1, may_be_zero: bool = False) -> Callable[[str], float]:
    """A parser of an argument that is a finite number above 0, or 0.

    Args:
        kind: type of the result; a whole number is required for an int whose unit is the argument's.
        factor: multiplies the argument.
        may_be_zero: whether 0 is allowed.
    """
    whole = kind is int and factor == 1

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError, OverflowError):  # no number, NaN, or infinity as an int
            value = kind((int(text) if whole else float(text)) * factor)
            if math.isfinite(value) and (value > 0 or (may_be_zero and value == 0)):
                return value
        form = "a whole number" if whole else "a number"
        raise argparse.ArgumentTypeError(f"{text} is not {form} {'of at least' if may_be_zero else 'above'} 0")

    return parse


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
    default = ServerSettings(bundle="")
    parser.add_argument("bundle", help="folder or s3:// location of a ModelBundle")
    parser.add_argument("--http-port", type=_port, default=default.http_port)
    parser.add_argument("--grpc-port", type=_port, default=default.grpc_port)
    parser.add_argument("--host", default=default.host, help="address to listen on")
    parser.add_argument("--model-name", default=default.model_name, help="the model's name in the endpoint's paths")
    for name, option in Limits.options().items():
        initial = getattr(default.limits, name)
        parser.add_argument(
            option.name,
            dest=name,
            metavar="N",
            type=_number(type(initial), option.factor, option.may_be_zero),
            default=option.shown(initial),  # a text: argparse shows it in the help, and parses it as a given one
            help=option.help,
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
        type=_number(float, may_be_zero=True),
        default=default.drain_seconds,
        help="time between not ready and closing the ports, seconds",
    )
    parser.add_argument(
        "--grace-seconds",
        type=_number(int),
        default=default.grace_seconds,
        help="time for requests in flight, seconds",
    )
    parser.add_argument(
        "--traffic-store",
        metavar="STORE",
        default=default.traffic_store,
        help="object store for statistics of the answers, which hold no text, recording or vector: a folder, s3://bucket/prefix, or "
        f"{BUNDLE_STORE} for the bundle's; empty writes none",
    )
    parser.add_argument(
        "--traffic-seconds",
        metavar="N",
        type=_number(float),
        default=default.traffic_seconds,
        help="time between two writes of the statistics, seconds",
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
        limits=Limits(**{name: getattr(options, name) for name in Limits.options()}),
        audio_uri_prefixes=tuple(options.audio_uri_prefix),
        drain_seconds=options.drain_seconds,
        grace_seconds=options.grace_seconds,
        traffic_store=options.traffic_store,
        traffic_seconds=options.traffic_seconds,
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
