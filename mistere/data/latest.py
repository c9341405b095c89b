"""The latest data: a pointer in the store that scheduled runs follow and `mistere data publish` moves."""

from __future__ import annotations

from typing import Final

from mistere.artifacts.pointer import Pointer
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.names import OneLine, Segment


class LatestData(SealedRecord):
    """A published dataset version.

    Attributes:
        digest: the DVC digest.
        remote: URL of the DVC remote that holds it, as DVC writes it.
        source: the source that `mistere data publish` was called with.
        published_at: seconds since 1970.
    """

    digest: Segment
    remote: OneLine
    source: str = ""
    published_at: float


LATEST: Final = Pointer("data/latest.json", LatestData, "latest data", "delete it and run `mistere data publish` again")
