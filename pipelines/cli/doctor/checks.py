"""All checks, in the order in which a run meets what they look at."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.cli.doctor.groups import (
    clock,
    cluster,
    credentials,
    dataset,
    images,
    kubeflow,
    nodes,
    serving,
    storage,
    tracking,
)
from pipelines.cli.doctor.groups import local_machine as here
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import CheckResult, examine


def examination(plan: Plan) -> Iterator[tuple[str, Iterator[tuple[str, CheckResult]]]]:
    """Every subject with its findings, made as they are asked for."""
    for subject in (
        here.subject(plan),
        dataset.subject(plan),
        storage.subject(plan),
        tracking.subject(plan),
        kubeflow.subject(plan),
    ):
        yield subject.name, examine(subject)
    asked = cluster.Cluster(plan)
    door = cluster.subject(asked)
    findings = list(examine(door))
    yield door.name, iter(findings)
    if findings[0][1].status == "ok":
        for module in (credentials, serving, nodes, images):
            subject = module.subject(asked)
            yield subject.name, examine(subject)
    last = clock.subject(plan.clock)
    yield last.name, examine(last)
