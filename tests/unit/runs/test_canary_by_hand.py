"""A canary by hand in the promotion log: whatever is killed, rejected or interrupted meanwhile, the log says what holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mistere.artifacts.object_store import ConflictError, LocalStore, ObjectStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.registry.release import canary as module
from mistere.registry.release import recovery
from mistere.registry.release.candidates import reject_candidate, require_no_rejection
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import Journal, read_journal, this_process
from mistere.registry.release.promotion_log import PromotionEvent, read_log
from mistere.registry.release.recovery import recover
from mistere.registry.release.unfinished import unfinished_releases
from mistere.serving.deployment import RollbackError, read_deployment
from mistere.serving.kserve.lease import RenewLease
from pipelines.cli.commands.registry import promote as command
from pipelines.cli.registry_location import RegistryLocation
from tests.stand_ins.dying_store import DyingStore, KilledError
from tests.unit.runs.test_release import Mirror, champion, deployment, events, promote, state

_NO_PROCESS = 2**22 + 1  # above the largest process id of Linux (PID_MAX_LIMIT, proc(5))


@pytest.fixture(autouse=True)
def _dead_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that holds a journal is not this one, and there is no cluster."""
    real = recovery.this_process
    for one in (recovery, module):
        monkeypatch.setattr(one, "this_process", lambda: {**real(), "process": _NO_PROCESS})
    monkeypatch.setattr(module, "undo_interrupted", lambda *_: None)
    monkeypatch.setattr(module, "candidate_may_receive", lambda _: True)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    """A store whose champion is a."""
    store = LocalStore(tmp_path / "store")
    promote(store, Mirror(), "a")
    return store


def hold(
    store: ObjectStore,
    share: int = 20,
    start: Callable[[RenewLease], str] = lambda _: "tested",
    check: Callable[[], None] | None = None,
) -> str:
    return module.hold_canary(
        store, Mirror(), champion("b"), deployment(store, "b"), share, "Why.", "ann", start, check
    )


def end(store: ObjectStore) -> Journal | None:
    return module.end_canary(store, "mistere", "Complaints.", "bob")


def of_b(store: ObjectStore) -> list[PromotionEvent]:
    return [event for event in events(store) if event.after[0] == "b"]


def journal(store: ObjectStore) -> Journal:
    record = read_journal(store, "mistere")
    assert record is not None
    return record[0]


def killed_at(store: ObjectStore, changes: int, act: Callable[[ObjectStore], object]) -> bool:
    """Act until the process is killed instead of a change; returns whether it was killed."""
    try:
        act(DyingStore(store, changes))
    except KilledError:
        return True
    return False


def test_a_share_that_is_killed_at_any_change_is_logged_as_it_ended(tmp_path: Path) -> None:
    """The store says either that the canary stands, or that it was taken back, and no event stays pending."""
    stood = []
    for changes in range(10):
        store = LocalStore(tmp_path / str(changes))
        promote(store, Mirror(), "a")
        killed = killed_at(store, changes, hold)
        recover(store, Mirror(), "mistere")
        outcomes = [event.outcome for event in of_b(store)]
        stands = module.standing_canary(store, "mistere") is not None
        assert outcomes == ["done"] if stands else outcomes in ([], ["undone"], ["done", "undone"]), changes
        assert recover(store, Mirror(), "mistere") == ""
        stood.append(stands)
        if not killed:
            break
    assert stood == sorted(stood) and stood[-1] and len(stood) > 3


def test_an_end_that_is_killed_at_any_change_is_logged_with_who_ended_it(tmp_path: Path) -> None:
    ended = []
    for changes in range(10):
        store = LocalStore(tmp_path / str(changes))
        promote(store, Mirror(), "a")
        hold(store)
        killed = killed_at(store, changes, end)
        recover(store, Mirror(), "mistere")
        about = of_b(store)
        ended.append(module.standing_canary(store, "mistere") is None)
        assert [event.outcome for event in about] == ["done", *(["undone"] if ended[-1] else [])], changes
        if ended[-1]:
            assert about[-1].by == "bob" and about[-1].reason.startswith("Complaints."), changes
        if not killed:
            break
    assert ended == [False, *(True,) * (len(ended) - 1)] and len(ended) > 2


