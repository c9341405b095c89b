"""What an event of the page may hold: a value of each field's own kind, and files that were uploaded to the page.

Gradio takes every object with a ``path``, in whichever field, for a file: it copies the file at a path of this machine, or
fetches a URL, and serves the copy. Its own check of such paths is one attribute that its server, mounted, leaves off.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.parsing.documents import ParseError, load_json

if TYPE_CHECKING:
    import gradio

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

EVENT_PATH: Final = "/gradio_api/queue/join"
_MAX_EVENT: Final = 1 << 18
"""Bytes: the text and the references to 64 images take a tenth."""


class EventError(ValueError):
    """An event that the page does not send."""


def checked_events(inner: Application, page: gradio.Blocks) -> Application:
    """Gradio's server, handed only events that :func:`checked_event` has rebuilt; others get 400."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != EVENT_PATH or scope["method"] != "POST":
            await inner(scope, receive, send)
            return
        try:
            event = checked_event(page, await _body(receive))
        except EventError as error:
            content = json.dumps({"detail": str(error)}).encode()
            await send(
                {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": content})
            return
        headers = [
            (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")
        ]
        headers += [(b"content-length", str(len(event)).encode()), (b"content-type", b"application/json")]
        messages = [{"type": "http.request", "body": event, "more_body": False}]

        async def rebuilt() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        await inner({**scope, "headers": headers}, rebuilt, send)

    return answer


def checked_event(page: gradio.Blocks, body: bytes) -> bytes:
    """Rebuild an event from what its function takes.

    Args:
        page: the page, whose functions have the fields that an event fills.
        body: JSON as the browser sends it.

    Returns:
        JSON with nothing but the function, the session and a value of the right kind for each field.

    Raises:
        EventError: the event is not one of this page.
    """
    from gradio.utils import get_upload_folder

    try:
        event = load_json(body)
    except ParseError as error:
        raise EventError("The event is not JSON.") from error
    if not isinstance(event, dict) or not isinstance(event.get("session_hash"), str):
        raise EventError("The event names no session.")
    number, values, trigger = event.get("fn_index"), event.get("data"), event.get("trigger_id")
    function = page.fns.get(number) if type(number) is int else None
    if function is None or not isinstance(values, list) or len(values) != len(function.inputs):
        raise EventError("The event is not one of this page: reload it.")
    uploads = Path(get_upload_folder())
    given = [_checked(value, field, uploads) for value, field in zip(values, function.inputs, strict=True)]
    return json.dumps(
        {
            "data": given,
            "fn_index": number,
            "trigger_id": trigger if type(trigger) is int else None,
            "session_hash": event["session_hash"],
        }
    ).encode()


def _checked(value: object, field: object, uploads: Path) -> object:
    import gradio as gr

    if value is None or isinstance(
        field, gr.State
    ):  # the server holds the state: what an event states of it is ignored
        return None
    if isinstance(field, gr.Audio):
        return _uploaded(value, uploads)
    if isinstance(field, gr.File) and isinstance(value, list):
        return [_uploaded(each, uploads) for each in value]
    if isinstance(field, gr.Textbox) and isinstance(value, str):
        return value
    if isinstance(field, gr.Checkbox) and isinstance(value, bool):
        return value
    raise EventError("A field of the event has a value of another kind.")


def _uploaded(value: object, uploads: Path) -> dict[str, Any]:
    """A reference to a file, if it was uploaded to the page."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise EventError("A file of the event has no path.")
    try:
        file = Path(path).resolve()
        is_upload = Path(path).is_absolute() and file.is_relative_to(uploads.resolve()) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, NUL, a loop of links
        is_upload = False
    if not is_upload:
        raise EventError("A file of the event was not uploaded here, or too long ago: choose it again.")
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


async def _body(receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        EventError: it is larger than an event, or the client has left.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise EventError("The client has left.")
        body += message.get("body", b"")
        if len(body) > _MAX_EVENT:
            raise EventError(f"The event is larger than {_MAX_EVENT} bytes.")
        more = message.get("more_body", False)
    return bytes(body)
