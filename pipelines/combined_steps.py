"""Two stages in one pod, for steps that follow each other without need for a pod of their own.

On Kubeflow Pipelines a step costs two pods, one for its driver and one for itself: about 20 s, however little it does. The stages
stay what they are: each has its own key, its own record under the run's id and its own reports.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from components.deploy_model.run import STAGE as DEPLOY
from components.embed_shard.run import STAGE as EMBED
from components.extract_embeddings.run import STAGE as EXTRACT
from components.register_model.run import STAGE as REGISTER
from mistere.artifacts.io import MANIFEST, read_manifest
from mistere.artifacts.manifests import EncoderCheckpoint, MoEModel
from mistere.artifacts.object_store import ObjectStore, open_store
from mistere.engine.execution import Paths, execute, write_reference
from mistere.engine.stage import TaskShard
from mistere.kubernetes.secret_keys import use_storage_variables

RELEASED: Final = {
    "utterances": ("validate_data", "accepted"),
    "profile": ("validate_data", "profile"),
    "model": ("train_moe", "model"),
    "report": ("evaluate_model", "report"),
    "verdict": ("gate_model", "verdict"),
}
"""The inputs of ``register_model`` but its encoders: which task's which output, as :mod:`pipelines.retraining` connects them."""
TRANSCRIBED: Final = ("transcribe", "transcribed")
"""The utterances instead, where they were transcribed."""
ENCODER: Final = ("finetune_encoder", "encoder")
"""Stage and output of the encoder of each modality."""


def embed(
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    modality: str,
    utterances: str,
    encoder: str,
    embeddings: str,
    *,
    student: bool = False,
) -> None:
    """Run ``embed_shard`` and ``extract_embeddings``.

    Args:
        run: the run's context.
        config: the modality's section; empty for the settings of the encoder itself, which a distillation has no section for.
        modality: the modality.
        utterances: folder with the dataset's manifest.
        encoder: folder with the encoder's manifest.
        embeddings: folder for the manifest of the embeddings.
        student: whether the encoder is the student's of a distillation.
    """
    if not config:
        made = EncoderCheckpoint.model_validate_json((Path(encoder) / MANIFEST).read_text(encoding="utf-8"))
        config = {"undecodable": made.encoder.settings.get("undecodable", "fail")}
    with tempfile.TemporaryDirectory() as vectors:
        execute(
            EMBED,
            run,
            config,
            inputs={"utterances": utterances, "encoder": encoder},
            outputs={"vectors": vectors},
            modality=modality,
            shard=TaskShard(0, 1),
            student=student,
        )
        execute(
            EXTRACT,
            run,
            {},
            inputs={"utterances": utterances, "shards": [vectors]},
            outputs={"embeddings": embeddings},
            modality=modality,
            pod_of=EMBED.name,
            student=student,
        )


def release(
    run: Mapping[str, Any],
    registry: Mapping[str, Any],
    deployment: Mapping[str, Any],
    champion_digest: str,
    finished: Mapping[str, Mapping[str, str]],
) -> None:
    """Run ``register_model`` and, unless a person decides, ``deploy_model`` on artifacts of the store.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
        deployment: the ``deployment`` section.
        champion_digest: digest of the champion that the release gate compared with, or ``none``.
        finished: digests of the finished artifacts, by task and output.
    """
    use_storage_variables()
    store = open_store(str(run["store"]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = {**RELEASED, **({"utterances": TRANSCRIBED} if TRANSCRIBED[0] in finished else {})}
        for name, (task, output) in sources.items():
            write_reference(read_manifest(store, REGISTER.inputs[name], finished[task][output]), folder / name)
        inputs: dict[str, Paths] = {name: str(folder / name) for name in RELEASED}
        stage, output = ENCODER
        encoders: dict[str, str] = {}
        for modality in _modalities(store, finished):
            task = f"{stage}-{modality}"
            encoders[modality] = str(folder / task)
            write_reference(read_manifest(store, REGISTER.inputs["encoders"], finished[task][output]), folder / task)
        inputs["encoders"] = encoders
        values = execute(
            REGISTER, run, registry, inputs=inputs, outputs={"bundle": str(folder / "bundle")}, pod_of=DEPLOY.name
        )
        if values["next"] == "release":
            execute(
                DEPLOY,
                run,
                deployment,
                inputs={"report": inputs["report"], "bundle": str(folder / "bundle")},
                external_inputs={"model_version": values["model_version"], "champion_digest": champion_digest},
            )


def _modalities(store: ObjectStore, finished: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The modalities with an encoder, in the order in which the model was trained on them.

    Kubeflow Pipelines does not keep the order of a mapping, and a bundle with its encoders in another order would be another version.

    Args:
        store: the object store.
        finished: digests of the finished artifacts, by task and output.
    """
    task, output = RELEASED["model"]
    order = list(read_manifest(store, MoEModel, finished[task][output]).encoders)
    stage, _ = ENCODER
    found = [name for of, _, name in (task.partition("-") for task in sorted(finished)) if of == stage]
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))
