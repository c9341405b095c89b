"""A deadline for each query of the registry's PostgreSQL database: a server that hangs keeps its connections open for ever."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from functools import cache
from typing import Any

AFFECTS_RESULTS = False
"""How long an answer may take changes no result."""


@cache
def limit_queries(seconds: int) -> None:
    """Close a connection of psycopg whose query is not answered in time, in this process from now on.

    ``statement_timeout`` would not do: the server itself measures it.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def on_connect(connection: Any, _record: Any) -> None:
        wait = getattr(connection, "wait", None)  # psycopg 3 waits for every answer there
        if wait is not None:
            connection.wait = lambda *arguments, **options: _bounded(connection, wait, seconds, *arguments, **options)

    event.listen(Engine, "connect", on_connect)


def _bounded(connection: Any, wait: Any, seconds: int, *arguments: Any, **options: Any) -> Any:
    late = threading.Event()

    def close() -> None:
        late.set()
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        return wait(*arguments, **options)
    except Exception as error:
        if late.is_set():
            raise type(error)(f"no answer within {seconds} s") from error
        raise
    finally:
        timer.cancel()
