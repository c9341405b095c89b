"""``deploy_model``: serve the bundle, compare its answers with the offline evaluation, and only then move the champion.

Here the service is the predictor itself on a free port, stopped after the test; the deployment that stays is a pointer in
the store, which ``mistere serve`` follows. A journal (pending → deployed → done) tells a rerun where a killed one was.
"""

from __future__ import annotations

import json
import time

import yaml

from components.core.artifact_io import Opened, artifact_key
from components.core.champion import Champion, move_champion, read_champion
from components.core.config.deployment import DeploymentConfig
from components.core.deployment import Deployment, deployment_key, journal_key, read_deployment
from components.core.errors import MistereError
from components.core.images import image
from components.core.manifests import EvaluationReport, ModelBundle, UtteranceSet
from components.core.registry import mirror_champion, shown_uri
from components.core.serving.inference_service import inference_service
from components.core.stage import Result, Stage, Step
from components.core.store import ConflictError

STAGE = Stage(
    name="deploy_model",
    config=DeploymentConfig,
    inputs={"utterances": UtteranceSet, "report": EvaluationReport, "bundle": ModelBundle},
    cached=False,
)


def run(
    config: DeploymentConfig,
    step: Step,
    utterances: Opened[UtteranceSet],
    report: Opened[EvaluationReport],
    bundle: Opened[ModelBundle],
    model_version: str,
    champion_digest: str,
) -> Result:
    """Deploy, test, release.

    Args:
        config: the ``deployment`` section.
        step: this execution.
        utterances: the dataset, for a held-out dialogue.
        report: the offline evaluation.
        bundle: the candidate.
        model_version: its version in the registry.
        champion_digest: the champion that the gate compared with, or ``none``.

    Raises:
        MistereError: the smoke test failed, or somebody moved the champion meanwhile; the champion stays what it was.
    """
    manifest = bundle.manifest
    location = step.store.location(artifact_key(ModelBundle.__name__, manifest.digest))
    deployment = Deployment(
        service=config.service, bundle_location=location, bundle_digest=manifest.digest, model_version=model_version
    )
    values = {
        "deployed": "true",
        "bundle": location,
        "champion": manifest.digest,
        "mlflow": shown_uri(step.run.tracking_uri),
    }
    seen = read_champion(step.store)
    if seen.digest == manifest.digest and _is_deployed(step, config, deployment):
        return Result(values={**values, "message": "This bundle is the champion already and stays deployed."})
    if seen.digest not in (champion_digest, manifest.digest):
        raise MistereError(
            "the champion changed after the gate compared with it: run again to compare with the new one."
        )
    _write_journal(step, config, manifest.digest, "pending")
    service = inference_service(location, manifest.digest, config, image("predictor"))
    step.store.write(
        f"runs/{step.run.run_id}/reports/inference_service.yaml", yaml.safe_dump(service, sort_keys=False).encode()
    )
    answer = _smoke_test(config, step, utterances, report, manifest, location)
    before = _pointer(step, config)
    step.store.write(deployment_key(config.service), deployment.model_dump_json(indent=1).encode())
    _write_journal(step, config, manifest.digest, "deployed")
    champion = Champion(
        bundle_digest=manifest.digest,
        evaluation_digest=report.manifest.digest,
        model_name=manifest.name,
        model_version=model_version,
        run_id=step.run.run_id,
        moved_at=time.time(),
    )
    try:
        move_champion(step.store, seen, champion)
    except ConflictError:
        if before is None:
            step.store.delete_object(deployment_key(config.service))
        else:
            step.store.write(deployment_key(config.service), before)
        raise
    mirror_champion(step.run.tracking_uri, manifest.name, model_version)
    _write_journal(step, config, manifest.digest, "done")
    return Result(values={**values, "message": answer})


def _smoke_test(
    config: DeploymentConfig,
    step: Step,
    utterances: Opened[UtteranceSet],
    report: Opened[EvaluationReport],
    bundle: ModelBundle,
    location: str,
) -> str:
    with step.loading():
        import kserve.protocol.infer_type  # noqa: F401  (the gRPC client's messages)

        from components.deploy_model.smoke_test import smoke_test

    return smoke_test(config, step, utterances.manifest, report, bundle, location)


def _write_journal(step: Step, config: DeploymentConfig, digest: str, state: str) -> None:
    entry = {"state": state, "bundle_digest": digest, "run_id": step.run.run_id}
    step.store.write(journal_key(config.service), json.dumps(entry).encode())


def _pointer(step: Step, config: DeploymentConfig) -> bytes | None:
    key = deployment_key(config.service)
    return step.store.read(key)[0] if step.store.exists(key) else None


def _is_deployed(step: Step, config: DeploymentConfig, deployment: Deployment) -> bool:
    """Whether an earlier run deployed this very bundle to its end; what cannot be read counts as not."""
    try:
        entry = json.loads(step.store.read(journal_key(config.service))[0])
        done = entry["state"] == "done" and entry["bundle_digest"] == deployment.bundle_digest
        return done and read_deployment(step.store, config.service) == deployment
    except (MistereError, ValueError, LookupError, TypeError):
        return False
