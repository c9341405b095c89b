"""A release while the S3 server cuts connections: for one request, or until an operator has restarted it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.common.errors import MistereError
from mistere.registry.release import journal
from mistere.registry.release.recovery import recover
from tests.stand_ins.failing_proxy import FailingProxy
from tests.unit.runs.test_release import Mirror, events, promote, state

REQUESTS = 26
"""More than the requests of a release."""


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FailingProxy]:
    address = urlsplit(s3_endpoint)
    proxy = FailingProxy((str(address.hostname), int(address.port or 0)))
    yield proxy
    proxy.close()


def _release_in_an_outage(
    direct: ObjectStore, proxied: ObjectStore, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Promote b through the proxy, recover without it, and check that nothing is half-done; returns whether b was released."""
    try:
        promote(proxied, mirror, "b")
    except MistereError as error:
        assert "took longer than its lease" not in str(error), "nobody else has touched the release"
    else:
        assert state(direct) == ("b", "b")
    before = [event.outcome for event in events(direct) if event.after[0] == "b"]
    assert before in ([], ["done"]) if state(direct)[0] == "b" else "done" not in before
    with monkeypatch.context() as later:
        later.setattr(journal, "LEASE_SECONDS", -1.0)
        recover(direct, mirror, "mistere")
    champion, deployed = state(direct)
    assert champion == deployed and mirror.champion == {"a": "1", "b": "2"}[champion]
    about = [event.outcome for event in events(direct) if event.after[0] == "b"]
    assert about == ["done"] if champion == "b" else about in ([], ["undone"], ["lost"])
    return champion == "b"


@pytest.mark.parametrize("arrives", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("requests", ["one", "all further"])
@pytest.mark.long
def test_a_release_in_an_outage_of_s3_is_completed_or_rolled_back(
    arrives: bool, requests: str, s3_store: ObjectStore, proxy: FailingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = []
    for first in range(REQUESTS):
        uri = f"{s3_store.uri}/{first}"
        direct, mirror = open_store(uri), Mirror()
        promote(direct, mirror, "a")
        with monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", proxy.url)
            proxied = open_store(uri)
        last = first + 1 if requests == "one" else REQUESTS * 10
        proxy.restart(lambda number, first=first, last=last: first <= number < last, arrives=arrives)  # type: ignore[misc]
        released.append(_release_in_an_outage(direct, proxied, mirror, monkeypatch))
    assert False in released and True in released
