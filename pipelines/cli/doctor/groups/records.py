"""The records in the store: what runs and releases have written, read once with their checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from mistere.artifacts.io import open_artifact, read_manifest
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError
from mistere.data.latest import LATEST
from mistere.registry.lineage import read_lineage
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import read_journal
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.unfinished import unfinished_releases
from mistere.runs.listing import run_ids, summarize_run
from mistere.runs.outcome import REPAIR, read_outcome
from mistere.serving.deployment import find_deployment
from pipelines.cli.doctor.result import CheckResult, failed, note, ok

RUNS: Final = 5
"""How many of the latest runs are read."""


def check_records(store: ObjectStore) -> CheckResult:
    """Read the pointers, journals and the promotion log, the champion's bundle and lineage, and the records of the latest runs."""
    needed = list(_errors(partial(read_champion, store), partial(LATEST.read, store)))
    for service in sorted({key.split("/")[1] for key in store.keys("deployments")}):
        needed += _errors(partial(read_journal, store, service), partial(find_deployment, store, service))
    if not needed:
        needed += _errors(partial(_champions_bundle, store))
    if needed:
        return failed(" ".join(needed))
    others = list(_errors(partial(_champions_lineage, store)))
    damaged = [*read_log(store).damaged, *damaged_runs(store)]
    if damaged:
        names = f"{', '.join(damaged[:3])}{', …' if len(damaged) > 3 else ''}"
        others.append(f"{counted(len(damaged), 'record')} of runs or releases cannot be read ({names}); {REPAIR}.")
    return note(" ".join(others)) if others else ok("those of releases and of the latest runs are intact.")


def check_releases(store: ObjectStore) -> CheckResult:
    """Name the releases that are not finished: with the share of the requests, since when, and what to run.

    One that nobody attends to fails if a version that is not released may have live requests.
    """
    releases = unfinished_releases(store)
    if not releases:
        return ok("none is unfinished.")
    sentences = " ".join(release.sentence() for release in releases)
    unattended = any(release.abandoned and release.may_have_requests for release in releases)
    return failed(sentences) if unattended else note(sentences)


def damaged_runs(store: ObjectStore) -> list[str]:
    """Locations of the damaged records of the latest runs."""
    latest = run_ids(store)[:RUNS]
    damaged = [
        location
        for run_id in latest
        for location in (*summarize_run(store, run_id).damaged, *read_outcome(store, run_id).damaged)
    ]
    return list(dict.fromkeys(damaged))


def _champions_bundle(store: ObjectStore) -> None:
    """Read the manifest of the champion's bundle, and its files, unless they would have to be downloaded."""
    champion = read_champion(store).champion
    if champion is None:
        return
    if isinstance(store, LocalStore):
        open_artifact(store, ModelBundle, champion.bundle_digest)
    else:
        read_manifest(store, ModelBundle, champion.bundle_digest)


def _champions_lineage(store: ObjectStore) -> None:
    champion = read_champion(store).champion
    if champion is not None:
        read_lineage(store, champion.bundle_digest)


def _errors(*reads: Callable[[], object]) -> Iterator[str]:
    for read in reads:
        try:
            read()
        except ArtifactError as error:
            yield str(error)
