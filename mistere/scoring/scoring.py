"""Score shards of an archive: what the command and the stage of the scoring pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.onnx_manifest import is_exported
from mistere.scoring.archive import Archive
from mistere.scoring.results import ShardSummary
from mistere.scoring.scorer import Scorer
from mistere.scoring.tables import ShardTables, TableForm

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel


def load_model(location: str, int8: bool = False, exported: str = "") -> EmotionModel:
    """Load the model to score with: a bundle, or the folder of an exported model, whose graphs get a core each.

    It is loaded here so that the digest of this module's code, by which a resumed scoring recognises its results, covers the code that
    computes the model.

    Args:
        location: of the bundle, or the folder.
        int8: compute the encoders of a bundle in 8-bit integers if there is no GPU.
        exported: digest that the exported model must have; empty for no check.

    Raises:
        ArtifactError: it is missing, incomplete or damaged; the message names the file.
        UsageError: it is no bundle's location.
        MissingPackageError: ONNX Runtime is not installed.
    """
    if is_exported(location):
        from mistere.model.onnx.loading import load_onnx

        return load_onnx(Path(location), threads=1, digest=exported)
    from mistere.model.inference import load_bundle

    return load_bundle(location, int8=int8)


def score_shards(
    scorer: Scorer,
    archive: Archive,
    shards: Sequence[str],
    form: TableForm,
    turns: Callable[[str], Path],
    calls: Callable[[str], Path],
    on_turns: Callable[[int], None] = lambda _: None,
) -> Iterator[ShardSummary]:
    """Score the dialogues that begin in some shards, one after the other.

    Args:
        scorer: the model.
        archive: the archive.
        shards: names of the shards.
        form: the columns of the tables.
        turns: the file for a shard's table of turns.
        calls: the file for its table of calls.
        on_turns: called with the number of turns scored so far.

    Raises:
        DataError: a shard is unreadable or not in the dataset form.
    """
    streams = (archive.turns(shard, form.columns, scorer.modalities) for shard in shards)
    scored = scorer.score(streams, archive.info.predict_roles)
    following = next(scored, None)
    done = 0
    for position, shard in enumerate(shards):
        with ShardTables(form, shard, turns(shard), calls(shard)) as tables:
            while following is not None and following[0] == position:
                tables.add(following[1])
                on_turns(done + tables.rows[0])
                following = next(scored, None)
            rows, count = tables.rows
        done += rows
        counts = scorer.counts[position]
        named = [f"{shard}: {sentence}" for sentence in counts.named]
        yield ShardSummary(shard=shard, turns=rows, calls=count, undecodable=counts.undecodable, named=named)
