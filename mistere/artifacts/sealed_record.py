"""Records in the object store that carry a checksum of their own fields, so that any damaged byte is detected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.manifest import canonical_digest
from mistere.common.parsing.documents import ParseError, load_json

AFFECTS_RESULTS = False
"""A damaged record is refused or computed again; an intact one is read as it was written."""

CHECKSUM = "checksum"
"""The field with the digest of the other fields."""


def seal(content: Mapping[str, Any]) -> bytes:
    """A JSON object with its checksum. Half surrogate pairs, as in file names that are no UTF-8, become question marks."""
    stored = load_json(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    return json.dumps({CHECKSUM: canonical_digest(stored), **stored}, indent=1, ensure_ascii=False).encode()


def unseal(data: bytes | str) -> dict[str, Any] | None:
    """The JSON object without its checksum; None if it is damaged. An object without a checksum is not verified."""
    try:
        content = load_json(data)
        checksum = content.pop(CHECKSUM, "")
        return content if checksum in ("", canonical_digest(content)) else None
    except (ParseError, AttributeError, TypeError):  # no JSON, or no object
        return None


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
        return seal(self.model_dump(mode="json", exclude={CHECKSUM}))

    @classmethod
    def unsealed(cls, data: bytes | str) -> Self | None:
        """The record of some bytes; None if they are damaged."""
        content = unseal(data)
        try:
            return None if content is None else cls.model_validate(content)
        except ValidationError:  # other fields
            return None
