"""Validation accepts a clean dataset and rejects each kind of damage with a sentence that names the fix."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from pydantic import ValidationError

from components.pull_data.run import describe
from components.validate_data import run as stage
from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.expectations import expectations
from components.validate_data.facts import shard_facts
from components.validate_data.facts.audio_measurements import AudioMeasurements
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.facts.shard_facts import FactsCache
from components.validate_data.report import _audio as audio_tile
from components.validate_data.report import render
from components.validate_data.validation import validate
from components.validate_data.verdict import Validation, results_json, verdict_json
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import ArtifactHandle, publish
from mistere.artifacts.manifests import ModelBundle, UtteranceSet, ValidationReport
from mistere.artifacts.object_store import LocalStore
from mistere.common.digests.files import digest_of
from mistere.common.progress import Progress
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import DatasetInfo, Utterance, shards_of
from mistere.data.dataset_writer import write_dataset
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin
from mistere.engine.stage import Result, RunContext, Step
from tests.unit.repository.code_copy import copy_code, python_block, run_python

LABELS = ["anger", "joy", "neutral"]
TURNS = 6
Row = tuple[Split, Utterance]
INFO = DatasetInfo(
    name="tones",
    description="Sine tones.",
    labels=LABELS,
    language="en",
    licence="CC0-1.0",
    splits="by dialogue",
    speaker_disjoint=True,
)


@cache
def sound(seconds: float = 0.3, level: float = 0.3, form: str = "OGG", rate: int = 16000, hertz: float = 220) -> bytes:
    wave = level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.astype(np.float32), rate, format=form)
    return buffer.getvalue()


OGG, SILENCE = sound(), sound(level=0.0)
LOW_RATE, SHORT = sound(form="WAV", rate=4000), sound(0.01, form="WAV")


_SHIFT = {"train": 0.0, "dev": 0.3, "test": 0.6}


def clean() -> list[Row]:
    """Return 4 + 2 + 2 dialogues of six turns; each split has its own two speakers."""
    dialogues = [("train", index) for index in range(4)] + [
        (split, index) for split in ("dev", "test") for index in (0, 1)
    ]
    return [
        (
            split,  # type: ignore[misc]
            Utterance(
                dialogue_id=f"{split}-{index}",
                turn=turn,
                label=LABELS[turn % 3],
                text=f"{split}{index} {turn}",
                audio=sound(form="OGG" if turn else "WAV", hertz=220 + 20 * index + turn + _SHIFT[split]),
                speaker=f"{split}-speaker-{turn % 2}",
            ),
        )
        for split, index in dialogues
        for turn in range(TURNS)
    ]


DECLARED = Declared("tones", LABELS, "en", True)
SHARED = Declared("tones", LABELS, "en", False)


def validate_rows(
    directory: Path, rows: Iterable[Row], declared: Declared = DECLARED, **settings: object
) -> Validation:
    write_dataset(directory, INFO, rows)
    return validate_folder(directory, declared, **settings)


def validate_folder(directory: Path, declared: Declared = DECLARED, **settings: object) -> Validation:
    return validate(files_of(directory), declared, ValidationConfig.model_validate(settings))


def files_of(directory: Path) -> list[ShardFile]:
    return [
        ShardFile(split, path, path.name) for split in SPLITS for path in shards_of(directory.glob("*.parquet"), split)
    ]


def with_changes(matches: Callable[[Split, Utterance], bool], **changes: object) -> list[Row]:
    return [
        (split, dataclasses.replace(row, **changes) if matches(split, row) else row)  # type: ignore[arg-type]
        for split, row in clean()
    ]


def at(dialogue: str, turn: int) -> Callable[[Split, Utterance], bool]:
    return lambda _, row: row.dialogue_id == dialogue and row.turn == turn


def every_row(_split: Split, _row: Utterance) -> bool:
    return True


def in_train(split: Split, _row: Utterance) -> bool:
    return split == "train"


def without(matches: Callable[[Split, Utterance], bool]) -> list[Row]:
    return [(split, row) for split, row in clean() if not matches(split, row)]


def with_repeated_row() -> list[Row]:
    return [pair for pair in clean() for _ in range(2 if at("train-1", 2)(*pair) else 1)]


def shared_dialogue() -> list[Row]:
    return with_changes(lambda split, row: row.dialogue_id == "test-0", dialogue_id="train-0")


def with_swapped_rows() -> list[Row]:
    rows = clean()
    rows[1], rows[2] = rows[2], rows[1]
    return rows


def test_clean_dataset_is_accepted(tmp_path: Path) -> None:
    validation = validate_rows(tmp_path / "clean", clean())
    assert validation.failed == []
    assert validation.verdict == "pass"
    unchecked = {outcome.rule.name for outcome in validation.outcomes if outcome.status == "not checked"}
    assert unchecked == {
        "text_repeated",
        "labels_mean_the_same",
        "text_follows_duration",
        "conversation_in_one_split",
        "conversations_apart",
        "roles_occur",
    } | {expectation.name for expectation in expectations() if expectation.layer in {"Drift", "Modalities"}}
    facts = validation.facts
    assert len(facts.utterances) == 48 and len(facts.dialogues) == 8 and len(facts.speakers) == 6
    assert validation.audio_seconds == pytest.approx(48 * 0.3, rel=0.01)
    assert facts.utterances["rms_dbfs"].median() == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.5)


@pytest.mark.long
def test_damage_of_all_kinds_in_one_dataset_is_named_at_once(tmp_path: Path) -> None:
    changes: dict[tuple[str, int], dict[str, object]] = {
        ("dev-1", 3): {"label": "hapy"},
        ("test-0", 1): {"audio": OGG[:200]},
        ("dev-0", 0): {"audio": b""},
        ("dev-0", 1): {"audio": LOW_RATE},
        ("dev-0", 2): {"audio": SHORT},
        ("test-1", 0): {"speaker": "train-speaker-0"},
    }
    rows = [
        (split, dataclasses.replace(row, **changes.get((row.dialogue_id, row.turn), {})))  # type: ignore[arg-type]
        for split, row in with_repeated_row()
        if not at("train-2", 2)(split, row)
    ]
    rows[1], rows[2] = rows[2], rows[1]
    validation = validate_rows(tmp_path / "damaged", rows)
    assert validation.verdict == "reject"
    assert {outcome.rule.name for outcome in validation.outcomes if outcome.status == "fail"} == {
        "audio_decodes",
        "audio_duration",
        "audio_not_empty",
        "audio_rate",
        "label_declared",
        "rows_in_order",
        "speaker_in_one_split",
        "turns_complete",
        "turns_unique",
    }
    sentences = "\n".join(validation.failed)
    for place in ("dev/dev-1/turn 3", "train/train-2: turns 0 to 5", "test/test-0/turn 1", "dev/dev-0/turn 1: 4000 Hz"):
        assert place in sentences


@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "rule", "message"),
    [
        (
            with_changes(at("dev-1", 3), label="hapy"), "label_declared",
            "1 utterance has a label that dataset.yaml does not declare: 'hapy' (dev/dev-1/turn 3): correct the label,"
            " add it to 'labels' in dataset.yaml, or make it null for a turn that is only context.",
        ),
        (
            with_changes(lambda split, _: split == "dev", label=None), "splits_labelled",
            "1 split has no utterance with a label (dev), so all turns there are context: label some of them, or move "
            "dialogues with labels there.",
        ),
        (
            shared_dialogue(), "dialogue_in_one_split",
            "1 dialogue is in more than one split (train-0 in train and test): keep each dialogue in one split; if"
            " they are different dialogues, give them different names.",
        ),
        (
            with_changes(lambda split, row: split == "test", speaker="train-speaker-0"), "speaker_in_one_split",
            "1 speaker is in more than one split, which dataset.yaml rules out (train-speaker-0 in train and test):"
            " split by speaker again, or set speaker_disjoint: false in dataset.yaml.",
        ),
        (
            without(at("train-2", 2)), "turns_complete",
            "1 dialogue has a gap in the turns or does not start at turn 0 (train/train-2: turns 0 to 5, 5 in all):"
            " restore the missing utterances, or number the turns 0, 1, 2 … again.",
        ),
        (
            with_repeated_row(), "turns_unique",
            "2 utterances share dialogue and turn with another (train/train-1/turn 2, train/train-1/turn 2): remove the"
            " copies, or give different dialogues different names.",
        ),
        (
            with_swapped_rows(), "rows_in_order",
            "1 utterance is separated from the dialogue or comes after a later turn (train/train-0/turn 1): sort each split by"
            " dialogue_id and turn and export it again.",
        ),
        (
            with_changes(at("test-0", 1), audio=OGG[:200]), "audio_decodes",
            "The audio of 1 utterance does not decode, or is cut off before its end (test/test-0/turn 1): export these recordings again as WAV, FLAC,"
            " OGG or MP3, or leave their audio out.",
        ),
        (
            with_changes(lambda _, row: row.turn == 1, audio=sound(0.0, form="WAV")), "audio_not_empty",
            "The audio of 8 utterances has zero length (train/train-0/turn 1, train/train-1/turn 1,"
            " train/train-2/turn 1, …): export these recordings again, or leave their audio out.",
        ),
        (with_changes(at("dev-0", 0), audio=b""), "audio_not_empty", "zero length (dev/dev-0/turn 0)"),
        (
            with_changes(in_train, text="Hello there!"), "text_varies",
            "1 split has nearly the same text everywhere (24 of 24 in train, first in train/train-0/turn 0): look for",
        ),
        (
            with_changes(lambda split, row: split == "train" and row.turn > 0, text="hello, THERE"), "text_varies",
            "(20 of 24 in train, first in train/train-0/turn 1)",
        ),
        (
            with_changes(in_train, audio=OGG), "audio_varies",
            "1 split has nearly the same recording everywhere (24 of 24 in train, first in train/train-0/turn 0): look for",
        ),
        (
            with_changes(every_row, audio=SILENCE), "audio_silent",
            "48 utterances are silent, more than the 5 % allowed (train/train-0/turn 0,",
        ),
        (with_changes(at("dev-0", 0), audio=LOW_RATE), "audio_rate", "under 8000 Hz (dev/dev-0/turn 0: 4000 Hz)"),
        (with_changes(at("dev-0", 0), audio=SHORT), "audio_duration", "(dev/dev-0/turn 0: 0.01 s): cut the recordings"),
        (
            with_changes(lambda split, row: split == "test" and row.label == "joy", label="anger"), "labels_covered",
            "There are too few utterances of 'joy' in test (0, at least 1 needed): move whole dialogues",
        ),
        (without(lambda split, _: split == "dev"), "splits_filled", "1 split has no utterance (dev): move whole"),
        (
            with_changes(lambda _, row: row.dialogue_id == "dev-1", audio=None, text=" "), "dialogue_has_content",
            "1 dialogue has neither text nor audio in any utterance (dev/dev-1): add the transcript or the recording",
        ),
        (
            with_changes(lambda split, _: split == "test", audio=None), "modalities_in_every_split",
            "There is no audio in test among the turns with a label, though the dataset has a column for it",
        ),
    ],
)  # fmt: skip
def test_each_damaged_row_fails_exactly_one_expectation(
    tmp_path: Path, rows: list[Row], rule: str, message: str
) -> None:
    validation = validate_rows(tmp_path / "damaged", rows)
    assert validation.verdict == "reject"
    assert [outcome.rule.name for outcome in validation.outcomes if outcome.status == "fail"] == [rule]
    assert message in validation.failed[0]


@pytest.mark.long
def test_shared_speakers_are_accepted_without_speaker_disjoint(tmp_path: Path) -> None:
    rows = with_changes(lambda split, row: split == "test", speaker="train-speaker-0")
    validation = validate_rows(tmp_path / "shared", rows, SHARED)
    assert validation.verdict == "pass"
    assert "speaker_in_one_split" in [o.rule.name for o in validation.outcomes if o.status == "not checked"]


@pytest.mark.long
def test_one_silent_utterance_is_accepted(tmp_path: Path) -> None:
    validation = validate_rows(tmp_path / "quiet", with_changes(at("dev-0", 0), audio=SILENCE))
    assert validation.verdict == "pass"
    assert [(o.rule.name, o.checked) for o in validation.outcomes if o.unexpected] == [("audio_silent", 48)]


@pytest.mark.long
def test_report_lists_every_tolerated_row(tmp_path: Path) -> None:
    def early(split: Split, row: Utterance) -> bool:
        return split == "train" and row.turn < 3

    rows = with_changes(early, text="\u200b")
    rows[0] = (rows[0][0], dataclasses.replace(rows[0][1], audio=SILENCE))
    rows[-1] = (rows[-1][0], dataclasses.replace(rows[-1][1], text="Donâ€™t"))
    settings = {"max_missing_share": 0.25, "max_damaged_share": 0.03}
    validation = validate_rows(tmp_path / "data", rows, **settings)
    assert validation.verdict == "pass"
    tolerated = {entry["expectation"]: entry for entry in json.loads(verdict_json(validation))["tolerated"]}
    wordless = [f"train/train-{index}/turn {turn}" for index in range(4) for turn in range(3)]
    assert tolerated["text_present"]["rows"] == wordless and tolerated["text_present"]["count"] == 12
    assert tolerated["audio_silent"]["rows"] == ["train/train-0/turn 0"]
    assert tolerated["text_encoding"]["rows"] == ["test/test-1/turn 5"]
    page = render(validation, "tones", "")
    assert all(f"<li>{row}</li>" in page for row in [*wordless, "test/test-1/turn 5"])
    assert "Tolerated rows" not in render(validate_rows(tmp_path / "clean", clean()), "tones", "")


def test_text_only_dataset_is_accepted(tmp_path: Path) -> None:
    validation = validate_rows(tmp_path / "text", with_changes(every_row, audio=None, speaker=None))
    assert validation.verdict == "pass"
    reasons = {o.sentence for o in validation.outcomes if o.status == "not checked"}
    assert {"the dataset has no audio", "the dataset names no speakers"} <= reasons


def replace_column(directory: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in directory.glob(f"{name}-*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


def without_label(table: pa.Table) -> pa.Table:
    return table.drop_columns(["label"])


def turn_as_text(table: pa.Table) -> pa.Table:
    return table.set_column(1, "turn", table["turn"].cast(pa.string()))


def audio_as_path(table: pa.Table) -> pa.Table:
    value = pa.array([{"bytes": None, "path": "a.wav"}] * len(table), table.schema.field("audio").type)
    return table.set_column(3, "audio", value)


@pytest.mark.parametrize(
    ("split", "change", "rules", "message"),
    [
        (
            "dev", without_label, ["columns_present"],
            "1 column that every utterance needs is missing ('label' in dev-00000.parquet): add it",
        ),
        pytest.param(
            "train", turn_as_text, ["column_types"],
            "1 column has the wrong type ('turn' of train-00000.parquet is string, expected a whole number)",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "*", audio_as_path, ["audio_embedded"],
            "48 utterances name an audio file but do not contain it (train/train-0/turn 0,",
            marks=pytest.mark.long,
        ),
    ],
)  # fmt: skip
def test_damaged_table_fails_the_named_expectations(
    tmp_path: Path, split: str, change: Callable[[pa.Table], pa.Table], rules: list[str], message: str
) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    replace_column(tmp_path / "data", split, change)
    validation = validate_folder(tmp_path / "data")
    assert [o.rule.name for o in validation.outcomes if o.status == "fail"] == rules
    assert message in validation.failed[0]
    assert "reject" in render(validation, "tones", "")


def test_unreadable_files_and_an_empty_dataset_are_rejected(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    (tmp_path / "data" / "dev-00000.parquet").write_bytes(b"PAR1 but not really")
    validation = validate_folder(tmp_path / "data")
    assert "1 file cannot be read as parquet (dev-00000.parquet: " in validation.failed[0]
    assert [o.rule.name for o in validation.outcomes if o.status == "fail"] == ["shards_readable", "splits_filled"]
    empty = validate([], DECLARED, ValidationConfig())
    assert empty.failed == [
        "3 splits have no utterance (train, dev, test): move whole dialogues there, or make the splits again."
    ]
    assert "reject" in render(empty, "nothing", "")


@pytest.mark.long
def test_selected_dialogues_only_are_validated(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    validation = validate(
        files_of(tmp_path / "data"),
        DECLARED,
        ValidationConfig(),
        dialogues={"train": frozenset({"train-1"}), "dev": None, "test": frozenset({"test-0"})},
    )
    assert validation.verdict == "pass"
    assert list(validation.facts.dialogues["dialogue_id"]) == ["dev-0", "dev-1", "test-0", "train-1"]


@pytest.mark.long
def test_report_and_results_are_deterministic_and_load_nothing(tmp_path: Path) -> None:
    rows = with_changes(at("dev-1", 3), label="<b>hapy</b>")
    first, second = validate_rows(tmp_path / "one", rows), validate_rows(tmp_path / "two", rows)
    page = render(first, "tones", "0" * 32 + ".dir")
    assert f"<b>{first.audio_seconds / 60:.1f}</b><span>minutes of audio" in page
    assert audio_tile(5400.0) == ("1.50", "hours of audio") and audio_tile(0.0) == ("–", "no audio")
    assert page == render(second, "tones", "0" * 32 + ".dir")
    assert verdict_json(first) == verdict_json(second)
    texts = [results_json(validation.outcomes, validation.verdict) for validation in (first, second)]
    assert texts[0] == texts[1]
    assert "<b>hapy" not in page and "&lt;b&gt;hapy" in page
    for reference in ("src=", "<script", "<link", "url(http", "@import"):
        assert reference not in page
    results = json.loads(texts[0])
    assert results["verdict"] == "reject"
    failed = [entry for entry in results["expectations"] if entry["status"] == "fail"]
    assert failed[0]["great_expectations"]["result"]["unexpected_list"] == ["<b>hapy</b>"]


@pytest.fixture
def step(tmp_path: Path) -> Step:
    store = LocalStore(tmp_path / "store")
    context = RunContext(run_id="one", store=str(tmp_path / "store"), tracking_uri="")
    return Step("validate_data", "key", context, store, Progress("validate_data"), Checkpoints(store, "x", "key"))


def run_stage(step: Step, data: Path, output: Path, champion: str = "none", **settings: object) -> Result:
    """Run the stage on a folder through a DVC remote beside it."""
    pinned = pin(str(data), str(data.with_name("remote")))
    reference = describe(pinned.remote, pinned.digest)
    folders = {name: output / name for name in ("report", "profile", "accepted")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    config = ValidationConfig.model_validate(settings)
    return stage.run(config, step, ArtifactHandle(data, reference), champion, **folders)


@pytest.mark.long
def test_rejected_run_writes_report_and_results(step: Step, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", INFO, with_changes(at("dev-1", 3), label="hapy"))
    result = run_stage(step, tmp_path / "data", tmp_path / "out")
    assert result.values == {"verdict": "reject"}
    manifest = result.manifests["report"]
    assert isinstance(manifest, ValidationReport)
    assert (manifest.verdict, manifest.utterances, len(manifest.failed)) == ("reject", 48, 1)
    names = ["expectations.json", "validation_report.html", "verdict.json"]
    assert sorted(path.name for path in (tmp_path / "out" / "report").iterdir()) == names
    verdict = json.loads((tmp_path / "out" / "report" / "verdict.json").read_text())
    assert verdict["findings"][0] == {
        "expectation": "label_declared",
        "layer": "Labels",
        "severity": "block",
        "sentence": manifest.failed[0],
        "count": 1,
        "checked": 48,
        "allowed_share": 0.0,
        "rows": "utterances",
        "examples": ["dev/dev-1/turn 3"],
    }


@pytest.mark.long
def test_severity_settings_change_the_verdict(tmp_path: Path) -> None:
    rows = with_changes(at("dev-1", 3), label="hapy")
    warned = validate_rows(tmp_path / "warned", rows, severity={"label_declared": "warn"})
    assert warned.verdict == "warn" and not warned.failed and "hapy" in warned.warnings[0]
    disabled = validate_rows(tmp_path / "silent", rows, severity={"label_declared": "off"})
    assert disabled.verdict == "pass" and "label_declared" not in {o.rule.name for o in disabled.outcomes}
    with pytest.raises(ValidationError, match="did you mean 'label_declared'"):
        ValidationConfig.model_validate({"severity": {"label_declard": "warn"}})


def test_outcomes_cover_every_expectation_once(tmp_path: Path) -> None:
    names = [outcome.rule.name for outcome in validate_rows(tmp_path / "clean", clean()).outcomes]
    assert len(names) == len(set(names)) and set(names) == {expectation.name for expectation in expectations()}


# Quarantine


@pytest.mark.long
def test_quarantined_dialogues_are_removed_and_written_with_their_problem(step: Step, tmp_path: Path) -> None:
    rows = with_changes(at("train-1", 3), label="hapy")
    write_dataset(tmp_path / "data", INFO, rows)
    result = run_stage(step, tmp_path / "data", tmp_path / "out", quarantine=True, max_quarantined_share=0.2)
    report, accepted = result.manifests["report"], result.manifests["accepted"]
    assert isinstance(report, ValidationReport) and isinstance(accepted, UtteranceSet)
    assert result.values == {"verdict": "warn"} and report.quarantined == 6 and not report.failed
    assert report.warnings[0].startswith("1 dialogue with 6 utterances (12.5 %) is set aside in quarantine.parquet")
    assert accepted.rows == {"train": 18, "dev": 12, "test": 12} and accepted.dialogues["train"] == 3
    read = [u.dialogue_id for u in UtteranceReader(accepted).stream("train")]
    assert len(read) == 18 and "train-1" not in read
    file = tmp_path / "out" / "report" / "quarantine.parquet"
    table = pq.read_table(file)
    assert table["split"].to_pylist() == ["train"] * 6 and table["turn"].to_pylist() == list(range(6))
    problems = table["problem"].to_pylist()
    assert problems[3] == "not met: Every label is one of: anger, joy, neutral" and problems.count(None) == 5
    assert table["audio"][0].as_py()["bytes"] == clean()[6][1].audio


@pytest.mark.long
def test_findings_that_quarantine_cannot_resolve_are_rejected(tmp_path: Path) -> None:
    rows = with_changes(at("train-1", 3), label="hapy")
    above_share = validate_rows(tmp_path / "little", rows, quarantine=True)
    assert (
        above_share.verdict == "reject"
        and "12.5 %) is more than validation.max_quarantined_share" in above_share.failed[-1]
    )
    whole_dataset = validate_rows(tmp_path / "whole", without(lambda split, _: split == "dev"), quarantine=True)
    assert whole_dataset.verdict == "reject"
    assert (
        "Nothing can be set aside, because the findings are about the dataset as a whole." in whole_dataset.failed[-1]
    )
    joyless_test = with_changes(lambda split, row: split == "test" and row.label == "joy", label="hapy")
    uncovered = validate_rows(tmp_path / "rest", joyless_test, quarantine=True, max_quarantined_share=0.9)
    assert uncovered.verdict == "reject"


@pytest.mark.long
def test_rejection_says_what_quarantine_would_do(tmp_path: Path) -> None:
    rows = with_changes(at("train-1", 3), label="hapy")
    helped = validate_rows(tmp_path / "helped", rows, max_quarantined_share=0.2)
    assert helped.verdict == "reject" and helped.with_quarantine == (
        "With --quarantine (validation.quarantine=true), 1 dialogue with 6 utterances (12.5 %) would be set aside, and the remaining "
        "42 utterances would be accepted."
    )
    assert helped.with_quarantine in render(helped, "tones", "")
    assert json.loads(verdict_json(helped))["with_quarantine"] == helped.with_quarantine
    above_share = validate_folder(tmp_path / "helped")
    assert above_share.with_quarantine == (
        "--quarantine would not help: setting aside 6 of 48 utterances (12.5 %) is more than validation.max_quarantined_share "
        "allows (5.0 %): fix the data, or raise it."
    )
    allowed = validate_folder(tmp_path / "helped", quarantine=True, max_quarantined_share=0.2)
    assert allowed.verdict == "warn" and not allowed.with_quarantine


@pytest.mark.long
def test_quarantine_keeps_the_test_copy_of_a_shared_dialogue(tmp_path: Path) -> None:
    validation = validate_rows(tmp_path / "data", shared_dialogue(), quarantine=True, max_quarantined_share=0.2)
    assert validation.verdict == "warn" and validation.quarantine
    assert validation.quarantine.dialogues == {"train": frozenset({"train-0"})}


@pytest.mark.long
def test_reference_is_unchanged_without_findings(step: Step, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    result = run_stage(step, tmp_path / "data", tmp_path / "out", quarantine=True)
    accepted = result.manifests["accepted"]
    pinned = pin(str(tmp_path / "data"), str(tmp_path / "remote"))
    assert accepted.content_digest() == describe(pinned.remote, pinned.digest).content_digest()


# Cached facts, and drift from the champion's profile


@pytest.mark.long
def test_facts_are_cached_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    cache = FactsCache(LocalStore(tmp_path / "store"), "en", -60.0)
    files = [replace(file, md5=digest_of(file.path, "md5")) for file in files_of(tmp_path / "data")]
    first = validate(files, DECLARED, ValidationConfig(), cache=cache)
    measured: list[int] = []
    monkeypatch.setattr(shard_facts, "measure_audio", lambda *_: measured.append(1) or AudioMeasurements())
    second = validate(files, DECLARED, ValidationConfig(), cache=cache)
    assert not measured and verdict_json(first) == verdict_json(second)
    assert render(first, "tones", "") == render(second, "tones", "")
    cut, changed, foreign = sorted((tmp_path / "store").rglob("rows.facts"))
    cut.write_bytes(cut.read_bytes()[:-40])
    assert b'"ok"' in changed.read_bytes(), "in the file's metadata, which no checksum of parquet covers"
    changed.write_bytes(changed.read_bytes().replace(b'"ok"', b'"on"', 1))
    foreign.write_bytes(b"")
    validate(files, DECLARED, ValidationConfig(), cache=cache)
    assert len(measured) == 48


@pytest.mark.long
def test_drift_is_measured_against_the_champions_profile(step: Step, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", INFO, clean())
    run_stage(step, tmp_path / "data", tmp_path / "first")
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "data_profile.json").write_bytes((tmp_path / "first" / "profile" / "data_profile.json").read_bytes())
    bundle = publish(step.store, EMPTY_BUNDLE, folder)
    shifted = [
        (split, dataclasses.replace(row, audio=sound(level=0.01, hertz=200 + index)))
        for index, (split, row) in enumerate(clean())
    ]
    write_dataset(tmp_path / "shifted", INFO, shifted)
    result = run_stage(step, tmp_path / "shifted", tmp_path / "second", bundle.digest)
    assert result.values == {"verdict": "warn"}
    (warning,) = result.manifests["report"].warnings  # type: ignore[attr-defined]
    assert warning.startswith("The levels of the recordings moved away from those of the champion's dataset")


EMPTY_BUNDLE = ModelBundle(
    name="mistere", labels=LABELS, experts=[], encoders={}, temperature=1.0, test_digest="", metrics={}, dvc_digest=""
)


# Discovery

PAGE = Path(__file__).resolve().parents[3] / "docs" / "extending" / "expectation.md"
PROGRAM = """
import json, sys
from pathlib import Path
from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.expectations import expectations
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.validation import validate
from mistere.common.digests.code import source_digest
from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS
from mistere.data.dataset import load_info, shards_of
from pipelines.profiles import load_profile
report = {"expectations": [expectation.name for expectation in expectations()]}
report["digests"] = {name: source_digest(f"components.{name}.run") for name in
    ("validate_data", "gate_model", "finetune_encoder", "train_moe", "evaluate_model")}
