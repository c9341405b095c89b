"""Export kept dialogues for labelling: choose them, and write tasks, interface, recordings and a table."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.artifacts.object_store import ObjectStore
from mistere.common.counting import counted, plural
from mistere.common.digests.files import digest_of
from mistere.common.errors import MistereError, UsageError
from mistere.common.processes.partial_folders import delete_partial_folders, partial_folder
from mistere.common.splits import SPLITS
from mistere.corpora.tables.base import check_columns
from mistere.data.dataset import load_info, read_batches, schema, shards_of
from mistere.data.kinds import kind_of
from mistere.labelling.exported import (
    AUDIO,
    INTERFACE,
    MANIFEST,
    TABLE,
    TASKS,
    ExportManifest,
    open_export,
)
from mistere.labelling.selection import (
    WEIGHTS,
    Choice,
    candidate_of,
    choose,
    disagreements,
    entropies,
    predicted_shares,
)
from mistere.labelling.tasks import LOCAL_FILES, configuration, recording_name, task_of
from mistere.serving.sample.dialogue import KeptDialogue
from mistere.serving.sample.places import DIALOGUES, shown_name
from mistere.serving.sample.reading import read_dialogues, read_recording, read_vectors

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS: Final = ("transcript", "predicted", "uncertainty", "disagreement", "rank", "reason")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported.

    Attributes:
        count: number of dialogues.
        seed: of the choice.
        weights: of the figures.
        random_share: part that is drawn by chance, 0 to 1.
        base: a dataset whose labels are the choices and whose dialogues are chosen by chance only; None for none.
        earlier: folders of exports whose dialogues are chosen by chance only, and not at all if they were drawn by chance there.
        audio_url: what Label Studio puts before a recording's file name; empty for its local storage.
    """

    count: int = 100
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    random_share: float = 0.1
    base: Path | None = None
    earlier: Sequence[Path] = ()
    audio_url: str = ""


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        choices: the dialogues, in the order of the tasks.
        turns: turns to label.
        labels: the choices of the annotators.
        notes: a sentence for everything that was left out.
    """

    choices: list[Choice]
    turns: int
    labels: list[str]
    notes: list[str]


@dataclass(frozen=True)
class _Kept:
    """A dialogue with its folder in the store, and whether the base or an earlier export has it."""

    folder: str
    dialogue: KeptDialogue
    is_known: bool = False


def export_tasks(store: ObjectStore, directory: Path, options: ExportOptions, now: float | None = None) -> ExportReport:
    """Choose dialogues and write the folder of an export.

    Args:
        store: the object store with the sample.
        directory: the new folder; must not exist or be empty. It appears when it is complete.
        options: what is exported.
        now: seconds since 1970; None for the current time.

    Raises:
        UsageError: the folder is not empty, an option is wrong, or the base is no dataset.
        DataError: the base is damaged.
        MistereError: the store has no dialogue to label.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty: choose a new folder for the export.")
    if not 0 <= options.random_share <= 1:
        raise UsageError(f"--random {options.random_share:g} is no share: choose a number from 0 to 1.")
    delete_partial_folders(directory)
    notes: list[str] = []
    labels, shares, known = _base(options.base)
    drawn: set[str] = set()
    for folder in options.earlier:
        export = open_export(folder)
        known.update(export.manifest.dialogues)
        drawn |= export.drawn_by_chance()
    readable = _candidates(store, time.time() if now is None else now, known, notes)
    kept = {name: one for name, one in readable.items() if not one.is_known}
    if not kept:
        raise MistereError(
            f"{store.location(DIALOGUES)} holds no dialogue to label: keep some with `mistere serve --sample-share` and the "
            "consent of the clients."
        )
    newest = max(kept.values(), key=lambda one: one.dialogue.updated_at).dialogue
    labels = labels or newest.labels
    shares = shares or predicted_shares([one.dialogue for one in kept.values()])
    candidates = [
        candidate_of(name, one.dialogue, shares, read_vectors(store, one.folder)) for name, one in kept.items()
    ]
    earlier = [
        candidate_of(name, one.dialogue, shares, {})
        for name, one in readable.items()
        if one.is_known and name not in drawn
    ]
    choices = choose(candidates, options.count, options.weights, options.random_share, options.seed, earlier)
    again = sum(readable[choice.candidate.name].is_known for choice in choices)
    if again:
        notes.append(
            f"{counted(again, 'dialogue')} of them drawn again, by chance: label {plural(again, 'it', 'them')} again."
        )
    partial = partial_folder(directory)
    partial.mkdir(parents=True)
    try:
        turns = _write(store, partial, choices, readable, labels, options, notes)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ExportReport(choices, turns, labels, notes)


