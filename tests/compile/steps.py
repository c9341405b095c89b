"""The steps of the compiled pipeline and the stages that they run."""

from __future__ import annotations

import re

from mistere.config.stages import stages

COMBINED = {
    "embed_utterances": ("embed_shard", "extract_embeddings"),
    "release_finished": ("register_model", "deploy_model"),
}
"""The steps that run two stages in one pod."""
OPTIONAL = frozenset(name for name, info in stages().items() if info.optional)
"""The stages that are compiled only where a setting asks for them."""
SETTINGS_OF = {"embed_utterances": "embed_shard", "release_finished": "deploy_model"}
"""The stage whose settings the pod of such a step has: the one that needs more."""


def step_of(name: str) -> str:
    """The step of a task or executor, whose second of a kind has the suffix ``-2``."""
    return re.sub(r"-\d+$", "", name.removeprefix("exec-")).replace("-", "_")


def stages_of(step: str) -> tuple[str, ...]:
    """The stages that a step runs."""
    return COMBINED.get(step, (step,))
