"""``resolve_inputs``: the digests of the data and of the champion, and the code's state, become parameters. Never cached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.core.champion import read_champion
from components.core.config.data import DataConfig
from components.core.stage import Result, Stage, Step

STAGE = Stage(name="resolve_inputs", config=DataConfig, cached=False)


def run(config: DataConfig, step: Step, data_digest: str) -> Result:
    """Pin the run to a dataset version and to the champion of this moment.

    Args:
        config: the ``data`` section.
        step: this execution.
        data_digest: the DVC digest that the submitter resolved.
    """
    champion = read_champion(step.store).digest
    step.progress(f"data {data_digest[:12]}, champion {champion[:12]}")
    state = "unknown" if not step.run.commit else "uncommitted" if step.run.dirty else "committed"
    return Result(values={"data_digest": data_digest, "champion_digest": champion, "code_state": state})


def shards(section: Mapping[str, Any]) -> list[dict[str, int]]:
    """The tasks that share the embedding of a modality, as the pipeline's loop hands them over."""
    of = int(section["extraction"]["shards"])
    return [{"index": index, "of": of} for index in range(of)]
