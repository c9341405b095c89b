"""The modalities of a run: which there are, and what their names may be.

A run has a section of the configuration for each modality. A profile that names none has :data:`DEFAULT_MODALITIES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

AFFECTS_RESULTS = False

DEFAULT_MODALITIES: Final = ("speech", "text")
"""The modalities of a run whose profile names none."""
COMMON_SECTIONS: Final = ("data", "validation", "mixture", "evaluation", "gate", "registry", "deployment")
"""The sections that are parameters of every pipeline; the others are those of its modalities."""
_BEFORE_MODALITIES: Final = 2
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN: Final = frozenset(
    {
        *COMMON_SECTIONS,
        *(
            "seed",
            "cluster",
            "scoring",
            "monitoring",
            "distillation",
            "modalities",
            "run",
            "job",
            "compiled",
            "cross_modal",
            "none",
        ),
        *("dialogue_id", "turn", "label", "speaker", "split", "role", "language", "path"),  # columns of a dataset
        *("audio", "audio_uri", "audio_digest", "predict"),  # tensors of the endpoint
    }
)
_TAKEN_ENDINGS: Final = ("_embedding", "_uri", "_digest", "_encoder", "_vectors", "_shards", "_section")


def name_problem(name: Any) -> str:
    """Why a modality may not have this name, as a clause; empty if it may."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "is no name of at most 32 lower-case letters, digits and underscores that begins with a letter"
    if name in _TAKEN or name.endswith(_TAKEN_ENDINGS):
        return "has another meaning here"
    return ""


def sections_with(modalities: Iterable[str]) -> tuple[str, ...]:
    """The names of all sections that are parameters of a pipeline with these modalities."""
    return (*COMMON_SECTIONS[:_BEFORE_MODALITIES], *modalities, *COMMON_SECTIONS[_BEFORE_MODALITIES:])


def modalities_of(sections: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """The modalities of a run by the names of its sections, in their order; the default ones if there is none."""
    found = tuple(name for name in sections if not name_problem(name))
    return found or DEFAULT_MODALITIES
