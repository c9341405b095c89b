"""``deploy_model``: serve the bundle, compare its answer with the offline evaluation, then release it.

Nothing changes until the smoke test has passed. Then the deployment, the champion and the registry's aliases move together or not
at all (:mod:`mistere.registry.release.atomic_release`). Locally a deployment is a pointer that ``mistere serve`` follows; on a cluster the pointer
states what the InferenceService serves (:mod:`mistere.serving.kserve.rollout`).
"""

from __future__ import annotations

import time
from functools import partial

import yaml

from mistere.artifacts.io import ArtifactHandle, artifact_key
from mistere.artifacts.manifests import EvaluationReport, ModelBundle
from mistere.artifacts.signing import verify_bundle
from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.config.deployment import DeploymentConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.kubernetes.api import connect
from mistere.kubernetes.images import image
from mistere.registry.mlflow.model_registry import mirror_champion
from mistere.registry.release.atomic_release import release
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.model_inputs import require_inputs_of_deployed
from mistere.registry.release.promotion_log import PromotionEvent, add, now
from mistere.registry.release.recovery import is_released, recover, recover_patiently
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.bundle_needs import bundle_needs
from mistere.serving.kserve.cluster_release import Rolling, on_cluster
from mistere.serving.kserve.inference_service import inference_service
from mistere.serving.kserve.rollout import ClusterDeployment
from mistere.serving.kserve.supported_settings import check_support

STAGE = Stage(
    name="deploy_model",
    config=DeploymentConfig,
    inputs={"report": EvaluationReport, "bundle": ModelBundle},
    cached=False,
)


def run(
    config: DeploymentConfig,
    step: Step,
    report: ArtifactHandle[EvaluationReport],
    bundle: ArtifactHandle[ModelBundle],
    model_version: str,
    champion_digest: str,
) -> Result:
    """Deploy, test, release.

    Args:
        config: the ``deployment`` section.
        step: the running step.
        report: the offline evaluation.
        bundle: the candidate.
        model_version: version of the candidate in the registry.
        champion_digest: digest of the champion that the release gate compared with, or ``none``.

    Raises:
        UsageError: the mode does not support a setting, the section's pods cannot hold the bundle, or the bundle reads other inputs than the
            deployed one.
        ArtifactError: a key is configured, and the bundle or the predictor's image is not signed by it.
        MistereError: the smoke test failed, or another release moved the champion meanwhile; the champion is unchanged.
    """
    manifest = bundle.manifest
    location = step.store.location(artifact_key(ModelBundle.__name__, manifest.digest))
    check_support(config, step.store.uri)
    verify_bundle(step.store, bundle, config.bundle_key)
    deployment = Deployment(
        service=config.service, bundle_location=location, bundle_digest=manifest.digest, model_version=model_version
    )
    cluster, predictor = None, image("predictor")
    if config.mode != "local":
        deployment = on_cluster(deployment, config, predictor, bundle_needs(step.store, manifest))
        predictor = deployment.image
        cluster = ClusterDeployment(connect(), deployment, step.progress)
    values = {
        "deployed": "true",
        "bundle": location,
        "champion": manifest.digest,
        "mlflow": redact_url(step.run.tracking_uri),
    }
    mirror = partial(mirror_champion, step.run.tracking_uri)
    settle = recover if cluster is None else recover_patiently
    if recovered := settle(step.store, mirror, config.service):
        step.progress.note(recovered)
    seen = read_champion(step.store)
    if seen.digest == manifest.digest and is_released(step.store, deployment):
        address = cluster.serves() if cluster else None
        if address is None or address:
            message = "This bundle is the champion already and stays deployed."
            return Result(values={**values, "endpoint": address or "", "message": message})
    if not config.other_inputs:
        remedy = "let clients send what it reads, and run again with deployment.other_inputs=true, or choose another deployment.service"
        require_inputs_of_deployed(step.store, config.service, manifest, model_version, remedy, may_read_less=True)
    by, reason = f"run {step.run.run_id}", "The gate promoted it and the smoke test passed."
    if seen.digest not in (champion_digest, manifest.digest):
        add(
            step.store,
            PromotionEvent(
                at=now(),
                action="deploy",
                outcome="lost",
                before=seen.digest,
                after=manifest.digest,
                version=model_version,
                reason="Another release moved the champion after the gate had compared with the one before.",
                by=by,
            ),
        )
        raise MistereError(
            "the champion changed after the gate compared with it: run again to compare with the new one."
        )
    service = inference_service(location, manifest.digest, config.with_amounts(deployment.amounts), predictor)
    step.store.write(
        f"runs/{step.run.run_id}/reports/inference_service.yaml", yaml.safe_dump(service, sort_keys=False).encode()
    )
    champion = Champion(
        bundle_digest=manifest.digest,
        evaluation_digest=report.manifest.digest,
        model_name=manifest.name,
        model_version=model_version,
        run_id=step.run.run_id,
        moved_at=time.time(),
    )
    if cluster is None:
        message = _check_locally(config, step, bundle, location)
        release(step.store, mirror, seen, champion, deployment, "deploy", reason, by)
        return Result(values={**values, "message": message})
    rolling = Rolling(cluster, bundle)
    release(step.store, mirror, seen, champion, deployment, "deploy", reason, by, rolling)
    return Result(values={**values, "endpoint": rolling.address, "message": rolling.message})


def _check_locally(config: DeploymentConfig, step: Step, bundle: ArtifactHandle[ModelBundle], location: str) -> str:
    with step.loading():
        import kserve.protocol.infer_type  # noqa: F401  (the gRPC client's messages)

        from components.deploy_model.endpoint_check import check_endpoint

    return check_endpoint(config, bundle, location, step.progress)
