"""Records in the object store that carry a checksum of their own fields, so that any damaged byte is detected."""

from __future__ import annotations

import json
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.manifests import canonical_digest
from mistere.common.parsing.documents import ParseError, load_json

AFFECTS_RESULTS = False
"""A damaged record is refused or computed again; an intact one is read as it was written."""


class SealedRecord(BaseModel):
    """A JSON object with a checksum.

    Attributes:
        checksum: digest of the other fields, in the object in the store only; without it, as in records of earlier versions, the
            object is not verified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    checksum: str = ""

    def sealed(self) -> bytes:
        """The record as JSON with its checksum."""
        content = self.model_dump(mode="json", exclude={"checksum"})
        return json.dumps({"checksum": canonical_digest(content), **content}, indent=1, ensure_ascii=False).encode()

    @classmethod
    def unsealed(cls, data: bytes | str) -> Self | None:
        """The record of some bytes; None if they are damaged."""
        try:
            content = load_json(data)
            checksum = content.pop("checksum", "")
            if checksum not in ("", canonical_digest(content)):
                return None
            return cls.model_validate(content)
        except (ParseError, ValidationError, AttributeError, TypeError):  # no JSON, other fields, no object
            return None
