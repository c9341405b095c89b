"""The server's settings and command line, its limits in the units it computes in, and binding its ports early."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final, NoReturn

from mistere.common.errors import MistereError, UsageError
from mistere.config.predictor import COPY_MIB, MOST_TOKENS, PredictorConfig
from mistere.config.predictor_options import options, resolve, stated
from mistere.serving import protocol

MIB: Final = 1 << 20
_DEFAULTS: Final = PredictorConfig()


def _limit(option: str, factor: float = 1, in_metadata: bool = False) -> Any:
    """A limit that an option sets.

    Args:
        option: the field of :class:`PredictorConfig`.
        factor: the option's unit in that of the limit.
        in_metadata: whether clients read it in the model's metadata as a limit of a request.
    """
    metadata = {"option": option, "factor": factor, "in_metadata": in_metadata}
    return field(default=_converted(_DEFAULTS, metadata), metadata=metadata)


def _converted(config: PredictorConfig, metadata: Mapping[str, Any]) -> float:
    value: float = getattr(config, metadata["option"])
    factor = metadata["factor"]
    return value if factor == 1 else int(value * factor) if factor > 1 else value * factor


@dataclass(frozen=True)
class Limits:
    """Limits on a request and on all requests together, in bytes (``_bytes``), seconds (``_seconds``) and numbers.

    They are options of :class:`PredictorConfig`, which says what each limits, in the units that the server computes in.
    """

    request_bytes: int = _limit("max_request_mib", MIB, in_metadata=True)
    utterances: int = _limit("max_utterances", in_metadata=True)
    utterance_seconds: float = _limit("max_seconds", in_metadata=True)
    request_seconds: float = _limit("max_total_seconds", in_metadata=True)
    request_tokens: int = _limit("max_total_tokens", in_metadata=True)
    waiting_requests: int = _limit("max_waiting")
    waiting_seconds: float = _limit("max_waiting_seconds")
    connections: int = _limit("max_connections")
    head_seconds: float = _limit("max_head_seconds")
    body_seconds: float = _limit("max_body_seconds")
    idle_seconds: float = _limit("max_idle_seconds")
    audio_store_bytes: int = _limit("audio_store_mib", MIB)
    vector_store_bytes: int = _limit("vector_store_mib", MIB)
    batch_utterances: int = _limit("batch_utterances")
    batch_hold_seconds: float = _limit("batch_hold_ms", 0.001)
    streams: int = _limit("max_streams")
    stream_silence_seconds: float = _limit("stream_silence_ms", 0.001)

    @classmethod
    def of(cls, config: PredictorConfig) -> Limits:
        """The limits that options set; those of a shadow admit whatever the predictor in front copies."""
        limits = cls(**{each.name: _converted(config, each.metadata) for each in fields(cls)})  # type: ignore[arg-type]
        return limits._for_copies() if config.copies else limits

    def _for_copies(self) -> Limits:
        """Raise the limits of a whole request: a copy also holds what the predictor in front had in its cache."""
        return replace(
            self,
            request_bytes=max(self.request_bytes, COPY_MIB * MIB),
            request_seconds=max(self.request_seconds, self.utterances * self.utterance_seconds),
            request_tokens=MOST_TOKENS,
        )

    def stated(self) -> dict[str, str]:
        """The limits of a request as the model's metadata states them, for example ``limit.utterances``: ``128``."""
        return {
            f"limit.{each.name}": str(getattr(self, each.name)) for each in fields(self) if each.metadata["in_metadata"]
        }


@dataclass(frozen=True)
class ServerSettings:
    """What a server serves, where it listens, and its options.

    Attributes:
        bundle: folder or ``s3://`` location of a ModelBundle.
        host: address to listen on.
        http_port: port of REST, health and metrics.
        grpc_port: port of gRPC.
        model_name: the model's name in the endpoint's paths.
        options: everything else.
        http_option: the option that sets ``http_port`` in the command that serves, for messages.
    """

    bundle: str
    host: str = "0.0.0.0"  # noqa: S104  (a pod is reached from outside; `mistere serve` listens on loopback)
    http_port: int = protocol.HTTP_PORT
    grpc_port: int = protocol.GRPC_PORT
    model_name: str = "mistere"
    options: PredictorConfig = _DEFAULTS
    http_option: str = "--http-port"

    @cached_property
    def limits(self) -> Limits:
        """The limits on requests."""
        return Limits.of(self.options)

    def stated(self) -> dict[str, str]:
        """The options and limits as the model's metadata states them."""
        return {**self.limits.stated(), **stated(self.options)}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (--help lists all options).")


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (1 to 65535)")
    return value


def parse_arguments(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> ServerSettings:
    """Parse the command line of ``python -m mistere.predictor``.

    Args:
        arguments: the arguments; None for those of the process.
        environment: the variables that set options which are not given.

    Raises:
        UsageError: an argument or a variable is wrong.
    """
    parser = _Parser(
        prog="python -m mistere.predictor",
        description="Serve a model bundle over REST and gRPC (Open Inference Protocol, and V1 JSON). A variable such as "
        "MISTERE_PREDICTOR_MAX_UTTERANCES sets an option that is not given.",
        allow_abbrev=False,
    )
    default = ServerSettings(bundle="")
    parser.add_argument("bundle", help="folder or s3:// location of a ModelBundle")
    parser.add_argument("--http-port", type=_port, default=default.http_port, help="port of REST, health and metrics")
    parser.add_argument("--grpc-port", type=_port, default=default.grpc_port, help="port of gRPC")
    parser.add_argument("--host", default=default.host, help="address to listen on")
    parser.add_argument("--model-name", default=default.model_name, help="the model's name in the endpoint's paths")
    for name, option in options().items():
        kind: dict[str, Any] = {"metavar": "VALUE", "action": "append" if option.is_list else "store"}
        if option.is_flag:
            kind = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(option.argument, dest=name, default=None, help=option.help.replace("%", "%%"), **kind)
    given = vars(parser.parse_args(arguments))
    place = {name: given.pop(name) for name in ("bundle", "host", "http_port", "grpc_port", "model_name")}
    if place["http_port"] == place["grpc_port"]:
        parser.error("--http-port and --grpc-port must differ")
    return ServerSettings(**place, options=resolve(given, environment))


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
