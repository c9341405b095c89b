"""A version that reads other inputs than the deployed one gets no requests of a cluster's service, unless a person says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mistere.artifacts.identities import EncoderDescription, EncoderIdentity
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.registry.release.canary import standing_canary
from mistere.registry.release.candidates import Candidate, record_candidate
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from pipelines.cli.commands.registry import promote as command
from pipelines.cli.commands.registry.decide import approve
from tests.cluster.canary.conftest import CANDIDATE, SERVICE, Release, all_is_back, lineage_of
from tests.cluster.conftest import Cluster
from tests.stand_ins.gateway import Gateway
from tests.unit.runs.test_model_inputs import Registry

pytestmark = pytest.mark.usefixtures("at_once")

REFUSED = (
    "^version 2 takes vectors of text, and the deployed version reads text: it would refuse or ignore what clients of mistere send; "
    "--other-inputs releases it all the same"
)


def test_a_version_of_vectors_gets_no_share_and_no_approval(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = EncoderIdentity(digest="e")
    texts = cluster.bundle("texts", encoders={"text": EncoderDescription(identity=identity)})
    vectors = cluster.bundle("vectors", vectors={"text": identity})
    release(texts)
    digest = vectors.manifest.digest
    registry = Registry(store, "", lineage=lineage_of(digest))
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    before = len(gateway.seen)

    def is_refused(release_it: Callable[[], None]) -> None:
        with pytest.raises(UsageError, match=REFUSED):
            release_it()
        all_is_back(cluster, gateway, texts)
        assert read_champion(store).digest == texts.manifest.digest and standing_canary(store, "mistere") is None
        assert len(read_log(store).events) == 1 and len(gateway.seen) == before

    is_refused(lambda: command.promote(registry, "2", "mistere", "Why.", 10))
    is_refused(lambda: command.promote(registry, "2", "mistere", "Why."))
    waits = Candidate(
        bundle_digest=digest,
        model_name="mistere",
        model_version="2",
        run_id="run-2",
        registered_at=1.0,
        verdict="promote",
        release="approval",
    )
    record_candidate(store, waits)
    is_refused(lambda: approve(registry, "mistere/2", "mistere", "Good."))
    store.delete_object(f"candidates/{digest}.json")
    command.promote(registry, "2", "mistere", "Wanted.", 10, other_inputs=True)
    assert gateway.weights == {SERVICE: 90, CANDIDATE: 10}
