"""When checkpoints are due, and the thread that writes them."""

from __future__ import annotations

import threading
import time

import pytest

from mistere.artifacts.checkpoint_writing import BackgroundWriter, CheckpointSchedule
from mistere.artifacts.object_store import UnreachableError
from mistere.common.digests.code import closure
from mistere.config.encoder import TextConfig


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def costs_of(seconds: list[float], hours: float) -> tuple[float, float]:
    """Train for some hours on a cluster with checkpoints that cost ``seconds``.

    Returns:
        The share of the time that they cost after the first one, which is the measurement, and the longest time between two.
    """
    clock, spent, losses = Clock(), 0.0, [0.0]
    schedule = CheckpointSchedule("auto", on_cluster=True, clock=clock)
    costs = iter(seconds)
    last = clock.now
    while clock.now < 1000 + hours * 3600:
        clock.now += 1.0
        if schedule.is_due():
            cost = next(costs, seconds[-1])
            schedule.began()
            schedule.measured(cost)
            spent += cost
            losses.append(clock.now - last)
            last = clock.now
    return (spent - seconds[0]) / (hours * 3600), max(losses)


@pytest.mark.parametrize(("cost", "longest_loss"), [(0.05, 60), (0.6, 60), (2.0, 101), (40.0, 2001)])
def test_automatic_checkpoints_cost_at_most_two_percent_of_the_time(cost: float, longest_loss: float) -> None:
    share, loss = costs_of([cost], hours=6)
    assert share <= 0.02 and loss <= longest_loss


def test_the_interval_follows_the_measured_cost() -> None:
    clock = Clock()
    schedule = CheckpointSchedule("auto", on_cluster=True, clock=clock)
    assert schedule.interval == 60
    intervals = []
    for cost in (1.0, 3.0, 0.1):
        schedule.measured(cost)
        intervals.append(schedule.interval)
    assert intervals == pytest.approx([50, 150, 30])
    clock.now += 29
    assert not schedule.is_due()
    clock.now += 2
    assert schedule.is_due()
    schedule.began()
    assert not schedule.is_due()


def test_a_set_interval_and_one_outside_a_cluster_do_not_follow_it() -> None:
    for schedule, interval in (
        (CheckpointSchedule(5.0, on_cluster=True), 5.0),
        (CheckpointSchedule("auto", on_cluster=False), 600.0),
    ):
        schedule.measured(40.0)
        assert schedule.interval == interval


def test_one_write_runs_at_a_time_and_the_next_one_waits() -> None:
    writer, running, most = BackgroundWriter(), 0, 0
    release = threading.Event()

    def write() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        release.wait(10)
        running -= 1

    writer.start(write)
    assert writer.busy
    threading.Timer(0.05, release.set).start()
    began = time.monotonic()
    writer.start(write)
    assert time.monotonic() - began >= 0.04 and most == 1
    writer.wait()
    assert not writer.busy


def test_an_error_of_a_write_is_raised_once_by_the_next_call() -> None:
    writer = BackgroundWriter()

    def write() -> None:
        raise UnreachableError("the object store does not answer.")

    writer.start(write)
    with pytest.raises(UnreachableError):
        writer.start(lambda: None)
    writer.wait()
    writer.start(write)
    with pytest.raises(UnreachableError):
        writer.wait()
    writer.wait()


def test_when_a_checkpoint_is_written_is_in_no_key() -> None:
    modules = closure("components.finetune_encoder.run")
    assert "components.finetune_encoder.training.checkpointing" in modules
    assert not {"mistere.artifacts.checkpoint_writing", "mistere.artifacts.checkpoints"} & set(modules)
    assert "checkpoint_seconds" not in TextConfig().keyed()


def test_checkpoints_between_epochs_are_bounded_by_cost_and_size() -> None:
    schedule = CheckpointSchedule.bounded()
    assert schedule.interval == 0  # the cost is not known yet
    schedule.measured(3.0, size=730_000_000)
    assert schedule.interval == pytest.approx(150)  # 2 %
    schedule.measured(0.2, size=730_000_000)  # into the operating system's buffers
    assert schedule.interval == pytest.approx(73)
    schedule.measured(0.01, size=20_000)
    assert schedule.interval == pytest.approx(0.5)
