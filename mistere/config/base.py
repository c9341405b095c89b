"""What every section of the configuration is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from mistere.common.urls import has_credentials

OBJECT_NAME: Final = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
"""What Kubernetes takes as an object's name."""
_QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"


def _as_text(value: Any) -> Any:
    """YAML parses ``2`` as a number, which Kubernetes takes as a quantity too; bool is an int in Python, but no quantity."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=_QUANTITY)]
"""What Kubernetes takes as an amount of a resource, as text; a number is converted."""
OptionalQuantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^$|" + _QUANTITY)]
"""The same; empty for none."""
AUTO: Final = "auto"
AutomaticQuantity = Annotated[str, BeforeValidator(_as_text), Field(pattern=rf"^{AUTO}$|" + _QUANTITY)]
"""The same; ``auto`` for one that follows from something else."""


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in (*value.keys(), *value.values()) for text in _texts(item))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (text for item in value for text in _texts(item))


class Section(BaseModel):
    """Base of every section: unknown keys and credentials are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    outside_key: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide how or where work is done, not what comes out: they are no part of a step's key."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_text(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML parses an empty value as null; for a setting that is always text, it is the empty text."""
        empty = value is None and info.field_name is not None and cls.model_fields[info.field_name].annotation is str
        return "" if empty else value

    @field_validator("*", mode="after")
    @classmethod
    def _no_credentials(cls, value: Any) -> Any:
        """Refuse URLs with credentials: settings are pipeline parameters, and are recorded with every run and model."""
        if any(has_credentials(text) for text in _texts(value)):
            raise ValueError(
                "contains credentials, which every record of a run would show: remove them, and put them into the environment "
                "or a Secret"
            )
        return value

    def keyed(self) -> dict[str, Any]:
        """What belongs to the key of a step that is handed this section."""
        return self.model_dump(mode="json", exclude=set(self.outside_key))


class SeededSection(Section):
    """A section whose stage draws random numbers.

    Attributes:
        seed: seed of the stage's random numbers; by default the configuration's ``seed``.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)


class Toleration(Section):
    """A toleration of a pod, as in Kubernetes.

    Attributes:
        key: key of the taint; empty for all, with ``Exists``.
        operator: ``Equal`` compares the value, ``Exists`` ignores it.
        value: value of the taint.
        effect: effect of the taint; empty for all.
    """

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
