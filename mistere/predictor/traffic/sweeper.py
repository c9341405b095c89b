"""Deletes the log of requests and the comparisons with shadows when their time is over, from a thread of its own.

It runs whether or not this predictor still writes any. The writer of kept dialogues deletes those itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from typing import Final

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.common.errors import MistereError, UsageError
from mistere.config.predictor import BUNDLE_STORE
from mistere.predictor.scheduling.observer_thread import ObserverThread
from mistere.predictor.settings import ServerSettings
from mistere.serving.request_log.files import HASHING_KEY, sweep_log
from mistere.serving.shadow.files import PREFIX as SHADOW
from mistere.serving.shadow.files import sweep_comparisons

logger = logging.getLogger("kserve.predictor")

_SWEEP_SECONDS: Final = 6 * 3600
_LAST_SECONDS: Final = 2.0
"""Longest wait at the end: what is left is deleted by the next sweep."""


def start_sweeper(settings: ServerSettings) -> Sweeper | None:
    """Start to sweep the stores that the settings name, and the bundle's if anything was ever written there; None for neither.

    Raises:
        UsageError: a store of the settings cannot be opened.
    """
    options = settings.options
    stores = []
    if options.request_log_store != BUNDLE_STORE:
        stores.append(open_store(options.request_log_store))
    with suppress(UsageError):  # a copy of a bundle outside of a store
        store = open_store(split_bundle_location(settings.bundle)[0])
        if options.request_log_share or options.shadow or _was_used(store):
            stores.append(store)
    return Sweeper(stores) if stores else None


def _was_used(store: ObjectStore) -> bool:
    """Whether a log or a comparison was ever written; False if the store does not say it."""
    try:
        return store.exists(HASHING_KEY) or next(iter(store.keys(SHADOW)), None) is not None
    except (MistereError, OSError):
        return False


class Sweeper(ObserverThread):
    """Sweeps at the start and every six hours.

    Args:
        stores: to sweep.
        clock: seconds since 1970.
    """

    def __init__(self, stores: Sequence[ObjectStore], clock: Callable[[], float] = time.time) -> None:
        super().__init__("sweep")
        self._stores, self._clock = stores, clock
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end, but not for a long sweep."""
        super().join(min(seconds, _LAST_SECONDS))

    def _run(self) -> None:
        while True:
            for store, sweep in product(self._stores, (sweep_log, sweep_comparisons)):
                try:
                    if deleted := sweep(store, self._clock()):
                        logger.info("%d files were deleted from %s after their time", deleted, store.uri)
                except Exception as error:  # of any library of the store; an endpoint without a sweep still answers
                    reason = str(error) or type(error).__name__
                    logger.warning("what is over its time was not deleted from %s (%s)", store.uri, reason)
            if self._ends_within(_SWEEP_SECONDS):
                return
