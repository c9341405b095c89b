"""The lineage of a registered model: everything that is needed to reproduce it.

The store holds an object per bundle, ``lineage/<bundle digest>.json``. Several runs may produce the same bundle: the record is that
of the first of them, or of the first one with committed code.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, model_validator

from mistere.artifacts.identities import (
    RUN_FIELDS,
    DatasetIdentity,
    EncoderIdentity,
    RunIdentity,
    gather_encoders,
    gather_fields,
)
from mistere.artifacts.locations import recorded_location, resolved_location
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ModelBundle, MoEModel
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError
from mistere.common.names import OneLine, Segment
from mistere.common.paths import LOCK_FILE
from mistere.registry.release.champion import Champion


class Environment(BaseModel):
    """Where a model was trained; it determines the last digits of the metrics."""

    python: str = ""
    torch: str = ""
    processor: str = ""
    cores: int = 0
    device: str = Field(default="", description="The GPU's name, or ``cpu``.")
    lock: str = Field(default="", description="Digest of the lock file.")


class TeacherVersion(BaseModel):
    """The model that a student learnt from."""

    bundle_digest: Segment
    model_version: str = Field(default="", description="Its version in the registry; empty if it has none there.")

    def __str__(self) -> str:
        return f"version {self.model_version}" if self.model_version else f"bundle {self.bundle_digest[:12]}"


class Lineage(SealedRecord):
    """The inputs of a model version: data, code, configuration, encoders and environment."""

    model_name: str
    model_version: str = ""
    run: RunIdentity
    bundle_digest: Segment
    bundle_location: OneLine
    evaluation_digest: Segment
    test_digest: str
    verdict: str
    dataset: str
    dvc_digest: Segment
    data_remote: OneLine
    data_endpoint: OneLine = Field(default="", description="S3 endpoint of the remote, if it names one.")
    embeddings: OneLine = Field(
        default="", description="Where the vectors were, if the model was trained on those by ``mistere train``."
    )
    teacher: TeacherVersion | None = Field(default=None, description="Of a student: the version that it learnt from.")
    image: str = ""
    config: dict[str, Any] = Field(default_factory=dict, description="The complete configuration; empty if unknown.")
    encoders: dict[str, EncoderIdentity] = Field(default_factory=dict, description="By modality.")
    artifacts: dict[str, str] = Field(default_factory=dict, description="Digest of each artifact of the run.")
    environment: Environment = Environment()

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_encoders(gather_fields(values, "run", RUN_FIELDS))

    @classmethod
    def of(
        cls,
        bundle: ModelBundle,
        location: str,
        run: RunIdentity,
        dataset: DatasetIdentity,
        model: MoEModel,
        report: EvaluationReport,
        verdict: GateVerdict,
        artifacts: Mapping[str, str],
        config: Mapping[str, Any],
        **further: Any,
    ) -> Lineage:
        """The lineage of a bundle that this process publishes.

        Args:
            bundle: the published bundle.
            location: where it is.
            run: what made it.
            dataset: the data that it was made from.
            model: its mixture, whose digest is recorded with the artifacts.
            report: its evaluation.
            verdict: the gate's.
            artifacts: digests of further artifacts, by what they are.
            config: the configuration, as far as it is known.
            further: other fields, by name.
        """
        environment = this_environment().model_copy(update={"device": model.made_by.device if model.made_by else ""})
        return cls(
            model_name=bundle.name,
            run=run,
            bundle_digest=bundle.digest,
            bundle_location=location,
            evaluation_digest=report.digest,
            test_digest=report.test_digest,
            verdict=verdict.verdict,
            dataset=dataset.name,
            dvc_digest=dataset.dvc_digest,
            data_remote=dataset.remote,
            config=dict(config),
            encoders=model.encoders,
            artifacts={**artifacts, "mixture": model.digest},
            environment=environment,
            **further,
        )

    @property
    def reproducible(self) -> bool:
        """Whether the code was committed."""
        return bool(self.run.commit) and not self.run.dirty

    def as_champion(self, moved_at: float) -> Champion:
        """The champion pointer that releases this model."""
        return Champion(
            bundle_digest=self.bundle_digest,
            evaluation_digest=self.evaluation_digest,
            model_name=self.model_name,
            model_version=self.model_version,
            run_id=self.run.run_id,
            moved_at=moved_at,
        )


_LOCATIONS = ("bundle_location", "data_remote")
"""Fields that are recorded relative to the store if they are in it or beside it."""


def lineage_key(bundle_digest: str) -> str:
    """The key of a bundle's lineage in the store."""
    return f"lineage/{bundle_digest}.json"


def write_lineage(store: ObjectStore, lineage: Lineage) -> Lineage:
    """Write a lineage and return what is recorded.

    The stored one of the same bundle stays, if it is complete and as reproducible: a rerun that finds everything finished did not
    make the bundle. Only the locations, the version and the verdict are updated.
    """
    try:
        stored = read_lineage(store, lineage.bundle_digest)
    except ArtifactError:
        stored = None
    if stored is not None and (stored.reproducible, bool(stored.config)) >= (
        lineage.reproducible,
        bool(lineage.config),
    ):
        version = lineage.model_version or stored.model_version
        kept = {name: getattr(lineage, name) for name in (*_LOCATIONS, "data_endpoint", "verdict", "teacher")} | {
            "model_version": version
        }
        lineage = stored.model_copy(update=kept)
        if lineage == stored:
            return stored
    recorded = lineage.model_copy(
        update={name: recorded_location(store, getattr(lineage, name)) for name in _LOCATIONS}
    )
    store.write(lineage_key(lineage.bundle_digest), recorded.sealed())
    return lineage


def read_lineage(store: ObjectStore, bundle_digest: str) -> Lineage:
    """The lineage of a bundle.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    key = lineage_key(bundle_digest)
    try:
        lineage = Lineage.unsealed(store.read(key)[0])
    except MissingObjectError as error:
        raise ArtifactError(
            f"bundle {bundle_digest[:12]} has no lineage ({store.location(key)}): register it by a run first."
        ) from error
    if lineage is None or lineage.bundle_digest != bundle_digest:
        raise ArtifactError(
            f"{store.location(key)} is damaged: it holds no valid lineage of bundle {bundle_digest[:12]}",
            "restore it from a copy of the store, or delete it and register the bundle again by a run",
        )
    return lineage.model_copy(update={name: resolved_location(store, getattr(lineage, name)) for name in _LOCATIONS})


def this_environment() -> Environment:
    """The environment of this process."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return Environment(
        python=platform.python_version(),
        torch=torch,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        lock=lock_digest(),
    )


def lock_digest() -> str:
    """SHA-256 of the lock file; empty if there is none."""
    return hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest() if LOCK_FILE.is_file() else ""


def _processor() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()
