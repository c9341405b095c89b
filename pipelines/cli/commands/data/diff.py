"""``mistere data diff``: compares two versions of a dataset, as text or as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from mistere.artifacts.s3.probe import use_data_endpoint
from mistere.common.counting import counted, plural
from mistere.common.paths import cache_directory
from mistere.data.diff import DataDiff, Pair, Rows, diff_datasets
from mistere.data.local_copies import use_local_copies
from mistere.data.versions import pin
from pipelines.cli.output.console import harmless_json, print_text
from pipelines.cli.output.task_progress import task_progress

_KINDS = {
    "added": "new",
    "removed": "gone",
    "moved": "in another split",
    "label": "with another label",
    "role": "with another role",
    "language": "with another language",
    "text": "with another transcript",
    "audio": "with another recording",
}
_MOST_NAMES = 10


def diff(before: str, after: str, as_json: bool) -> None:
    """Compare two versions and print the differences.

    Args:
        before: the first version, in any way that ``mistere run --data`` takes.
        after: the second version.
        as_json: print JSON.
    """
    snapshots = str(cache_directory("compared"))
    versions = pin(before, snapshots), pin(after, snapshots)
    for version in versions:
        use_data_endpoint(version.endpoint)
        use_local_copies(version)
    with task_progress("comparing"):
        differences = diff_datasets(*versions)
    if as_json:
        print(harmless_json(differences.model_dump_json(indent=1)))
    else:
        print_text("\n".join(_lines(differences)))


def _lines(diff: DataDiff) -> Iterator[str]:
    yield f"{diff.before} -> {diff.after}"
    if diff.same:
        yield "Nothing differs."
        return
    shards = diff.shards
    yield (
        f"shards: {len(shards['kept'])} kept, {len(shards['added'])} new or rewritten, {len(shards['removed'])} replaced or "
        f"gone; {diff.bytes_to_fetch / 1e6:.1f} MB to fetch"
    )
    yield from (f"dataset.yaml: {change}" for change in diff.info)
    yield ""
    yield _row("split", "utterances", "dialogues", "minutes of audio", "median seconds")
    for split, figures in diff.splits.items():
        yield _row(
            split,
            _pair(figures.utterances),
            _pair(figures.dialogues),
            _pair(figures.minutes, 1),
            _pair(figures.median_seconds, 2),
        )
    yield ""
    yield _row("label", "utterances")
    for label, pair in diff.labels.items():
        yield _row(label, _pair(pair))
    yield ""
    for kind, words in _KINDS.items():
        rows: Rows = getattr(diff, kind)
        if rows.count:
            yield f"{counted(rows.count, 'utterance')} {words}: {_some(rows.examples, rows.count)}"
    for modality, rows in diff.others.items():
        yield f"{counted(rows.count, 'utterance')} with another {modality}: {_some(rows.examples, rows.count)}"
    if diff.relabelled:
        yield "labels changed: " + ", ".join(f"{change} ({count:,})" for change, count in diff.relabelled.items())
    for what, names in (("new", diff.speakers_added), ("gone", diff.speakers_removed)):
        if names:
            shown = _some(names[:_MOST_NAMES], len(names))
            yield f"{counted(len(names), 'speaker')} {what}: {shown}"
    if diff.unmeasured:
        yield (
            f"{counted(diff.unmeasured, 'recording')} {plural(diff.unmeasured, 'has', 'have')} no readable duration and "
            f"{plural(diff.unmeasured, 'is', 'are')} not counted in the minutes."
        )


def _some(names: list[str], count: int) -> str:
    return ", ".join(names) + (", …" if count > len(names) else "")


def _pair(pair: Pair, digits: int = 0) -> str:
    before, after = (f"{value:,.{digits}f}" for value in (pair.before, pair.after))
    return before if before == after else f"{before} -> {after}"


def _row(first: str, *others: str) -> str:
    return f"{first[:24]:<25}" + "".join(f"{other:>24}" for other in others)
