"""The latest data: a pointer in the store that scheduled runs follow and `mistere data publish` moves."""

from __future__ import annotations

from typing import Final

from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.pointer import Pointer
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import UsageError
from mistere.common.names import OneLine, Segment
from mistere.kubernetes.settings_keys import DATA_DIGEST, DATA_REMOTE, SETTINGS_MAP


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


def latest_data(store: ObjectStore) -> tuple[str, str]:
    """Digest and remote of the published data.

    Raises:
        UsageError: nothing has been published.
    """
    latest = LATEST.read(store).value
    if latest is None:
        raise UsageError(
            f"no data has been published ({store.location(LATEST.key)} does not exist): publish it with `mistere data publish`, or "
            f"set {DATA_REMOTE} and {DATA_DIGEST} in the ConfigMap {SETTINGS_MAP}."
        )
    return latest.digest, latest.remote
