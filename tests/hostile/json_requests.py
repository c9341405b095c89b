"""Generate requests with every JSON type at every place of V1, V2 and gRPC: seeded, so that a failure can be repeated.

:func:`every_type_everywhere` covers each place with each JSON type once. :func:`hostile_requests` continues with random values at
several places of a request at once. :func:`table` has the counts for the documentation.
"""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

SEED: Final = 20261129
QUICK, ALL = 640, 10_500
"""Requests in ``make test``, and in ``make test-all``."""
INFER, PREDICT = "/v2/models/mistere/infer", "/v1/models/mistere:predict"

OF_EACH_TYPE: Final[dict[str, Sequence[Any]]] = {
    "null": [None],
    "boolean": [True, False],
    "number": [0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**63, 2**64 - 1],
    "string": ["", "x", "base64", "BYTES", "FP32", "text", "label", "\u0000", "\u202e", "a" * 300, "NaN", "1"],
    "array": [[], [1], ["x"], [[]], [None], [{}], ["x"] * 130, [[[1]]]],
    "object": [{}, {"x": 1}, {"text": "x"}, {"name": "text"}, {"x": {}}, {"": None}],
}
"""JSON type → values of it; the first is the one that every place gets."""

_TEXT: Final = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["Hi.", "Why?"]}
_DIGEST: Final = {"encoder_digest": "t" * 64}
_ROWS: Final = {"name": "text_embedding", "datatype": "FP32", "shape": [1, 16], "data": [[0.5] * 16]}
_RAW: Final = struct.pack("<I", 3) + b"Hi." + struct.pack("<I", 4) + b"Why?"

TEMPLATES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "V1": (
        PREDICT,
        {
            "id": "a",
            "instances": [{"utterances": [{"text": "Hi.", "audio": "", "audio_uri": None, "audio_digest": "", "predict": True}]}],
            "parameters": {"detail": True, "other": 1},
        },
    ),
    "V2": (
        INFER,
        {
            "id": "a",
            "inputs": [_TEXT | {"parameters": {"content_type": "str", "binary_data_size": None, "other": 1}}],
            "outputs": [{"name": "label", "parameters": {"binary_data": False, "other": 1}}],
            "parameters": {"detail": False, "encoder_digest": "", "binary_data_output": False, "other": 1},
        },
    ),
    "V2, audio": (
        INFER,
        {
            "inputs": [
                {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [""], "parameters": {"content_type": "base64"}},
                {"name": "audio_digest", "datatype": "BYTES", "shape": [1], "data": [""]},
                {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Hi."]},
            ]
        },
    ),
    "V2, embeddings": (INFER, {"inputs": [_ROWS], "parameters": _DIGEST}),
    "V2, binary": (
        INFER,
        {
            "inputs": [
                {
                    "name": "text",
                    "datatype": "BYTES",
                    "shape": [2],
                    "parameters": {"binary_data_size": len(_RAW), "content_type": None},
                }
            ],
            "parameters": {"binary_data_output": True},
        },
    ),
}  # fmt: skip
"""Kind of request → path and a valid body."""


@dataclass(frozen=True)
class HostileRequest:
    """A request by REST, or by gRPC if it has no path.

    Attributes:
        kind: a key of :data:`TEMPLATES`, or ``gRPC``.
        changed: what was put where, for the message of a failing test.
        body: bytes to send.
        path: path of the REST request.
        headers: its headers.
    """

    kind: str
    changed: str
    body: bytes
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)


