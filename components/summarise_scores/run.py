"""``summarise_scores``: join the tables of calls, and write the page about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ArchiveScores, ScoredShards
from mistere.artifacts.object_store import open_store
from mistere.common.errors import ArtifactError
from mistere.config.scoring import ScoringConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.scoring.results import CALLS_FILE, PAGE_FILE, PLAN_FILE, TURNS_FOLDER, ScoringPlan, ShardSummary

STAGE: Final = Stage(
    name="summarise_scores",
    config=ScoringConfig,
    inputs={"shards": ScoredShards},
    many=frozenset({"shards"}),
    outputs={"scores": ArchiveScores},
    reports={"scores": (PAGE_FILE,)},
    external_inputs=lambda config, _run: {"min_calls": str(config.min_calls)},
    imports=("pyarrow.parquet", "matplotlib"),
)
_CALLS_FOLDER: Final = "calls"


def run(
    config: ScoringConfig, step: Step, scores: Path, shards: Sequence[ArtifactHandle[ScoredShards]], data_digest: str
) -> Result:
    """Join the shards.

    Args:
        config: the ``scoring`` section.
        step: this execution.
        scores: folder of the output artifact.
        shards: the scores of the archive's shares, in order.
        data_digest: the DVC digest of the archive.

    Raises:
        ArtifactError: the shares are of several models.
        UsageError: a column has too many values to be one of groups.
    """
    import pyarrow.parquet as pq

    from mistere.reports.scores.page import render_scores
    from mistere.scoring.joining import join_calls, require_turns

    first = shards[0].manifest
    if len({(one.manifest.bundle_digest, tuple(one.manifest.labels)) for one in shards}) > 1:
        raise ArtifactError("the shards were scored by several models", "run again")
    summaries = [ShardSummary.model_validate(one) for part in shards for one in part.manifest.shards]
    turns, calls = sum(one.turns for one in summaries), sum(one.calls for one in summaries)
    require_turns(turns, first.dataset)
    folder_of = {one["shard"]: part.path for part in shards for one in part.manifest.shards}
    parts = [folder_of[one.shard] / _CALLS_FOLDER / one.shard for one in summaries]
    table = scores / CALLS_FILE
    join_calls(parts, pq.read_schema(parts[0]), table)
    plan = ScoringPlan(
        dataset=first.dataset,
        dataset_digest=data_digest,
        bundle_digest=first.bundle_digest,
        model_version=first.model_version,
        by=config.by,
        time=config.time,
        undecodable=config.undecodable,
        int8=config.int8,
        code=first.made_by.code if first.made_by else "",
        shards=[one.shard for one in summaries],
    )
    page = render_scores(
        plan, summaries, table, lambda shard: folder_of[shard] / TURNS_FOLDER / shard, first.labels, config.min_calls
    )
    (scores / PAGE_FILE).write_text(page, encoding="utf-8")
    (scores / PLAN_FILE).write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    return Result(
        manifests={
            "scores": ArchiveScores(
                dataset=first.dataset,
                bundle_digest=first.bundle_digest,
                model_version=first.model_version,
                turns=turns,
                calls=calls,
                parts=[part.manifest.digest for part in shards],
            )
        }
    )


def copy_page(run: Mapping[str, Any], path: str) -> None:
    """Copy the page to a file of Kubeflow Pipelines."""
    data, _ = open_store(str(run["store"])).read(f"runs/{run['run_id']}/reports/{PAGE_FILE}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
