"""Finds out whether every cached step of a run is finished already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.object_store import ObjectStore
from mistere.common.digests.code import source_digest
from mistere.config.loader import Config
from mistere.config.stages import stages
from mistere.engine.finished_run import FinishedRun, take_over
from mistere.engine.stage import RunContext, load_stage
from mistere.kubernetes.images import ROLES, image

WORK, RELEASE, NOTHING = "work", "release", "nothing"
"""What is left to do: the steps; only to register and release the finished model; nothing."""
_RELEASED: Final = frozenset({"registry", "deployment"})
"""What no cached step reads: the sections of the release."""


def inputs_digest(config: Config, context: RunContext, values: Mapping[str, str]) -> str:
    """A digest of everything that determines the keys of a run's cached steps; empty if it cannot be known here.

    The images stand for the encoders' weights in them. The weights of a hub's encoder without a revision can change at any time.

    Args:
        config: the complete configuration.
        context: of the run.
        values: data, champion and state of the code, as resolved.
    """
    state = load_stage("finetune_encoder").external_inputs
    sources = {}
    models: dict[str, Any] = dict(config.encoders())
    if config.data.transcription.is_on:
        models["transcription"] = config.data.transcription
    for modality, settings in models.items():
        kind, _, _ = settings.source.partition(":")
        if kind not in {"random", "measured", "package", "s3"} and "@" not in settings.source:
            return ""
        sources[modality] = dict(state(settings, context)) if state and kind == "s3" else {}
    sections = set(config.sections) - _RELEASED
    return canonical_digest(
        {
            "modalities": list(config.modalities),
            "sections": {name: getattr(config, name).keyed() for name in sorted(sections)},
            **({"transcription": config.data.transcription.keyed()} if config.data.transcription.is_on else {}),
            "values": dict(values),
            "sources": sources,
            "images": {role: image(role) for role in ROLES},
            "code": {name: source_digest(f"components.{name}.run") for name in stages() if load_stage(name).cached},
        }
    )


def remaining_work(store: ObjectStore, context: RunContext, digest: str) -> tuple[str, dict[str, Any]]:
    """Reuse all steps of an earlier run with the same inputs, if they are still found finished.

    Args:
        store: the object store.
        context: of the current run.
        digest: of its inputs; empty if it is unknown.

    Returns:
        What is left to do, and the digests of the finished artifacts by task and output.
    """
    finished: FinishedRun | None = take_over(store, context, digest) if digest else None
    if finished is None:
        return WORK, {}
    registered = finished.values("gate_model").get("verdict") in {"promote", "hold"}
    return (RELEASE if registered else NOTHING), finished.outputs()
