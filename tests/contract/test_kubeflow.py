"""What the client of Kubeflow Pipelines relies on, of the stand-in or of a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from pipelines.kubeflow.connection.failures import PipelinesError
from tests.contract.conftest import PipelinesServer

Packages = Callable[[str], str]


def test_a_version_is_found_by_its_name_and_uploaded_once(kfp_server: PipelinesServer, packages: Packages) -> None:
    name = f"v-{uuid.uuid4().hex[:8]}"
    pipeline_id, version_id = kfp_server.upload(packages("works"), name)
    version = kfp_server.pipelines.version(pipeline_id, name)
    assert version is not None and version.pipeline_version_id == version_id
    assert kfp_server.upload(packages("works"), name) == (pipeline_id, version_id)


def test_a_file_that_is_no_pipeline_is_refused_with_400_and_no_reason(kfp_server: PipelinesServer) -> None:
    with pytest.raises(PipelinesError) as refusal:
        kfp_server.upload("a: b\n")
    assert refusal.value.status == 400


def test_a_missing_parameter_is_refused_by_name(kfp_server: PipelinesServer, packages: Packages) -> None:
    with pytest.raises(PipelinesError, match="parameter settings is not optional") as refusal:
        kfp_server.start(packages("needs"))
    assert refusal.value.status == 400


@pytest.mark.parametrize("parameters", [{"settings": "text"}, {"settings": {}, "count": "one"}])
def test_a_parameter_of_another_type_is_refused(
    kfp_server: PipelinesServer, packages: Packages, parameters: dict[str, object]
) -> None:
    with pytest.raises(PipelinesError, match="requires type") as refusal:
        kfp_server.start(packages("needs"), parameters)
    assert refusal.value.status == 400


def test_a_stopped_run_is_canceling_and_then_failed(kfp_server: PipelinesServer, packages: Packages) -> None:
    run_id = kfp_server.start(packages("sleeps"))
    kfp_server.wait(run_id, {"RUNNING"})
    kfp_server.pipelines.stop(run_id)
    states = kfp_server.wait(run_id, {"FAILED", "CANCELED", "SUCCEEDED"})
    assert states[-2:] == ["CANCELING", "FAILED"]


def test_a_failed_step_has_no_reason_in_the_api(kfp_server: PipelinesServer, packages: Packages) -> None:
    run_id = kfp_server.start(packages("fails"))
    kfp_server.wait(run_id, {"FAILED"})
    details = kfp_server.pipelines.run(run_id).run_details
    assert all(detail.error is None or not detail.error.message for detail in details.task_details or [])


def test_a_run_that_works_succeeds_and_is_found_by_its_name(kfp_server: PipelinesServer, packages: Packages) -> None:
    run_id = kfp_server.start(packages("works"))
    kfp_server.wait(run_id, {"SUCCEEDED"})
    run = kfp_server.pipelines.run(run_id)
    same = kfp_server.pipelines.run_by_name(run.display_name)
    assert same is not None and same.run_id == run_id


def test_a_schedule_has_six_cron_fields_and_is_switched_off_and_on(
    kfp_server: PipelinesServer, packages: Packages
) -> None:
    from kfp_server_api import (
        V2beta1CronSchedule,
        V2beta1PipelineVersionReference,
        V2beta1RecurringRun,
        V2beta1RuntimeConfig,
        V2beta1Trigger,
    )

    pipeline_id, version_id = kfp_server.upload(packages("works"))

    def schedule(cron: str) -> V2beta1RecurringRun:
        return V2beta1RecurringRun(
            display_name=f"contract-{uuid.uuid4().hex[:8]}",
            experiment_id=kfp_server.pipelines.experiment("mistere-contract"),
            pipeline_version_reference=V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            runtime_config=V2beta1RuntimeConfig(parameters={}),
            trigger=V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=cron)),
            max_concurrency="1",
            mode="DISABLE",
        )

    with pytest.raises(PipelinesError):
        kfp_server.pipelines.set_schedule(schedule("not a cron"))
    created = kfp_server.pipelines.set_schedule(schedule("0 0 4 1 1 *"))
    try:
        for enabled, status in ((True, "ENABLED"), (False, "DISABLED")):
            kfp_server.pipelines.switch_schedule(created.recurring_run_id, enabled=enabled)
            listed = {one.recurring_run_id: one.status for one in kfp_server.pipelines.schedules()}
            assert listed[created.recurring_run_id] == status
    finally:
        kfp_server.pipelines.delete_schedule(created.recurring_run_id)
    assert created.recurring_run_id not in {one.recurring_run_id for one in kfp_server.pipelines.schedules()}
