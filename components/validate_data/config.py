"""The ``validation`` section: what all expectations share, and the settings of every discovered expectation."""

from __future__ import annotations

from pydantic import field_validator

from components.validate_data.expectations import expectations
from mistere.common.suggestions import did_you_mean
from mistere.config.composition import combine
from mistere.config.validation import Severity, ValidationSettings

_SUMMARY = "Bounds of ``validate_data``. Shares are fractions of the utterances that an expectation applies to."


class _KnownSeverities(ValidationSettings):
    """Rejects severities of unknown expectations."""

    @field_validator("severity")
    @classmethod
    def _known(cls, severity: dict[str, Severity]) -> dict[str, Severity]:
        names = [expectation.name for expectation in expectations()]
        for name in severity:
            if name not in names:
                raise ValueError(f"no expectation is named {name!r}{did_you_mean(name, names)}")
        return severity


ValidationConfig: type[ValidationSettings] = combine(
    "ValidationConfig",
    ValidationSettings,
    {
        "the severities": _KnownSeverities,
        **{f"expectation {expectation.name}": expectation.settings for expectation in expectations()},
    },
    _SUMMARY,
)
