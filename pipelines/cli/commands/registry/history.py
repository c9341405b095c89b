"""``mistere models --history``: the champions' figures over time."""

from __future__ import annotations

import json

from pydantic import BaseModel
from rich.console import Console

from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import EvaluationReport
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError
from mistere.registry.lineage import read_lineage
from mistere.registry.release.promotion_log import PromotionEvent, read_log
from mistere.reports.evaluated_model import estimate_text
from mistere.runs.outcome import Estimate
from pipelines.cli.output.tables import Column, print_table
from pipelines.cli.output.times import duration_text, minute_text

_COLUMNS = (
    Column("since (UTC)"),
    Column("in service", right=True, drop=5),
    Column("by", drop=4),
    Column("version"),
    Column("weighted F1"),
    Column("macro F1", drop=2),
    Column("accuracy", drop=6),
    Column("over the one before", drop=1),
    Column("test split", drop=3),
    Column("dataset", drop=7),
)


class Reign(BaseModel):
    """A champion while it was in service.

    Attributes:
        since: when it became the champion, seconds since 1970.
        until: when the next one did; None for the champion.
        model: name of the model; empty if its lineage is missing.
        action: ``deploy`` by a run; ``promote``, ``approve`` or ``rollback`` by a user.
        difference: weighted F1 minus that of the champion before, paired on the same test split; None where the evaluation did
            not compare the two.
        test_digest: identifies the test split of the figures.
        unknown: why there are no figures; empty if there are.
    """

    since: float
    until: float | None = None
    action: str
    model: str = ""
    version: str
    bundle_digest: str
    weighted_f1: Estimate | None = None
    macro_f1: Estimate | None = None
    accuracy: Estimate | None = None
    difference: Estimate | None = None
    test_digest: str = ""
    dataset: str = ""
    run_id: str = ""
    commit: str = ""
    unknown: str = ""


def print_history(console: Console, store: ObjectStore, model_name: str, *, as_json: bool) -> None:
    """Print the champions, oldest first.

    Args:
        console: for the table.
        store: the object store.
        model_name: only versions of this model.
        as_json: print JSON.

    Raises:
        ArtifactError: an event of the promotion log is damaged; the readable ones are printed first.
    """
    log = read_log(store)
    reigns = champions(store, log.events, model_name)
    if as_json:
        print(json.dumps([reign.model_dump() for reign in reigns], indent=1))
    elif reigns:
        print_table(console, _COLUMNS, [_row(reign) for reign in reigns], {len(reigns) - 1: "bold"})
        if len({reign.test_digest for reign in reigns if reign.test_digest}) > 1:
            console.print("Figures of different test splits are not comparable.", style="dim")
        for sentence in dict.fromkeys(reign.unknown for reign in reigns if reign.unknown):
            console.print(sentence, style="dim", markup=False)
    elif not log.damaged:
        console.print(
            f"No version of {model_name} has been the champion yet: `mistere run` releases one.", markup=False
        )
    if log.damaged:
        raise ArtifactError(
            f"the history is incomplete, because {log.damaged[0]} is damaged",
            "restore it from a copy of the store, or move it away; `mistere models --log` names all",
        )


def champions(store: ObjectStore, events: list[PromotionEvent], model_name: str) -> list[Reign]:
    """The champions in the order in which they were released; a release of the champion itself changes nothing."""
    reigns: list[Reign] = []
    for event in events:
        moved = event.outcome == "done" and event.action not in {"reject", "canary"}
        if not moved or (reigns and reigns[-1].bundle_digest == event.after):
            continue
        if reigns:
            reigns[-1] = reigns[-1].model_copy(update={"until": event.at})
        reigns.append(_reign(store, event))
    return [reign for reign in reigns if reign.model in {"", model_name}]


def _reign(store: ObjectStore, event: PromotionEvent) -> Reign:
    reign = Reign(since=event.at, action=event.action, version=event.version, bundle_digest=event.after)
    try:
        lineage = read_lineage(store, event.after)
        evaluation = read_manifest(store, EvaluationReport, lineage.evaluation_digest)
    except ArtifactError as error:
        return reign.model_copy(update={"unknown": f"Version {event.version} has no figures: {error}"})
    metrics = evaluation.metrics
    compared = evaluation.champion is not None and evaluation.champion.bundle_digest == event.before
    return reign.model_copy(
        update={
            "model": lineage.model_name,
            "weighted_f1": Estimate.of(metrics, "test.weighted_f1"),
            "macro_f1": Estimate.of(metrics, "test.macro_f1"),
            "accuracy": Estimate.of(metrics, "test.accuracy"),
            "difference": Estimate.of(metrics, "champion.difference.weighted_f1") if compared else None,
            "test_digest": evaluation.test_digest,
            "dataset": f"{lineage.dataset} {lineage.dvc_digest[:8]}",
            "run_id": lineage.run.run_id,
            "commit": lineage.run.commit,
        }
    )


def _row(reign: Reign) -> tuple[str, ...]:
    return (
        minute_text(reign.since),
        duration_text(reign.until - reign.since) if reign.until else "now",
        reign.action,
        reign.version,
        estimate_text(reign.weighted_f1) if reign.weighted_f1 else "",
        f"{reign.macro_f1.value:.3f}" if reign.macro_f1 else "",
        f"{reign.accuracy.value:.3f}" if reign.accuracy else "",
        estimate_text(reign.difference, signed=True) if reign.difference else "",
        reign.test_digest[:8],
        reign.dataset,
    )
