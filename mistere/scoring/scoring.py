"""Score a shard of an archive: what the command and the stage of the scoring pipeline share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mistere.scoring.archive import Archive
from mistere.scoring.results import ShardSummary
from mistere.scoring.scorer import Scorer
from mistere.scoring.tables import ShardTables, TableForm


def score_shard(
    scorer: Scorer,
    archive: Archive,
    shard: str,
    form: TableForm,
    turns: Path,
    calls: Path,
    on_turns: Callable[[int], None] = lambda _: None,
) -> ShardSummary:
    """Score the dialogues that begin in a shard.

    Args:
        scorer: the model.
        archive: the archive.
        shard: name of the shard.
        form: the columns of the tables.
        turns: the table of turns to write.
        calls: the table of calls to write.
        on_turns: called with the number of turns scored so far.

    Raises:
        DataError: the shard is unreadable or not in the dataset form.
    """
    with ShardTables(form, shard, turns, calls) as tables:
        stream = archive.turns(shard, form.columns, scorer.modalities)
        for dialogue in scorer.score(stream, archive.info.predict_roles):
            tables.add(dialogue)
            on_turns(tables.rows[0])
        rows, count = tables.rows
    counts = scorer.counts
    named = [f"{shard}: {sentence}" for sentence in counts.named]
    return ShardSummary(shard=shard, turns=rows, calls=count, undecodable=counts.undecodable, named=named)
