"""Variables of pods: each a text, or a reference to the secret or ConfigMap that holds its value."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from mistere.common.environment import AUTHORITY_VARIABLES
from mistere.config.base import OBJECT_NAME, Section


class EnvironmentReference(Section):
    """Where the value of a variable is kept: a key of a secret, or of a ConfigMap.

    Attributes:
        secret: name of the secret.
        config_map: name of the ConfigMap.
        key: the key.
    """

    secret: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    config_map: str = Field(default="", pattern=r"^$|" + OBJECT_NAME)
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")

    @model_validator(mode="after")
    def _one_object(self) -> EnvironmentReference:
        if bool(self.secret) == bool(self.config_map):
            raise ValueError("name either a secret or a config_map, with the key of the value")
        return self


Variable = Annotated[
    Annotated[str, Tag("text")] | Annotated[EnvironmentReference, Tag("reference")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "reference"),
]
"""A variable's value, or where it is kept; the tag makes an error name the wrong field."""


def _as_texts(env: Any) -> Any:
    """YAML parses ``5`` and ``true`` as values of other types."""
    if not isinstance(env, dict):
        return env
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else value
        for name, value in env.items()
    }


Environment = Annotated[dict[str, Variable], BeforeValidator(_as_texts)]
"""Variables by name."""


def check_authorities(env: dict[str, str | EnvironmentReference]) -> None:
    """Refuse certificate authorities that are no file.

    Raises:
        ValueError: a variable that names their file holds another text than an absolute path.
    """
    for name, value in env.items():
        if name in AUTHORITY_VARIABLES and isinstance(value, str) and not value.startswith("/"):
            raise ValueError(
                f"{name} is the path of a file in the pod: write {{config_map: NAME, key: KEY}}, or an absolute path"
            )