Place = tuple[str | int, ...]


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value, the whole value included, as the keys that lead there; of a row of numbers the first only."""
    yield before
    if isinstance(value, dict):
        for key, content in value.items():
            yield from places(content, (*before, key))
    elif isinstance(value, list):
        count = 1 if len(value) > 3 else len(value)
        for index in range(count):
            yield from places(value[index], (*before, index))


def replaced(value: Any, place: Place, content: Any) -> Any:
    """A copy of a JSON value with other content at one place; unchanged if an earlier change removed the place."""
    if not place:
        return deepcopy(content)
    copy = deepcopy(value)
    holder = copy
    try:
        for key in place[:-1]:
            holder = holder[key]
        if isinstance(holder, list | dict):
            holder[place[-1]] = deepcopy(content)
    except (KeyError, IndexError, TypeError):
        return copy
    return copy


def rest_request(kind: str, content: Any, changed: str) -> HostileRequest:
    """Encode a body of a kind of :data:`TEMPLATES`."""
    path = TEMPLATES[kind][0]
    body = json.dumps(content).encode()
    if kind != "V2, binary":
        return HostileRequest(kind, changed, body, path)
    return HostileRequest(kind, changed, body + _RAW, path, {"Inference-Header-Content-Length": str(len(body))})


_GRPC_PARAMETERS: Final = (
    "detail",
    "encoder_digest",
    "binary_data_output",
    "content_type",
    "binary_data_size",
    "other",
)
_GRPC_VALUES: Final[dict[str, dict[str, Any]]] = {
    "null": {},
    "boolean": {"bool_param": True},
    "number": {"int64_param": -1},
    "string": {"string_param": "x"},
}
_CONTENTS: Final[dict[str, list[Any]]] = {
    "bool_contents": [True],
    "int_contents": [1],
    "int64_contents": [1],
    "uint_contents": [1],
    "uint64_contents": [1],
    "fp32_contents": [0.5],
    "fp64_contents": [0.5],
    "bytes_contents": [b"x"],
}
_GRPC_HOLDERS: Final = ("request", "tensor", "output")


def _message(
    values: Sequence[tuple[str, str, str]], contents: str = "bytes_contents", datatype: str = "BYTES"
) -> bytes:
    """A ``ModelInferRequest``.

    Args:
        values: holder, name and JSON type of parameters.
        contents: the field that holds the tensor's contents.
        datatype: the tensor's datatype.
    """
    request = pb.ModelInferRequest(model_name="mistere", id="a")
    tensor = request.inputs.add(name="text", datatype=datatype, shape=[1])
    getattr(tensor.contents, contents).extend(_CONTENTS[contents])
    output = request.outputs.add(name="label")
    holders = {"request": request, "tensor": tensor, "output": output}
    for holder, name, kind in values:
        holders[holder].parameters[name].CopyFrom(pb.InferParameter(**_GRPC_VALUES[kind]))
    return request.SerializeToString()


def grpc_places() -> list[tuple[str, str]]:
    """Every parameter at every holder."""
    return [(holder, name) for holder in _GRPC_HOLDERS for name in _GRPC_PARAMETERS]


def every_type_everywhere() -> Iterator[HostileRequest]:
    """Each JSON type at each place once, and each type of contents for each datatype by gRPC."""
    for kind, (_, valid) in TEMPLATES.items():
        for place in places(valid):
            for name, values in OF_EACH_TYPE.items():
                content = values[0]
                yield rest_request(kind, replaced(valid, place, content), f"{place} = {name}")
    for holder, parameter in grpc_places():
        for name in _GRPC_VALUES:
            yield HostileRequest("gRPC", f"{holder}.{parameter} = {name}", _message([(holder, parameter, name)]))
    for contents in _CONTENTS:
        for datatype in ("BYTES", "FP32"):
            yield HostileRequest("gRPC", f"{contents} of {datatype}", _message([], contents, datatype))


def hostile_requests(count: int, seed: int = SEED) -> list[HostileRequest]:
    """Requests: a sample of those with one change, or all of them and further ones with up to three random changes.

    Args:
        count: number of requests.
        seed: seed of the choices.
    """
    draw = random.Random(seed)
    requests = list(every_type_everywhere())
    if count <= len(requests):
        return draw.sample(requests, count)
    kinds = list(TEMPLATES)
    while len(requests) < count:
        kind = draw.choice((*kinds, "gRPC"))
        if kind == "gRPC":
            changes = [
                (*draw.choice(grpc_places()), draw.choice(list(_GRPC_VALUES))) for _ in range(draw.randint(1, 3))
            ]
            contents, datatype = draw.choice(list(_CONTENTS)), draw.choice(("BYTES", "FP32", "fp32", "BOOL", ""))
            message = _message(changes, contents if draw.random() < 0.3 else "bytes_contents", datatype)
            requests.append(HostileRequest(kind, f"{changes}, {contents} of {datatype}", message))
            continue
        content: Any = TEMPLATES[kind][1]
        changed = []
        for _ in range(draw.randint(1, 3)):
            place = draw.choice(list(places(content)))
            value = draw.choice(OF_EACH_TYPE[draw.choice(list(OF_EACH_TYPE))])
            if place and draw.random() < 0.2:  # under a name of its own, or one that another place has
                place = (
                    *place[:-1],
                    draw.choice(("", "x", "parameters", "content_type", "detail", "binary_data_size")),
                )
            content = replaced(content, place, value)
            changed.append(f"{place} = {value!r}")
        requests.append(rest_request(kind, content, ", ".join(changed)))
    return requests


def place_counts() -> dict[str, int]:
    """Kind of request → its places, each of which gets a value of every type."""
    counts = {kind: len(list(places(valid))) for kind, (_, valid) in TEMPLATES.items()}
    return {**counts, "gRPC": len(grpc_places()) + len(_CONTENTS)}


def table() -> list[tuple[str, int, int, int]]:
    """A row for each kind of request: the kind, its places, and requests in ``make test`` and in ``make test-all``."""
    quick, every = (Counter(request.kind for request in hostile_requests(count)) for count in (QUICK, ALL))
    return [(kind, number, quick[kind], every[kind]) for kind, number in place_counts().items()]
