"""A store with a champion whose bundle carries the reference of its traffic, and with traffic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mistere.artifacts.identities import EncoderDescription
from mistere.artifacts.io import publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.data.profile import EDGES, PROFILE_FILE, Profile, dump_profile
from mistere.registry.release.champion import Champion, move_champion, read_champion
from mistere.serving.traffic.figures import Counts
from mistere.serving.traffic.files import counts_file, traffic_key
from mistere.serving.traffic.reference import TRAFFIC_PROFILE_FILE, write_traffic_profile
from tests.unit.traffic.simulation import FIGURES, LABELS

FIRST_DAY = 20_500
NOW = (FIRST_DAY + 3) * 86_400.0 + 60


def make_champion(store: ObjectStore, folder: Path, before: Counts | None) -> str:
    """Publish a bundle with the reference, or without one, and make it the champion; returns its digest."""
    folder.mkdir()
    if before is not None:
        write_traffic_profile(before, folder / TRAFFIC_PROFILE_FILE)
        histograms = {name: before.table(name)[0].tolist() for name in EDGES}
        utterances = before.total("turns")
        profile = Profile(name="data", utterances=utterances, labels={}, histograms=histograms, words={}, other_words=0)
        dump_profile(profile, folder / PROFILE_FILE)
    else:
        (folder / "README.md").write_text("An early bundle.")
    bundle = ModelBundle(
        name="mistere",
        labels=list(LABELS),
        experts=list(FIGURES.experts),
        encoders={name: EncoderDescription() for name in FIGURES.modalities},
        temperature=1.0,
        test_digest="0" * 64,
        metrics={},
        dvc_digest="0" * 32,
    )
    digest = publish(store, bundle, folder).digest
    champion = Champion(
        bundle_digest=digest,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version="7",
        run_id="run",
        moved_at=0.0,
    )
    move_champion(store, read_champion(store), champion)
    return digest


def write_days(store: ObjectStore, digest: str, days: Sequence[Sequence[Counts]], first: int = FIRST_DAY) -> None:
    """Write traffic, the hours of each day, from the first day on."""
    for day, hours in enumerate(days):
        for hour, counts in enumerate(hours):
            store.write(traffic_key(digest, 24 * (first + day) + hour, "replica"), counts_file(counts))
