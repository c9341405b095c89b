"""``mistere submit``: pins the data, uploads the pipeline version, starts a run on a cluster and optionally follows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mistere.artifacts.manifest import canonical_digest
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import require_checkout
from mistere.config.loader import Config
from mistere.config.stages import PipelineName
from mistere.data.versions import PinnedData
from mistere.engine.stage import RunContext, new_run_id
from mistere.registry.release.champion import read_champion
from mistere.runs.outcome import has_stages
from mistere.runs.run_info import RunOrigin, write_run_info
from mistere.serving.kserve.supported_settings import stream_limit
from pipelines.bundle_estimate import check_planned_room, hidden_options
from pipelines.catalogue import RETRAINING, SCORING, find_pipeline
from pipelines.cli.drift import drift_guard
from pipelines.cli.output.console import print_text
from pipelines.cli.output.release_notice import release_notice
from pipelines.cli.output.run_display import summary
from pipelines.cli.output.run_follower import follow
from pipelines.cli.output.task_progress import task_progress
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.connection.failures import UnavailableError
from pipelines.kubeflow.connection.page import chosen_ui
from pipelines.kubeflow.connection.target import ClusterTarget, cluster_target, pin_for_cluster
from pipelines.kubeflow.submissions import (
    CLAIM_SECONDS,
    Claim,
    Submission,
    active_submission,
    give_back,
    read_claim,
    take,
)
from pipelines.kubeflow.version import Version, compiled_version, ensure_uploaded, profile_name, releasable_tree
from pipelines.profiles import load_profile, pipeline_arguments
from pipelines.train_image import check_train_image

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineVersion, V2beta1Run


def submit(
    profile: str,
    data: str | None,
    settings: Sequence[str],
    *,
    host: str | None = None,
    store: str | None = None,
    tracking: str | None = None,
    wait: bool = False,
    force: bool = False,
    allow_dirty: bool = False,
    if_changed: bool = False,
    if_drifted: bool = False,
    resubmit: int = 0,
    every: float = 5.0,
    pipeline: str = "retraining",
) -> int:
    """Start a run on a cluster, unless an identical run was submitted before and did not fail.

    Args:
        profile: profile with the base settings.
        data: data version, see :mod:`mistere.data.versions`; None for the profile's.
        settings: ``--set`` on top.
        host: address of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server.
        wait: follow the run, and return the exit code of its outcome.
        force: start a run even if an identical one was submitted before.
        allow_dirty: allow uncommitted changes.
        if_changed: return 0 without following if an identical run was submitted before.
        if_drifted: start a run only if the champion's traffic has drifted, once for each drift, with the reason in its record.
        resubmit: how often a followed run that failed without a reason of a step is started again; finished steps are reused.
        every: seconds between two requests for the state of a followed run.
        pipeline: which pipeline.

    Returns:
        The exit code.
    """
    require_checkout("mistere submit")
    if resubmit and not wait:
        raise UsageError("--resubmit starts a run again that failed, so it needs --wait: add --wait.")
    chosen = find_pipeline(pipeline)
    config = load_profile(profile, settings)
    chosen.check(config)
    chosen.check_settings(settings)
    check_train_image(config)
    if chosen is RETRAINING:
        check_planned_room(config)
        for sentence in filter(None, (hidden_options(config.deployment), stream_limit(config))):
            print_text(sentence)
    target = cluster_target(config.cluster, host, store, tracking)
    tree = releasable_tree(allow_dirty=allow_dirty)
    if chosen is RETRAINING and (notice := release_notice(config.gate, tree.commit, tree.dirty, tree.uncommitted)):
        print_text(notice)
    if chosen is not RETRAINING and if_drifted:
        raise UsageError("--if-drifted retrains, so it needs --pipeline retraining.")
    drift = drift_guard(target.store) if if_drifted else None
    if if_drifted and drift is None:
        return 0
    if chosen is SCORING and data is None:
        raise UsageError("name the archive to score with --data.")
    if not chosen.reads_data and data is not None:
        raise UsageError(f"the pipeline {chosen.name} reads no dataset: leave out --data.")
    source = data if data is not None else config.data.source if chosen.reads_data and chosen.names_data else ""
    pinned = PinnedData("", "")
    if source:
        with task_progress(f"uploading what {target.store.uri} lacks of {source}"):
            pinned = pin_for_cluster(source, target.store)
    version = compiled_version(profile, tuple(settings), tree, chosen.name)
    pipelines = Pipelines(
        target.host,
        config.cluster.namespace,
        ui=chosen_ui(config.cluster.ui),
        kubeflow_namespace=config.cluster.kubeflow_namespace,
    )
    champion = read_champion(target.store).digest if chosen.reads_champion else ""
    digest = _digest(config, profile, pinned, version, champion)
    claim = read_claim(target.store, digest)

    def begin(claim: Claim, run_id: str) -> Submission:
        origin = RunOrigin.of(config, ["mistere", *sys.argv[1:]], source, pinned, drift.reason if drift else "")
        context = RunContext(
            run_id=run_id,
            store=target.store.uri,
            tracking_uri=target.tracking_uri,
            data_remote=pinned.remote,
            data_digest=pinned.digest,
            profile=profile_name(profile),
            commit=tree.commit,
            dirty=tree.dirty,
            uncommitted=tree.uncommitted,
        )
        return _start(pipelines, target, claim, config, context, origin, version)

    active = active_submission(pipelines, target.store, claim) if chosen.reads_data and not force else None
    if active is not None:
        print_text(
            f"nothing changed: {active.version} with data {active.data_digest[:12]} was submitted "
            f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(active.submitted_at))} UTC; --force runs it again."
        )
        if if_changed or drift is not None:
            return 0
        submission = active
    elif drift is None:
        submission = begin(claim, new_run_id())
    else:
        run_id = new_run_id()
        if not drift.claim(run_id, lambda earlier: _exists(pipelines, target, earlier), CLAIM_SECONDS):
            return 0
        try:
            submission = begin(claim, run_id)
        except BaseException:
            kept = read_claim(target.store, digest).submission
            if kept is None or kept.run_id != run_id:  # otherwise the run may have started
                drift.give_back(run_id)
            raise
        drift.confirm(run_id)
    _show(pipelines, submission)
    if not wait:
        return 0
    for left in range(resubmit, -1, -1):
        outcome = follow(pipelines, submission.kfp_run_id, target.store, submission.run_id, every)
        if not (left and outcome.unexplained):
            break
        for reason in outcome.reasons:
            print_text(reason)
        print_text(
            f"run {submission.run_id} failed and no step recorded why: it starts again ({left} of {resubmit} left)"
        )
        submission = begin(read_claim(target.store, digest), new_run_id())
        _show(pipelines, submission)
    summary(outcome, None, pipelines.pages.address(submission.kfp_run_id))
    return outcome.exit_code


def _exists(pipelines: Pipelines, target: ClusterTarget, run_id: str) -> bool:
    """Whether a run was started, also if the server has deleted it since."""
    return pipelines.run_by_name(run_id) is not None or has_stages(target.store, run_id)


def _show(pipelines: Pipelines, submission: Submission) -> None:
    """Print where a run is."""
    print_text(f"run      {submission.run_id} in namespace {submission.namespace}")
    print_text(f"page     {pipelines.pages.address(submission.kfp_run_id)}")
    if pipelines.pages.hint:
        print_text(f"         {pipelines.pages.hint}")


def _digest(config: Config, profile: str, pinned: PinnedData, version: Version, champion: str) -> str:
    """Identity of a submission: commit, compiled pipeline, profile and settings, data, namespace and, to score with, the champion."""
    context = RunContext(run_id="", store="", tracking_uri="", data_remote=pinned.remote, data_digest=pinned.digest)
    return canonical_digest(
        {
            "commit": version.commit,
            "content": version.content,
            "profile": profile_name(profile),
            "namespace": config.cluster.namespace,
            "arguments": pipeline_arguments(config, context, version.pipeline),
            **({"champion": champion} if champion else {}),
        }
    )


def _start(
    pipelines: Pipelines,
    target: ClusterTarget,
    before: Claim,
    config: Config,
    context: RunContext,
    origin: RunOrigin,
    version: Version,
) -> Submission:
    """Claim the submission record, start the run, and complete the record."""
    submission = Submission(
        run_id=context.run_id,
        version=version.name,
        commit=context.commit,
        profile=context.profile,
        data_digest=context.data_digest,
        namespace=config.cluster.namespace,
        submitted_at=time.time(),
    )
    claimed = take(target.store, before, submission)
    try:
        uploaded, new = ensure_uploaded(pipelines, version)
        experiment = pipelines.experiment(config.cluster.experiment)
        print_text(f"version  {uploaded.display_name}, {'uploaded' if new else 'already on the server'}")
        if context.data_digest:
            print_text(f"data     {context.data_digest[:12]} in {context.data_remote}")
        write_run_info(target.store, context, origin)
    except BaseException:
        give_back(target.store, before, claimed)
        raise
    try:
        run = pipelines.start(_run_body(config, context, experiment, uploaded, version.pipeline))
    except MistereError as error:
        if not isinstance(error, UnavailableError) or error.status == 401:
            give_back(target.store, before, claimed)
        raise  # otherwise the run may have started: the next submit looks it up by name
    submission = submission.model_copy(update={"kfp_run_id": run.run_id, "version": uploaded.display_name})
    with suppress(MistereError):  # the run has started; readers of the record can look it up by name
        take(target.store, claimed, submission)
    return submission


def _run_body(
    config: Config, context: RunContext, experiment: str, uploaded: V2beta1PipelineVersion, pipeline: PipelineName
) -> V2beta1Run:
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    return V2beta1Run(
        display_name=context.run_id,
        description=", ".join(
            [
                f"profile {context.profile}",
                *([f"data {context.data_digest}"] if context.data_digest else []),
                f"commit {context.commit or 'unknown'}",
            ]
        ),
        experiment_id=experiment,
        pipeline_version_reference=V2beta1PipelineVersionReference(
            pipeline_id=uploaded.pipeline_id, pipeline_version_id=uploaded.pipeline_version_id
        ),
        runtime_config=V2beta1RuntimeConfig(parameters=pipeline_arguments(config, context, pipeline)),
        service_account=config.cluster.service_account,
    )
