"""Candidates wait for a person, and each is decided once, also by several people at once and by processes that are killed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.manifests import RuleResult
from mistere.artifacts.object_store import ConflictError, LocalStore, ObjectStore
from mistere.common.errors import ArtifactError
from mistere.registry.release import recovery as module
from mistere.registry.release.atomic_release import release
from mistere.registry.release.candidates import (
    Candidate,
    candidate_key,
    read_candidate,
    record_candidate,
    reject_candidate,
    require_no_rejection,
    standing,
    standings,
)
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import PromotionEvent, read_log
from mistere.registry.release.recovery import Mirror as Mirrors
from pipelines.cli.commands.registry.history import champions
from tests.stand_ins.dying_store import DyingStore, KilledError
from tests.unit.runs.test_release import Mirror, champion, deployment, events, promote

_NO_PROCESS = 2**22 + 1  # above the largest process id of Linux (PID_MAX_LIMIT, proc(5))


def candidate(name: str, **changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "bundle_digest": name * 64,
        "model_name": "mistere",
        "model_version": "1",
        "run_id": f"run-{name}",
        "registered_at": 1.0,
        "verdict": "hold",
        "release": "automatic",
        "holds": [RuleResult(rule="robustness", outcome="hold", measured=0.1, bound=0.0, sentence="Undecided.")],
        **changes,
    }
    return Candidate(**values)


def approve(
    store: ObjectStore, mirror: Mirrors, name: str, by: str = "ann", known: Sequence[PromotionEvent] | None = None
) -> None:
    """The release of a candidate, as ``mistere approve`` makes it."""
    known = read_log(store).events if known is None else known
    check = partial(require_no_rejection, store, name * 64, "1", known)
    seen = read_champion(store)
    release(store, mirror, seen, champion(name), deployment(store, name), "approve", "Good.", by, check=check)


def reject(store: ObjectStore, name: str, by: str = "bob") -> None:
    reject_candidate(store, name * 64, "1", "Bad.", by)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, True),
        ({"verdict": "promote", "holds": []}, False),
        ({"verdict": "promote", "release": "approval", "holds": []}, True),
    ],
)
def test_what_is_held_or_needs_approval_waits(store: ObjectStore, changes: dict[str, Any], waits: bool) -> None:
    record_candidate(store, candidate("a", **changes))
    assert standing(store, "a" * 64).state == ("waiting" if waits else "not released")
    assert standing(store, "b" * 64).state == "not released", "a version of an earlier release has no record"


def test_a_decision_is_in_the_log_and_the_last_one_counts(store: ObjectStore) -> None:
    mirror = Mirror()
    promote(store, mirror, "c")
    record_candidate(store, candidate("a"))
    reject(store, "a")
    assert standing(store, "a" * 64).state == "rejected" and read_champion(store).digest == "c" * 64
    approve(store, mirror, "a")
    found = standing(store, "a" * 64)
    assert (found.state, found.approved) == ("released", True) and read_champion(store).digest == "a" * 64
    logged = [(event.action, event.outcome, event.by, event.reason) for event in events(store)]
    assert logged[1:] == [("reject", "done", "bob", "Bad."), ("approve", "done", "ann", "Good.")]
    assert [reign.bundle_digest[0] for reign in champions(store, events(store), "")] == ["c", "a"], (
        "a rejection is no reign"
    )
    with pytest.raises(ConflictError, match="is being released, or was"):
        reject(store, "a")


def test_a_rejection_during_a_release_loses(store: ObjectStore) -> None:
    record_candidate(store, candidate("a"))
    failures = []

    def rejected_meanwhile(_: Any) -> None:
        with pytest.raises(ConflictError) as caught:
            reject(store, "a")
        failures.append(str(caught.value))

    approve(store, rejected_meanwhile, "a")
    assert len(failures) == 1 and "version 1 is being released" in failures[0]
    assert standing(store, "a" * 64).state == "released"
    assert [(event.action, event.outcome) for event in events(store)] == [("approve", "done"), ("reject", "lost")]


def test_a_release_after_a_rejection_that_it_did_not_know_loses(store: ObjectStore) -> None:
    record_candidate(store, candidate("a"))
    known = read_log(store).events
    reject(store, "a")
    check = partial(require_no_rejection, store, "a" * 64, "1", known)
    with pytest.raises(ConflictError, match=r"bob rejected version 1 meanwhile \(Bad\.\)"):
        release(
            store,
            Mirror(),
            read_champion(store),
            champion("a"),
            deployment(store, "a"),
            "approve",
            "",
            "ann",
            check=check,
        )
    assert standing(store, "a" * 64).state == "rejected" and read_champion(store).champion is None


def test_a_rejection_that_was_killed_before_its_end_does_not_count(store: ObjectStore) -> None:
    record_candidate(store, candidate("a"))
    known = read_log(store).events
    with pytest.raises(KilledError):
        reject(DyingStore(store, 1), "a")
    assert standing(store, "a" * 64).state == "waiting"
    check = partial(require_no_rejection, store, "a" * 64, "1", known)
    release(
        store, Mirror(), read_champion(store), champion("a"), deployment(store, "a"), "approve", "", "ann", check=check
    )
    assert standing(store, "a" * 64).state == "released"


@pytest.mark.long
@pytest.mark.parametrize("kinds", [("approve", "approve"), ("approve", "reject"), ("approve", "reject", "approve")])
def test_of_several_decisions_at_once_one_wins(kinds: tuple[str, ...], tmp_path: Path) -> None:
    for attempt in range(5):
        store, mirror = LocalStore(tmp_path / f"{attempt}"), Mirror()
        promote(store, mirror, "c")
        record_candidate(store, candidate("a"))
        failures: list[str] = []
        known = read_log(store).events  # everybody has looked before anybody decides
        start = threading.Barrier(len(kinds))

        def decide(
            kind: str,
            store: LocalStore = store,
            mirror: Mirror = mirror,
            failures: list[str] = failures,
            start: threading.Barrier = start,
            known: Sequence[PromotionEvent] = known,
        ) -> None:
            start.wait()
            try:
                approve(store, mirror, "a", known=known) if kind == "approve" else reject(store, "a")
            except ConflictError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=decide, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = [event.action for event in events(store) if event.after[0] == "a" and event.outcome == "done"]
        assert len(done) == 1 and len(failures) == len(kinds) - 1, (done, failures)
        assert all(failure.count("\n") == 0 and failure.endswith((".", ".)")) for failure in failures)
        released = read_champion(store).digest == "a" * 64
        assert released == (done == ["approve"]) == (standing(store, "a" * 64).state == "released")


def test_an_approval_that_is_killed_at_any_change_goes_on_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.this_process
    monkeypatch.setattr(module, "this_process", lambda: {**real(), "process": _NO_PROCESS})
    changes, killed = 0, True
    while killed:
        store, mirror = LocalStore(tmp_path / f"{changes}"), Mirror()
        promote(store, mirror, "c")
        record_candidate(store, candidate("a"))
        dying, killed = DyingStore(store, changes), False
        try:
            approve(dying, lambda new, dying=dying, mirror=mirror: dying.change(mirror, new), "a")
        except KilledError:
            killed = True
        module.recover(store, mirror, "mistere")  # the command's first act
        if standing(store, "a" * 64).state == "waiting":
            approve(store, mirror, "a")
        assert standing(store, "a" * 64).state == "released" and read_champion(store).digest == "a" * 64
        assert mirror.champion == "1"
        outcomes = [event.outcome for event in events(store) if event.after[0] == "a"]
        assert outcomes.count("done") == 1 and set(outcomes) <= {"done", "undone", "pending"}, outcomes
        changes += 1
    assert changes > 9


def test_a_damaged_record_is_named_and_hides_no_other_version(store: ObjectStore) -> None:
    for name in "ab":
        record_candidate(store, candidate(name))
    key = candidate_key("a" * 64)
    store.write(key, store.read(key)[0].replace(b"hold", b"help"))
    with pytest.raises(ArtifactError, match=r"candidate's record .* is damaged; restore it"):
        read_candidate(store, "a" * 64)
    states = {digest[0]: found.state for digest, found in standings(store, ["a" * 64, "b" * 64]).items()}
    assert states == {"a": "not released", "b": "waiting"}


def test_final_holds_are_those_that_nobody_may_override() -> None:
    rules = [
        RuleResult(rule="committed_code", outcome="hold", measured=None, bound=None, sentence="No.", final=True),
        RuleResult(rule="robustness", outcome="hold", measured=None, bound=None, sentence="Undecided."),
    ]
    assert [rule.rule for rule in candidate("a", holds=rules).final_holds] == ["committed_code"]
