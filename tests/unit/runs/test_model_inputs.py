"""A version that reads other inputs than the deployed one is not released, nor its shadow, without a person who says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.deploy_model.run import run as deploy
from mistere.artifacts.identities import EncoderDescription, EncoderIdentity, TranscriptionModel
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.registry.lineage import Lineage
from mistere.registry.release.champion import read_champion
from mistere.registry.release.model_inputs import described_inputs, lacking_inputs
from mistere.runs.shadow_comparison import compare_shadow
from mistere.serving.deployment import Deployment, read_deployment
from mistere.serving.shadow.figures import ShadowCounts
from mistere.serving.shadow.files import shadow_file, shadow_key
from mistere.serving.shadow.pointer import Shadow, find_shadow, write_shadow
from mistere.serving.traffic.files import HOUR_SECONDS
from pipelines.cli.commands.registry.promote import promote, release_version
from pipelines.cli.commands.shadow.lifecycle import start
from pipelines.cli.output.comparison_page import ComparedModel, inputs_note
from pipelines.cli.registry_location import RegistryLocation
from tests.unit.runs.test_release import Mirror, champion, deployment, release

LABELS = ("joy", "anger")
TAKES_VECTORS = "takes vectors of speech and text, and the deployed version reads speech and text"


def bundle(raw: Sequence[str] = (), vectors: Sequence[str] = (), made_by: str = "e", **more: Any) -> ModelBundle:
    identity = EncoderIdentity(digest=made_by)
    return ModelBundle(
        name="mistere",
        labels=list(LABELS),
        experts=["text"],
        encoders={name: EncoderDescription(identity=identity) for name in raw},
        vectors=dict.fromkeys(vectors, identity),
        temperature=1.0,
        test_digest="0" * 64,
        metrics={},
        dvc_digest="0" * 32,
        **more,
    )


RAW, VECTORS, TEXT = bundle(["text", "speech"]), bundle(vectors=["text", "speech"]), bundle(["text"])


WHISPER = TranscriptionModel(source="s", base_digest="b", language="en", max_tokens=9)


class SmokeTestReached(Exception):  # noqa: N818 - it is no error
    """A release got as far as its smoke test, which needs a server: its inputs were not refused."""


def smoke_test(*_: Any) -> str:
    """In place of the smoke test."""
    raise SmokeTestReached


@pytest.mark.parametrize(
    ("deployed", "other", "lacking"),
    [
        (RAW, bundle(["text", "speech"], made_by="other"), ""),
        (RAW, bundle(["text", "speech", "face"]), ""),
        (RAW, VECTORS, TAKES_VECTORS),
        (RAW, TEXT, "does not read speech, and the deployed version reads speech and text"),
        (RAW, bundle(["text"], transcription=WHISPER), ""),
        (TEXT, RAW, ""),
        (VECTORS, VECTORS, ""),
        (VECTORS, RAW, ""),  # its encoders make these vectors
        (VECTORS, bundle(vectors=["text"]), "does not read speech, and the deployed version reads vectors of speech and text"),
        (VECTORS, bundle(["text", "speech"], made_by="x"), "reads speech and text by other encoders of speech and text, and"),
        (bundle(vectors=["text"], made_by=""), bundle(["text"]), "reads text by other encoders of text, and"),
        (bundle(vectors=["text"], made_by=""), bundle(vectors=["text"]), ""),
    ],
)  # fmt: skip
def test_a_model_must_understand_the_requests_of_the_deployed_one(
    deployed: ModelBundle, other: ModelBundle, lacking: str
) -> None:
    found = lacking_inputs(deployed, other)
    assert found == lacking if not lacking else found.startswith(lacking)


@dataclass(frozen=True)
class Registry(RegistryLocation):
    """A registry with one version."""

    lineage: Any = None

    def find(self, reference: str, model_name: str) -> Any:
        version = SimpleNamespace(name="mistere", version="2", bundle_digest=self.lineage.bundle_digest)
        return version, self.lineage


@dataclass
class Shop:
    """A store that serves texts and recordings, and a version of vectors."""

    store: LocalStore
    bundle: ArtifactHandle[ModelBundle]

    @property
    def registry(self) -> Registry:
        digest = self.bundle.manifest.digest
        lineage = SimpleNamespace(
            bundle_digest=digest,
            bundle_location=self.store.location(f"ModelBundle/{digest}"),
            model_name="mistere",
            model_version="2",
            reproducible=True,
            as_champion=lambda _: champion("b"),
        )
        return Registry(self.store, "sqlite:///none.db", lineage=lineage)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    store, digests = LocalStore(tmp_path / "store"), []
    for name, made in (("raw", RAW), ("vectors", VECTORS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(name)
        digests.append(publish(store, made, tmp_path / name).digest)
    front = deployment(store, "a").model_copy(update={"bundle_digest": digests[0]})
    first = champion("a").model_copy(update={"bundle_digest": digests[0]})
    release(store, Mirror(), read_champion(store), first, front, "promote", "First.", "ann")
    return Shop(store, open_artifact(store, ModelBundle, digests[1]))


def test_a_version_of_vectors_does_not_replace_an_endpoint_of_texts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage: Lineage = shop.registry.lineage
    before = read_champion(shop.store)
    with pytest.raises(UsageError, match=f"version 2 {TAKES_VECTORS}: .*; --other-inputs releases it all the same"):
        promote(shop.registry, "2", "mistere", "Better.")
    assert read_champion(shop.store) == before

    monkeypatch.setattr("components.deploy_model.endpoint_check.check_endpoint", smoke_test)
    with pytest.raises(SmokeTestReached):
        promote(shop.registry, "2", "mistere", "Wanted.", other_inputs=True)
    with pytest.raises(SmokeTestReached):
        release_version(shop.registry, lineage, "rollback", "Back.")


def test_a_run_does_not_replace_an_endpoint_of_texts_by_one_of_vectors(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Any = SimpleNamespace(
        store=shop.store, run=SimpleNamespace(run_id="r", tracking_uri="sqlite:///none.db"), progress=None
    )
    report: Any = SimpleNamespace(manifest=SimpleNamespace(digest="e"))
    champion = read_champion(shop.store).digest
    with pytest.raises(UsageError, match=f"version 2 {TAKES_VECTORS}: .* deployment.other_inputs=true"):
        deploy(DeploymentConfig(), step, report, shop.bundle, "2", champion)
    assert read_champion(shop.store).digest == champion

    monkeypatch.setattr("components.deploy_model.run._check_locally", smoke_test)
    for config in (DeploymentConfig(other_inputs=True), DeploymentConfig(service="vectors")):
        with pytest.raises(SmokeTestReached):
            deploy(config, step, report, shop.bundle, "2", champion)
    text_only: Any = SimpleNamespace(path=shop.bundle.path, manifest=TEXT.model_copy(update={"digest": "d"}))
    with pytest.raises(SmokeTestReached):  # its profile said so
        deploy(DeploymentConfig(), step, report, text_only, "2", champion)


def test_a_shadow_that_would_refuse_every_copy_is_not_started_and_a_report_says_why_it_refused(shop: Shop) -> None:
    with pytest.raises(UsageError, match=TAKES_VECTORS):
        start(shop.registry, "2", "mistere")
    assert find_shadow(shop.store, "mistere") is None
    start(shop.registry, "2", "mistere", other_inputs=True)
    front, now = read_deployment(shop.store, "mistere"), time.time()
    digests = front.bundle_digest, shop.bundle.manifest.digest
    counts = ShadowCounts(LABELS, LABELS)
    counts.outcomes["refused"] = 30
    shop.store.write(shadow_key(*digests, int(now // HOUR_SECONDS), "r", 90), shadow_file(counts))
    compared = compare_shadow(shop.store, front, "7d", 0.7, 0.01)
    assert compared.summary.verdict == "different"
    assert compared.notes == [
        f"The shadow {TAKES_VECTORS}, so it refuses copies for their inputs, and these count as errors."
    ]
    same = Deployment(service="mistere", bundle_location="x", bundle_digest=digests[0], model_version="1")
    write_shadow(shop.store, Shadow(deployment=same, model_name="mistere", started_at=now, by="ann"))
    shop.store.write(shadow_key(digests[0], digests[0], int(now // HOUR_SECONDS), "r", 90), shadow_file(counts))
    assert compare_shadow(shop.store, front, "7d", 0.7, 0.01).notes == []


def test_a_comparison_names_inputs_that_differ() -> None:
    nothing: Any = None
    one, other, unknown = (
        ComparedModel(
            f"mistere, version {n}", {}, nothing, short=f"v{n}", inputs=described_inputs(made) if made else ""
        )
        for n, made in ((1, RAW), (2, VECTORS), (3, None))
    )
    note = inputs_note(one, other)
    assert note.startswith("Their inputs differ: v1 reads speech and text, and v2 reads vectors of speech and text")
    assert inputs_note(one, one) == inputs_note(one, unknown) == ""
