"""``open_teacher``: check that the dataset suits the teacher, and publish the teacher's encoders and mixture as steps take them.

It is not cached: it copies files, and its encoders are no outputs that the engine would verify.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import ArtifactHandle, open_artifact, publish, read_manifest
from mistere.artifacts.manifests import EncoderCheckpoint, ModelBundle, MoEModel, UtteranceSet
from mistere.artifacts.object_store import MissingObjectError, open_store
from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import load_json
from mistere.config.distillation import DistillationConfig
from mistere.engine.execution import write_reference
from mistere.engine.stage import Result, Stage, Step

STAGE: Final = Stage(
    name="open_teacher",
    config=DistillationConfig,
    inputs={"utterances": UtteranceSet},
    outputs={"model": MoEModel},
    imports=("torch",),
    cached=False,
)


def run(
    config: DistillationConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    model: Path,
    teacher_digest: str,
) -> Result:
    """Check the dataset and take the teacher apart.

    Args:
        config: the ``distillation`` section.
        step: this execution.
        utterances: the dataset.
        model: folder of the teacher's mixture.
        teacher_digest: the teacher's bundle.

    Raises:
        DataError: the dataset has other labels than the teacher, another test split, or none of its modalities.
    """
    from components.open_teacher.checks import check_data, check_test_split
    from components.open_teacher.parts import mixture_of, publish_encoder

    teacher = open_artifact(step.store, ModelBundle, teacher_digest)
    check_data(utterances.manifest, teacher.manifest)
    known, digest = None, teacher.manifest.inputs.get("utterances", "")
    try:
        known = read_manifest(step.store, UtteranceSet, digest) if digest else None
    except (ArtifactError, MissingObjectError):
        known = None
    check_test_split(utterances.manifest, teacher.manifest, known)
    encoders = {name: publish_encoder(step.store, teacher, name, model).digest for name in teacher.manifest.encoders}
    manifest = mixture_of(teacher, model)
    return Result(manifests={"model": manifest}, values={"encoders": json.dumps(encoders)})


def write_encoders(run: Mapping[str, Any], encoders: str, paths: Mapping[str, str]) -> None:
    """Write the references to the teacher's encoders where later tasks read them.

    Args:
        run: the run's context.
        encoders: JSON with the digest of each encoder, by modality.
        paths: a folder for each modality of the pipeline; a modality that the teacher lacks gets an absent encoder.
    """
    store, digests = open_store(str(run["store"])), load_json(encoders)
    for modality, path in paths.items():
        if modality in digests:
            manifest = read_manifest(store, EncoderCheckpoint, digests[modality])
        else:
            with tempfile.TemporaryDirectory() as empty:
                manifest = publish(store, EncoderCheckpoint(modality=modality, absent=True), Path(empty))
        write_reference(manifest, Path(path))
