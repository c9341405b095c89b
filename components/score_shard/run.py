"""``score_shard``: score a share of an archive's shards. The vectors of a killed attempt are found in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mistere.artifacts.io import artifact_key
from mistere.artifacts.manifests import ModelBundle, ScoredShards
from mistere.config.scoring import ScoringConfig
from mistere.engine.stage import Result, Stage, Step, TaskShard
from mistere.scoring.archive import open_archive
from mistere.scoring.call_columns import ArchiveColumns
from mistere.scoring.results import TURNS_FOLDER

STAGE: Final = Stage(
    name="score_shard",
    config=ScoringConfig,
    sharded=True,
    outputs={"scores": ScoredShards},
    external_inputs=lambda _config, run: {"data_remote": run.data_remote},
)
CALLS_FOLDER: Final = "calls"


def run(
    config: ScoringConfig,
    step: Step,
    scores: Path,
    shard: TaskShard,
    data_digest: str,
    bundle_digest: str,
    model_version: str,
) -> Result:
    """Score consecutive shards.

    Args:
        config: the ``scoring`` section.
        step: this execution.
        scores: folder of the output artifact.
        shard: which share.
        data_digest: the DVC digest of the archive.
        bundle_digest: the model.
        model_version: its version in the registry; empty if unknown.

    Raises:
        UsageError: the model reads nothing that the archive has, or a column is missing or has too many values to be one of groups.
        DataError: a shard is empty, damaged or not in the dataset form.
    """
    with step.loading():
        from mistere.scoring.archive_check import check_rows
        from mistere.scoring.scorer import Scorer, check_modalities
        from mistere.scoring.scoring import load_model, score_shards
        from mistere.scoring.tables import TableForm

    archive = open_archive(step.run.data_remote, data_digest)
    start, stop = (len(archive.shards) * edge // shard.of for edge in (shard.index, shard.index + 1))
    names = archive.shards[start:stop]
    facts = {name: archive.facts(name) for name in names}
    columns = ArchiveColumns(tuple(config.by), config.time)
    check_rows(archive, names, columns)
    model = load_model(step.store.location(artifact_key(ModelBundle.__name__, bundle_digest)), config.int8)
    present = frozenset[str]().union(*(fact.modalities for fact in facts.values()))
    for missing in check_modalities(model, archive.info.kinds, present):
        step.progress.note(f"the dataset has no {missing}: its turns are scored without.")
    form = TableForm(model.labels, model.experts, columns, model_version, bundle_digest)
    scorer = Scorer(model, step.store, config.cache, config.undecodable, step.progress)
    total = sum(fact.rows for fact in facts.values())
    summaries = list(
        score_shards(
            scorer,
            archive,
            names,
            form,
            lambda name: scores / TURNS_FOLDER / name,
            lambda name: scores / CALLS_FOLDER / name,
            lambda turns: step.progress("turns", turns, total),
        )
    )
    return Result(
        manifests={
            "scores": ScoredShards(
                dataset=archive.info.name,
                labels=model.labels,
                bundle_digest=bundle_digest,
                model_version=model_version,
                shards=[one.model_dump(mode="json") for one in summaries],
            )
        }
    )
