"""What the manifests of all artifacts share, stored as ``manifest.json``.

The stage fills in the fields that readers need. The engine (:mod:`mistere.engine.execution`) adds what made the artifact, the
digests of its inputs and files, and the artifact's own digest. That digest covers the content alone (kind, version, fields,
files), so equal content has the same address, and a step that is rerun with an equal result causes no further reruns.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mistere.artifacts.identities import RunIdentity, gather_fields
from mistere.artifacts.usage import Usage
from mistere.common.names import Segment, problem, shown


class FileEntry(BaseModel):
    """One file of an artifact."""

    sha256: str
    size: int


class MadeBy(BaseModel):
    """What made an artifact."""

    stage: str
    key: str
    code: str = Field(description="Digest of the stage's code and of the lock file.")
    run: RunIdentity = RunIdentity()
    config: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, description="Time of the stage's own work, without start-up and imports.")
    device: str = Field(default="", description="The GPU's name, or ``cpu``.")
    usage: Usage = Usage()

    @model_validator(mode="before")
    @classmethod
    def _read_flat_fields(cls, values: Any) -> Any:
        return gather_fields(values, "run", {"commit": "commit", "dirty": "dirty"})


class Manifest(BaseModel):
    """Base of every artifact's manifest."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    outside_digest: ClassVar[frozenset[str]] = frozenset({"digest", "made_by", "inputs"})
    foreign_files: ClassVar[frozenset[str]] = frozenset()
    """Files that another program may have written into the artifact's folder. No reader opens them."""

    kind: str = ""
    schema_version: int = 1
    digest: Segment = ""
    made_by: MadeBy | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    files: dict[str, FileEntry] = Field(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        self.kind = type(self).__name__

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if reason := problem(name):
                raise ValueError(f"{shown(name)} is not a file inside the artifact: it {reason}")
        return files

    def refers_to(self) -> list[tuple[str, str]]:
        """Kind and digest of other artifacts that this one needs."""
        return []

    def content_digest(self) -> str:
        """SHA-256 over everything except what made the artifact and where it is stored."""
        content = self.model_dump(mode="json", exclude=set(self.outside_digest))
        return canonical_digest(content)


def canonical_digest(value: Any) -> str:
    """SHA-256 of a JSON value in a canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