def test_a_share_that_cannot_be_taken_back_stands_as_the_route_has_it(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(local)
    before = journal(local)

    def fail(*_: object) -> None:
        raise MistereError("the cluster does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(module, "undo_interrupted", fail)
        patched.setattr(module, "candidate_may_receive", fail)
        with pytest.raises(MistereError, match="does not answer"):
            end(local)
        assert (journal(local).state, journal(local).share, journal(local).event) == ("canary", 20, before.event)
        patched.setattr(module, "candidate_may_receive", lambda _: False)
        with pytest.raises(MistereError, match="does not answer"):
            end(local)
        assert (journal(local).state, journal(local).share) == ("canary", 0)
    with pytest.raises(MistereError, match="does not answer"):  # before it has touched anything
        hold(local, 30, fail)
    assert (journal(local).state, journal(local).share) == ("canary", 0)
    assert end(local) is not None and journal(local).state == "done"
    assert [event.outcome for event in of_b(local)] == ["done", "undone", "undone"]


def test_a_version_that_is_rejected_meanwhile_gets_no_share(local: LocalStore) -> None:
    known = read_log(local).events
    reject_candidate(local, "b" * 64, "2", "Bad.", "bob")
    started: list[str] = []

    def start(_: RenewLease) -> str:
        started.append("tested")
        return started[0]

    check = partial(require_no_rejection, local, "b" * 64, "2", known)
    with pytest.raises(ConflictError, match=r"bob rejected version 2 meanwhile \(Bad\.\)"):
        hold(local, 20, start, check)
    assert not started and journal(local).state == "done"
    assert [(event.action, event.outcome) for event in of_b(local)] == [("reject", "done"), ("canary", "undone")]


def test_a_share_that_could_not_be_undone_leaves_the_journal_open(local: LocalStore) -> None:
    def fail(renew_lease: RenewLease) -> str:
        renew_lease(20)
        raise RollbackError("the process was stopped, and again.")

    with pytest.raises(RollbackError):
        hold(local, 20, fail)
    assert (journal(local).state, journal(local).since, journal(local).share) == ("pending", 0.0, 20)
    assert "rolled back" in recover(local, Mirror(), "mistere")


@pytest.mark.parametrize("share", [0, 10])
def test_a_rollback_after_a_killed_release_leaves_the_champion(
    share: int, local: LocalStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(local, Mirror(), "b")
    left = journal(local).model_copy(
        update={
            "state": "pending",
            "since": 0.0,
            "share": share,
            "event": None,
            "champion": champion("c"),
            "deployment": deployment(local, "c"),
            "deployment_before": read_deployment(local, "mistere").recorded(local).decode(),
        }
    )
    local.write("deployments/mistere/journal.json", left.sealed())
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    command.rollback(RegistryLocation(local, ""), "")
    printed = " ".join(capsys.readouterr().out.split())
    first = "The canary of version 3 had" if share else "The release of version 3 to mistere had"
    assert printed.startswith(first) and "the champion stays, version 2." in printed
    assert "Run `mistere promote mistere/3`" in printed and "or `mistere rollback` to restore" in printed
    assert state(local) == ("b", "b") and journal(local).state == "done"


def test_a_rollback_after_a_release_that_had_moved_the_champion_goes_on(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(local, Mirror(), "b")
    left = journal(local).model_copy(update={"state": "deployed", "since": 0.0})
    local.write("deployments/mistere/journal.json", left.sealed())
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    with pytest.raises(MistereError, match="cannot roll back to version 1"):  # these bundles have no lineage
        command.rollback(RegistryLocation(local, ""), "")
    assert "was completed" in capsys.readouterr().out and journal(local).state == "done"
    assert read_champion(local).digest[0] == "b"


@pytest.fixture
def beside(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with a healthy champion b, deployed to mistere, and an interrupted release of c to beta."""
    promote(local, Mirror(), "b")
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    _leave(local, "beta")
    return local


def _leave(store: LocalStore, service: str, **fields: object) -> None:
    left = journal(store).model_copy(
        update={
            "state": "pending",
            "since": 0.0,
            "event": None,
            "champion": champion("c"),
            "deployment": deployment(store, "c", service),
            "deployment_before": "",
            **fields,
        }
    )
    store.write(f"deployments/{service}/journal.json", left.sealed())


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_rollback_takes_the_interrupted_release_of_another_service_back(
    unfinished: bool, beside: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is what the sentence on it advises; it is the first release of that service, which has no pointer."""
    command.rollback(RegistryLocation(beside, ""), "", unfinished=unfinished)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("The release of version 3 to beta had been interrupted and was rolled back; the champion")
    assert state(beside) == ("b", "b") and unfinished_releases(beside) == []


def test_what_others_have_taken_back_meanwhile_costs_no_champion(
    beside: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    location = RegistryLocation(beside, "")
    recover(beside, Mirror(), "beta")
    command.rollback(location, "", unfinished=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == "No release is unfinished, so nothing was taken back; the champion stays, version 2."
    with pytest.raises(UsageError, match="give --unfinished as well"):
        command.rollback(location, "", service="beta")
    beside.write("deployments/beta/journal.json", b"{")
    with pytest.raises(ArtifactError, match="damaged"):
        command.rollback(location, "", unfinished=True)
    assert state(beside) == ("b", "b")


def test_of_several_unfinished_releases_none_is_taken_back_unasked(beside: LocalStore) -> None:
    location = RegistryLocation(beside, "")
    _leave(beside, "gamma")
    with pytest.raises(UsageError, match=r"--unfinished --service NAME`\. .* to beta .* to gamma "):
        command.rollback(location, "")
    command.rollback(location, "", unfinished=True, service="beta")
    (left,) = unfinished_releases(beside)
    assert left.journal.deployment.service == "gamma" and state(beside) == ("b", "b")
    _leave(beside, "gamma", **this_process())
    with pytest.raises(ConflictError, match="another release of gamma is in progress"):
        command.rollback(location, "")
    assert state(beside) == ("b", "b")
