"""Deletes what an endpoint wrote into a store when its time is over: kept dialogues, the log of requests, comparisons with shadows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.config.predictor import BUNDLE_STORE
from mistere.serving.deployment import deployed_services, find_deployment
from mistere.serving.request_log.files import sweep_log
from mistere.serving.sample.places import sweep
from mistere.serving.shadow.files import sweep_comparisons
from mistere.serving.traffic.deletion import UndeletedError

_KINDS: Final[tuple[tuple[str, str, Callable[[ObjectStore, float], int]], ...]] = (
    ("kept dialogue", "kept dialogues", sweep),
    ("file of the request log", "files of the request log", sweep_log),
    ("file of a shadow", "files of shadows", sweep_comparisons),
)
"""What is deleted, one and many, and by what. The name of each object says how long it is kept."""
STORE_OPTIONS: Final = ("sample_store", "request_log_store")
"""The options of the predictor that name a store with such objects."""


def sweep_all(store: ObjectStore, now: float) -> Iterator[tuple[int, str]]:
    """Delete everything in a store whose last day has passed.

    Args:
        store: the object store.
        now: seconds since 1970.

    Yields:
        How much was deleted of each kind, as a number and in words: ``3 kept dialogues``.

    Raises:
        MistereError: the first failure of several, after everything else was deleted.
    """
    failures = list[MistereError]()
    for one, many, delete in _KINDS:
        try:
            number = delete(store, now)
        except MistereError as error:
            failures.append(error)
            number = error.deleted if isinstance(error, UndeletedError) else 0
        yield number, counted(number, one, many)
    if failures:
        raise failures[0]


def try_to_sweep(store: ObjectStore, now: float, note: Callable[[str], object], named: Iterable[str] = ()) -> None:
    """:func:`sweep_all` beside other work, which a failure must not end.

    The stores that the deployed predictors name for their samples and logs are swept as well: nothing else may run that knows them.

    Args:
        store: the object store with the deployments.
        now: seconds since 1970.
        note: receives a sentence on what was deleted, and on each failure.
        named: locations of further stores.
    """
    locations = {*named, *_named_by_predictors(store, note)} - {"", BUNDLE_STORE, store.uri}
    for location in ("", *sorted(locations)):
        where = f" from {location}" if location else ""
        try:
            for number, words in sweep_all(open_store(location) if location else store, now):
                if number:
                    note(f"{words} deleted{where}, whose time is over.")
        except MistereError as error:
            note(f"Not all that was kept of the traffic and whose time is over was deleted{where}: {error}")


def _named_by_predictors(store: ObjectStore, note: Callable[[str], object]) -> Iterator[str]:
    """The stores that the options of the deployed predictors name."""
    try:
        for service in deployed_services(store):
            deployment = find_deployment(store, service)
            options = deployment.settings.get("predictor") if deployment is not None else None
            if isinstance(options, dict):
                yield from (str(options.get(name) or "") for name in STORE_OPTIONS)
    except MistereError as error:
        note(f"Which stores the predictors name cannot be read: {error}")
