"""A name of a request in the comparison's files, which stands in this process's log beside the id, and says nothing without it.

Clients choose ids and may put a name or a number of a person into them, and the files stay when the log has expired.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final

_KEY: Final = secrets.token_bytes(16)
"""Of this process; without it, ids could be found by trying those that are likely, such as telephone numbers."""


def request_hash(identity: str) -> str:
    """The hash of a request's id, 16 hexadecimal digits."""
    return blake2b(identity.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=8).hexdigest()
