"""Records in the object store that carry a checksum of their own fields, so that any damaged byte is detected."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.manifests import canonical_digest


class SealedRecord(BaseModel):
    """A JSON object with a checksum.

    Attributes:
        checksum: digest of the other fields; empty in records of earlier versions, which are not verified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    checksum: str = ""

    def sealed(self) -> bytes:
        """The record as JSON with its checksum."""
        return self.model_copy(update={"checksum": self._digest()}).model_dump_json(indent=1).encode()

    @classmethod
    def unsealed(cls, data: bytes) -> Self | None:
        """The record of some bytes; None if they are damaged."""
        try:
            record = cls.model_validate_json(data)
        except ValidationError:
            return None
        return record if record.checksum in ("", record._digest()) else None

    def _digest(self) -> str:
        return canonical_digest(self.model_dump(mode="json", exclude={"checksum"}))