if "enough_test_dialogues" in report["expectations"]:
    folder = Path(sys.argv[1])
    info = load_info(folder / "dataset.yaml")
    declared = Declared(info.name, info.labels, info.language, info.speaker_disjoint)
    files = [ShardFile(split, path, path.name) for split in SPLITS for path in shards_of(folder.iterdir(), split)]
    for settings in ([], ["validation.min_test_dialogues=1"], ["validation.severity.enough_test_dialogues=block"],
                     ["validation.severity.enough_test_dialogues=off"]):
        validation = validate(files, declared, load_profile("tiny", settings).validation)
        outcomes = {outcome.rule.name: outcome for outcome in validation.outcomes}
        outcome = outcomes.get("enough_test_dialogues")
        report[" ".join(settings)] = [validation.verdict, outcome and outcome.status, outcome and outcome.sentence]
    try:
        load_profile("tiny", ["validation.severity.enough_tst_dialogues=off"])
    except UsageError as error:
        report["mistyped"] = str(error)
print(json.dumps(report))
"""


@pytest.mark.long
def test_new_expectation_file_is_discovered_and_invalidates_validation_only(tmp_path: Path) -> None:
    copy_code(tmp_path)
    write_dataset(tmp_path / "data", INFO, clean())
    before = json.loads(run_python(tmp_path, "-c", PROGRAM, str(tmp_path / "data")))
    file = tmp_path / "components/validate_data/expectations/test_dialogues.py"
    file.write_text(python_block(PAGE), encoding="utf-8")
    after = json.loads(run_python(tmp_path, "-c", PROGRAM, str(tmp_path / "data")))
    assert sorted(after["expectations"]) == sorted([*before["expectations"], "enough_test_dialogues"])
    sentence = (
        "Test has too few dialogues for a useful interval (2 dialogues): move dialogues to test, or lower "
        "validation.min_test_dialogues."
    )
    assert after[""] == ["warn", "warn", sentence]
    assert after["validation.min_test_dialogues=1"] == ["pass", "pass", ""]
    assert after["validation.severity.enough_test_dialogues=block"] == ["reject", "fail", sentence]
    assert after["validation.severity.enough_test_dialogues=off"] == ["pass", None, None]
    assert "did you mean 'enough_test_dialogues'?" in after["mistyped"]
    changed = {stage for stage, digest in after["digests"].items() if digest != before["digests"][stage]}
    assert changed == {"validate_data"}


def test_expectation_settings_have_a_description_and_a_default() -> None:
    for expectation in expectations():
        for setting, field in expectation.settings.model_fields.items():
            assert field.description and field.description.endswith("."), setting
            assert ValidationConfig.model_fields[setting].default == field.default
