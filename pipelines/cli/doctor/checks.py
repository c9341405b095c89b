"""All groups of checks, in the order in which a run needs what they check."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.catalogue import DISTILLATION, RETRAINING
from pipelines.cli.doctor.groups import (
    clock,
    cluster,
    credentials,
    dataset,
    encoders,
    images,
    kubeflow,
    local_machine,
    network,
    nodes,
    run_settings,
    serving,
    storage,
    teacher,
    tracking,
    workflows,
)
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import CheckResult, run_group


def run_checks(plan: Plan) -> Iterator[tuple[str, Iterator[tuple[str, CheckResult]]]]:
    """Yield the name of each group and its results; the checks run while the results are consumed."""
    reads_data = plan.pipeline.follows_data  # of the profile
    first = (local_machine, *((dataset,) if reads_data else ()), *((encoders,) if plan.pipeline is RETRAINING else ()))
    of_teacher = (teacher,) if plan.pipeline is DISTILLATION else ()
    for module in (*first, storage, *of_teacher, tracking, kubeflow):
        group = module.group(plan)
        yield group.name, run_group(group)
    connection = cluster.Cluster(plan)
    group = cluster.group(connection)
    results = list(run_group(group))
    yield group.name, iter(results)
    if results[0][1].status == "ok":
        for on_cluster in (credentials, run_settings, workflows, network, serving, nodes, images):
            group = on_cluster.group(connection)
            yield group.name, run_group(group)
    group = clock.group(plan.clock)
    yield group.name, run_group(group)