def _base(base: Path | None) -> tuple[list[str], dict[str, float], set[str]]:
    """Labels, shares of the labels, and names of the dialogues of a dataset."""
    if base is None:
        return [], {}, set()
    info = load_info(base / "dataset.yaml")
    files = list(base.iterdir())
    counts: Counter[str] = Counter()
    names: set[str] = set()
    for split in SPLITS:
        for batch in read_batches(shards_of(files, split), ["dialogue_id", "label"]):
            check_columns(batch, base, split, ("dialogue_id", "label"))
            names.update(batch.column("dialogue_id").to_pylist())
            counts.update(label for label in batch.column("label").to_pylist() if label is not None)
    whole = counts.total()
    return info.labels, {label: counts[label] / whole for label in info.labels} if whole else {}, names


def _candidates(store: ObjectStore, now: float, known: Collection[str], notes: list[str]) -> dict[str, _Kept]:
    """The dialogues that can be labelled, by name, with those that the base or an earlier export has."""
    kept: dict[str, _Kept] = {}
    unreadable = 0
    for folder, dialogue in read_dialogues(store, now, notes.append):
        name = shown_name(folder)
        if dialogue.is_readable:
            kept[name] = _Kept(folder, dialogue, name in known)
        else:
            unreadable += 1
    if unreadable:
        notes.append(f"{counted(unreadable, 'dialogue')} without a text or a recording to label left out.")
    if repeated := sum(one.is_known for one in kept.values()):
        notes.append(f"{counted(repeated, 'dialogue')} of the base or of earlier exports left out.")
    return kept


def _write(
    store: ObjectStore,
    folder: Path,
    choices: Sequence[Choice],
    kept: Mapping[str, _Kept],
    labels: list[str],
    options: ExportOptions,
    notes: list[str],
) -> int:
    """Write the files of an export; returns the number of turns to label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prefix = options.audio_url or f"{LOCAL_FILES}{AUDIO}"
    tasks, asked, missing = [], dict[str, list[int]](), 0
    form = _table_form()
    with pq.ParquetWriter(folder / TABLE, form, compression="zstd") as table:
        for rank, choice in enumerate(choices):
            name = choice.candidate.name
            one = kept[name]
            clips = {
                turn.audio: read_recording(store, one.folder, turn.audio) for turn in one.dialogue.turns if turn.audio
            }
            missing += sum(clip is None for clip in clips.values())
            address = _recordings(folder, prefix, clips)
            tasks.append(task_of(name, one.dialogue, address))
            asked[name] = [index for index, turn in enumerate(one.dialogue.turns) if turn.predicted]
            rows = _rows(name, one.dialogue, clips, choice, rank)
            table.write_table(pa.Table.from_pylist(rows, schema=form))
    if missing:
        notes.append(f"{counted(missing, 'recording')} of kept dialogues missing in the store.")
    (folder / TASKS).write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / INTERFACE).write_text(configuration(labels), encoding="utf-8")
    manifest = ExportManifest(
        labels=labels,
        seed=options.seed,
        weights=dict(options.weights),
        random_share=options.random_share,
        bundles=sorted({kept[choice.candidate.name].dialogue.bundle_digest for choice in choices}),
        dialogues=asked,
        table=digest_of(folder / TABLE),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return sum(map(len, asked.values()))


def _recordings(folder: Path, prefix: str, clips: Mapping[str, bytes | None]) -> Callable[[str], str | None]:
    """Write the recordings of a dialogue; returns what gives the address of each."""
    names: dict[str, str] = {}
    for digest, clip in clips.items():
        if clip is not None:
            names[digest] = recording_name(digest, clip)
            (folder / AUDIO).mkdir(exist_ok=True)
            (folder / AUDIO / names[digest]).write_bytes(clip)
    return lambda digest: f"{prefix.rstrip('/')}/{names[digest]}" if digest in names else None


def _table_form() -> pa.Schema:
    """The columns of the dataset form without speakers, and what the model said."""
    import pyarrow as pa

    form = schema()
    fields = [form.field(name) for name in ("dialogue_id", "turn", "text", "audio", "label")]
    kinds = {"uncertainty": pa.float64(), "disagreement": pa.float64(), "rank": pa.int32()}
    return pa.schema([*fields, *(pa.field(name, kinds.get(name, pa.string())) for name in _COLUMNS)])


def _rows(
    name: str, dialogue: KeptDialogue, clips: Mapping[str, bytes | None], choice: Choice, rank: int
) -> list[dict[str, Any]]:
    """The rows of a dialogue; the figures are those of each turn."""
    certain = entropies(dialogue.array("probabilities")).tolist()
    apart = disagreements(dialogue.array("expert_probabilities"), dialogue.array("expert_weights")).tolist()
    figures = iter(zip(certain, apart, strict=True))
    rows = []
    for index, turn in enumerate(dialogue.turns):
        clip = clips.get(turn.audio) if turn.audio is not None else None
        uncertainty, disagreement = next(figures) if turn.predicted else (None, None)
        rows.append(
            {
                "dialogue_id": name,
                "turn": index,
                "text": None if not turn.text else kind_of("text").write(turn.text),
                "audio": None if clip is None else kind_of("audio").write(clip),
                "label": None,
                "transcript": turn.transcript,
                "predicted": turn.label or None,
                "uncertainty": uncertainty,
                "disagreement": disagreement,
                "rank": rank,
                "reason": choice.reason,
            }
        )
    return rows
