"""Check the parameters of a request, a tensor or an output: the protocol allows strings, numbers and booleans.

REST and gRPC read all parameters through this module, so no other code meets a value of an unexpected type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mistere.predictor.errors import invalid, printable
from mistere.serving import protocol
from mistere.serving.sample.places import MAX_ID

Parameter = str | int | float | bool | None

_MAX_PARAMETERS: Final = 64
"""The most parameters of a request or tensor; each becomes an object many times the size of its bytes."""
_SCALARS: Final = (str, int, float, bool, type(None))
_KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    protocol.DETAIL: ((bool, str), "true, false or explain"),
    protocol.NAN_IS_MISSING: ((bool,), "true or false"),
    protocol.TRANSCRIBE: ((bool,), "true or false"),
    protocol.CONSENT: ((bool,), "true or false"),
    protocol.DIALOGUE_ID: ((str, type(None)), "a string"),
    protocol.BINARY_OUTPUT: ((bool,), "true or false"),
    protocol.BINARY_DATA: ((bool,), "true or false"),
    protocol.BINARY_SIZE: ((int, type(None)), "an integer"),
    protocol.CONTENT_TYPE: ((str, type(None)), "a string"),
    protocol.ENCODER_DIGEST: ((str, type(None)), "a string"),
}
"""Parameter that this server reads → its types, and how an error message describes them."""


def check_count(count: int, what: str, limit: int = _MAX_PARAMETERS) -> None:
    """Reject more items than any request needs, before they become objects."""
    if count > limit:
        raise invalid(f"There are {count} {what}; a request may have {limit}.")


def read_parameters(value: Any, where: str) -> dict[str, Parameter]:
    """Check a JSON value that holds parameters.

    Args:
        value: any JSON value; None counts as no parameters.
        where: what has the parameters, for the error message.

    Raises:
        RequestError: it is not an object, there are too many parameters, or one has a wrong type.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"The parameters of {where} must be a JSON object.")
    check_count(len(value), "parameters")
    for name, content in value.items():
        kinds, form = _KINDS.get(name, (_SCALARS, "a string, a number or a boolean"))
        # not isinstance, for which bool is an int
        if type(content) not in kinds or (name == protocol.DETAIL and content not in (True, False, protocol.EXPLAIN)):
            raise invalid(f"The parameter {printable(name)!r} of {where} must be {form}.")
    return value


def read_grpc_parameters(parameters: Any, where: str) -> dict[str, Parameter]:
    """Check the parameters of a gRPC message; kserve's converter silently drops one without a value.

    Args:
        parameters: name → ``InferParameter``.
        where: what has the parameters, for the error message.

    Raises:
        RequestError: as :func:`read_parameters`, or a parameter has no value.
    """
    check_count(len(parameters), "parameters")
    values: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise invalid(f"The parameter {printable(name)!r} of {where} has no value.")
        values[name] = getattr(parameter, kind)
    return read_parameters(values, where)


def read_detail(parameters: Mapping[str, Parameter]) -> tuple[bool, bool]:
    """Whether an answer has the probabilities of each expert, and an explanation, too.

    Args:
        parameters: of the request, checked.
    """
    detail = parameters.get(protocol.DETAIL, False)
    return bool(detail), detail == protocol.EXPLAIN


def read_consent(parameters: Mapping[str, Parameter], dialogues: int = 1) -> dict[str, Any]:
    """The dialogue id of a request, and whether the dialogue may be kept, as fields of a ``DialogueRequest``.

    Args:
        parameters: of the request, checked.
        dialogues: how many dialogues the request has.

    Raises:
        RequestError: the id is too long, does not belong to one dialogue, or is missing where there is consent.
    """
    dialogue_id, consent = (
        str(parameters.get(protocol.DIALOGUE_ID) or ""),
        bool(parameters.get(protocol.CONSENT, False)),
    )
    if len(dialogue_id) > MAX_ID:
        raise invalid(f"The parameter dialogue_id has {len(dialogue_id)} characters; it may have {MAX_ID}.")
    if consent and not dialogue_id:
        raise invalid("The parameter consent needs a dialogue_id, by which the dialogue can be deleted.")
    if dialogue_id and dialogues > 1:
        raise invalid(f"A request with a dialogue_id has one instance; this one has {dialogues}.")
    return {protocol.DIALOGUE_ID: dialogue_id, protocol.CONSENT: consent}
