"""Corruptions of a valid dataset: each is detected by the intended expectation and by no other."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from components.pull_data.run import describe
from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.expectations import expectations
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.facts.shard_facts import FactsCache
from components.validate_data.report import render
from components.validate_data.validation import validate
from components.validate_data.verdict import Validation, verdict_json
from mistere.artifacts.object_store import LocalStore
from mistere.common.digests.files import digest_of
from mistere.common.paths import PROJECT_ROOT
from mistere.common.splits import SPLITS, Split
from mistere.corpora.importers.meld import import_meld
from mistere.data.audio import decode, resample
from mistere.data.dataset import DatasetInfo, Utterance, load_info, shards_of
from mistere.data.dataset_writer import write_dataset
from mistere.data.dvc_remote import RemoteData
from mistere.data.profile import Profile
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin

Row = tuple[Split, Utterance]
Damage = Callable[[list[Row]], list[Row]]
MELD = PROJECT_ROOT.parent / "shared" / "data" / "meld"
LABELS = ["neutral", "happy", "sad", "angry", "fearful", "surprised"]
DIALOGUES = {"train": 16, "dev": 7, "test": 7}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def good() -> tuple[DatasetInfo, list[Row]]:
    """A part of the sample: thirty spoken dialogues."""
    pinned = pin(str(PROJECT_ROOT / "data.dvc"), "")
    reference = describe(pinned.remote, pinned.digest)
    files = RemoteData(reference.remote, reference.dvc_digest).fetch({"dataset.yaml": reference.info_md5})
    reader = UtteranceReader(reference)
    rows: list[Row] = []
    for split in SPLITS:
        for count, dialogue in enumerate(reader.dialogues(split)):
            if count < DIALOGUES[split]:
                rows += [(split, utterance) for utterance in dialogue]
    return load_info(files["dataset.yaml"]), rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("facts"))


def judge(
    folder: Path,
    info: DatasetInfo,
    store: LocalStore,
    before: Profile | None = None,
    config: ValidationConfig | None = None,
) -> Validation:
    config = config or ValidationConfig()
    files = [
        ShardFile(split, path, path.name, digest_of(path, "md5"))
        for split in SPLITS
        for path in shards_of(folder.iterdir(), split)
    ]
    declared = Declared(info.name, info.labels, info.language, info.speaker_disjoint)
    cache = FactsCache(store, info.language, config.silence_dbfs)
    return validate(files, declared, config, before=before, cache=cache)


def failed_rules(validation: Validation) -> set[str]:
    return {outcome.rule.name for outcome in validation.outcomes if outcome.status in {"fail", "warn"}}


# Changed rows


def rewritten(change: Callable[[int, Utterance], Utterance | None], share: float = 1.0, split: str = "") -> Damage:
    """Change an evenly spread share of the utterances (of one split); None removes the utterance."""
    every = round(1 / share)

    def damage(rows: list[Row]) -> list[Row]:
        result: list[Row] = []
        count = -1
        for where, utterance in rows:
            count += where == split or not split
            changed: Utterance | None = utterance
            if (where == split or not split) and count % every == every // 2:
                changed = change(count, utterance)
            if changed is not None:
                result.append((where, changed))
        return result

    return damage


def one(change: Callable[[Utterance], Utterance | None], dialogue: int = 2, turn: int = 3) -> Damage:
    """Change one turn of the third train dialogue."""

    def damage(rows: list[Row]) -> list[Row]:
        name = list(dict.fromkeys(utterance.dialogue_id for _, utterance in rows))[dialogue]
        result: list[Row] = []
        for split, utterance in rows:
            hit = utterance.dialogue_id == name and utterance.turn == turn
            changed = change(utterance) if hit else utterance
            if changed is not None:
                result.append((split, changed))
        return result

    return damage


def change_samples(
    change: Callable[[np.ndarray, int], tuple[np.ndarray, int]], form: str = "WAV"
) -> Callable[..., Utterance]:
    """Change the audio samples of an utterance."""

    def changed(*arguments: object) -> Utterance:
        utterance = arguments[-1]
        assert isinstance(utterance, Utterance) and utterance.audio
        return replace(utterance, audio=encoded(*change(*decode(utterance.audio)), form=form))

    return changed


def encoded(wave: np.ndarray, rate: int, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form)
    return buffer.getvalue()


def change_text(change: Callable[[str], str]) -> Callable[..., Utterance]:
    """Change the transcript of an utterance."""

    def changed(*arguments: object) -> Utterance:
        utterance = arguments[-1]
        assert isinstance(utterance, Utterance)
        return replace(utterance, text=change(utterance.text or ""))

    return changed


def low_passed(wave: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    silent = np.zeros_like(wave)
    silent[: rate // 50] = wave[: rate // 50]
    silent[0] = 0.5
    return silent, rate


def misspelled(text: str) -> str:
    return (text + " \u2026").encode().decode("cp1252")


def moved(name: str, to: Split, of: Split, **changes: object) -> Damage:
    """Copy the first dialogue of a split to another split."""

    def damage(rows: list[Row]) -> list[Row]:
        first = next(utterance.dialogue_id for split, utterance in rows if split == of)
        copy = [
            (to, replace(utterance, dialogue_id=name or first, speaker=None, **changes))  # type: ignore[arg-type]
            for split, utterance in rows
            if utterance.dialogue_id == first
        ]
        return [*rows, *copy]  # type: ignore[list-item]

    return damage


def shuffled_audio(rows: list[Row]) -> list[Row]:
    order = list(range(len(rows)))
    result = list(rows)
    for split in SPLITS:
        own = [index for index in order if rows[index][0] == split]
        other = own[:]
        random.Random(1).shuffle(other)
        for index, source in zip(own, other, strict=True):
            result[index] = (split, replace(rows[index][1], audio=rows[source][1].audio))  # type: ignore[assignment]
    return result


def repeated_row(rows: list[Row]) -> list[Row]:
    return [row for index, row in enumerate(rows) for _ in range(2 if index == 20 else 1)]


def swapped_rows(rows: list[Row]) -> list[Row]:
    return [*rows[:1], rows[2], rows[1], *rows[3:]]


def very_long_dialogue(rows: list[Row]) -> list[Row]:
    """One dialogue of 600 turns with distinct texts."""
    train = [utterance for split, utterance in rows if split == "train"]
    more = [
        (
            "train",
            Utterance("long", turn, train[turn % len(train)].label, text=f"turn{turn} is one{turn} of many{turn}"),
        )
        for turn in range(600)
    ]
    return [*rows, *more]  # type: ignore[list-item]


def copied_audio(rows: list[Row]) -> list[Row]:
    """Every eighth train utterance repeats the recording two utterances earlier."""
    result = list(rows)
    for index in range(8, len(rows), 8):
        if rows[index][0] == rows[index - 8][0] == "train":
            own, source = rows[index][1], rows[index - 1][1]
            result[index] = ("train", replace(own, audio=source.audio, text=source.text))
    return result


def shared_audio(rows: list[Row]) -> list[Row]:
    """One test recording also occurs in train, in another container format."""
    last = max(index for index, (split, _) in enumerate(rows) if split == "test")
    wave, rate = decode(rows[last][1].audio or b"")
    audio = encoded(wave, rate, "WAV")
    lossless = [(split, replace(u, audio=audio) if index == last else u) for index, (split, u) in enumerate(rows)]
    donor = replace(rows[5][1], audio=encoded(*decode(audio), form="FLAC"), text=rows[last][1].text)
    back = encoded(*decode(donor.audio or b""), form="WAV")
    lossless[last] = ("test", replace(rows[last][1], audio=back))
    return [(s, donor) if index == 5 else (s, u) for index, (s, u) in enumerate(lossless)]


def no_label_in_test(rows: list[Row]) -> list[Row]:
    counts = Counter(u.label for split, u in rows if split == "test")
    (other, _), *_, (label, _) = counts.most_common()
    return [(s, replace(u, label=other) if s == "test" and u.label == label else u) for s, u in rows]


def off_by_one(labels: list[str], split: str = "") -> Damage:
    """Replace each label by the next in the list (in one split)."""
    after = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    return lambda rows: [(s, replace(u, label=after[u.label]) if s == split or not split else u) for s, u in rows]


def one_label_in_test(rows: list[Row]) -> list[Row]:
    """At least two of three test utterances have the same label."""
    return rewritten(lambda index, u: u if index % 3 == 0 else replace(u, label="neutral"), split="test")(rows)


QUICK = {"a label map off by one"}
"""One of the labels, which needs what the rows need, too; a validation costs a second, so the others are ``long``."""


def cases(corruptions: Sequence[tuple[str, Any, set[str]]]) -> list[Any]:
    """Parameters of a test: those of :data:`QUICK`, and the others as ``long``."""
    return [
        pytest.param(damage, rules, id=name, marks=[] if name in QUICK else [pytest.mark.long])
        for name, damage, rules in corruptions
    ]


def test_quick_corruptions_exist() -> None:
    assert {name for name, *_ in [*DAMAGES, *TABLES, *DRIFTS]} >= QUICK


WAV_CUT = change_samples(lambda wave, rate: (wave, rate))
MANY_CHANNELS = change_samples(lambda wave, rate: (np.stack([wave] * 6, 1), rate))

DAMAGES: list[tuple[str, Damage, set[str]]] = [
    (
        "a row without a dialogue",
        one(lambda u: replace(u, dialogue_id=None)),
        {"dialogue_id_not_null", "turns_complete"},
    ),  # type: ignore[arg-type]
    ("a row without a turn", one(lambda u: replace(u, turn=None)), {"turn_not_null", "turns_complete"}),  # type: ignore[arg-type]
    ("a row with an empty label", one(lambda u: replace(u, label="")), {"label_declared"}),
    ("a misspelled label", one(lambda u: replace(u, label="hapy")), {"label_declared"}),
    ("a label with a blank", one(lambda u: replace(u, label=u.label + " ")), {"label_declared"}),
    ("a label missing from test", no_label_in_test, {"labels_covered"}),
    ("a split with other labels", one_label_in_test, {"labels_alike"}),
    ("a label map off by one in test", off_by_one(LABELS, "test"), {"labels_mean_the_same"}),
    ("a duplicated row", repeated_row, {"turns_unique"}),
    ("a missing row", one(lambda _: None), {"turns_complete"}),
    ("turns counted from 1", rewritten(lambda _, u: replace(u, turn=u.turn + 1)), {"turns_complete"}),
    ("two rows swapped", swapped_rows, {"rows_in_order"}),
    ("a very long dialogue", very_long_dialogue, {"dialogue_length", "audio_present"}),
    (
        "a dialogue without text and audio",
        lambda rows: [
            (s, replace(u, text=" ", audio=None) if u.dialogue_id == rows[0][1].dialogue_id else u) for s, u in rows
        ],
        {"dialogue_has_content"},
    ),
    ("a third of the transcripts missing", rewritten(change_text(lambda _: ""), 1 / 3), {"text_present"}),
    ("UTF-8 read as Windows-1252", rewritten(change_text(misspelled), 1 / 20), {"text_encoding"}),
    (
        "replacement characters",
        rewritten(change_text(lambda text: text.replace("e", "\ufffd", 1)), 1 / 20),
        {"text_encoding"},
    ),
    ("control characters", rewritten(change_text(lambda text: text + "\x92"), 1 / 20), {"text_encoding"}),
    (
        "another script",
        rewritten(change_text(lambda text: f"это совсем {len(text)} другой язык {text[:3]}"), 1 / 10),
        {"text_script"},
    ),
    (
        "transcriber boilerplate",
        rewritten(change_text(lambda _: "Thank you for watching this video."), 1 / 10),
        {"text_repeated"},
    ),
    ("a pasted document", one(change_text(lambda text: f"{text} and so on " * 200)), {"text_length"}),
    ("a third of the recordings missing", rewritten(lambda _, u: replace(u, audio=None), 1 / 3), {"audio_present"}),
    ("empty audio files", one(lambda u: replace(u, audio=b"")), {"audio_not_empty"}),
    ("audio files without samples", one(change_samples(lambda wave, rate: (wave[:0], rate))), {"audio_not_empty"}),
    ("a file that is not audio", one(lambda u: replace(u, audio=b"<html>404</html>")), {"audio_decodes"}),
    ("an audio header without data", one(lambda u: replace(u, audio=(u.audio or b"")[:100])), {"audio_decodes"}),
    (
        "a truncated WAV",
        one(lambda u: replace(WAV_CUT(u), audio=(WAV_CUT(u).audio or b"")[:20000])),
        {"audio_decodes"},
    ),
    (
        "a truncated FLAC",
        one(lambda u: replace(u, audio=encoded(*decode(u.audio or b""), form="FLAC")[:12000])),
        {"audio_decodes"},
    ),
    ("NaN samples", one(lambda u: replace(u, audio=nan_wave())), {"audio_decodes"}),
    (
        "a very low sample rate",
        one(change_samples(lambda wave, rate: (resample(wave, rate, 4000), 4000))),
        {"audio_rate"},
    ),
    ("a recording of six channels", one(MANY_CHANNELS), {"audio_channels"}),
    (
        "a click instead of a recording",
        one(change_samples(lambda wave, rate: (wave[: rate // 50], rate))),
        {"audio_duration"},
    ),
    (
        "an uncut recording",
        one(change_samples(lambda wave, rate: (np.tile(wave, 60 * rate // len(wave) + 2), rate))),
        {"audio_duration"},
    ),
    ("a muted half", rewritten(change_samples(lambda wave, rate: (wave * 0, rate)), 1 / 2), {"audio_silent"}),
    ("a channel with a click only", rewritten(change_samples(low_passed), 1 / 5), {"audio_silent"}),
    (
        "clipped audio",
        rewritten(change_samples(lambda wave, rate: (np.clip(wave * 60, -1, 1), rate)), 1 / 4),
        {"audio_clipped"},
    ),
    ("a DC offset", rewritten(change_samples(lambda wave, rate: (wave * 0.5 + 0.1, rate)), 1 / 4), {"audio_dc_offset"}),
    ("copied recordings", copied_audio, {"audio_repeated"}),
    ("recordings assigned to other utterances", shuffled_audio, {"text_follows_duration", "text_fits_duration"}),
    (
        "recordings cut too early",
        rewritten(change_samples(lambda wave, rate: (wave[: rate // 5], rate)), 1 / 6),
        {"text_fits_duration"},
    ),
    ("no dev", lambda rows: [row for row in rows if row[0] != "dev"], {"splits_filled"}),
    (
        "no audio in test",
        lambda rows: [(s, replace(u, audio=None) if s == "test" else u) for s, u in rows],
        {"modalities_in_every_split", "audio_present"},
    ),
    (
        "a dialogue in two splits",
        moved("", "test", "train", audio=None),
        {"dialogue_in_one_split", "conversation_in_one_split", "conversations_apart"},
    ),
    (
        "a speaker in two splits",
        lambda rows: [(s, replace(u, speaker=rows[0][1].speaker) if s == "test" else u) for s, u in rows],
        {"speaker_in_one_split"},
    ),
    (
        "a conversation under another name",
        moved("renamed", "test", "train", audio=None),
        {"conversation_in_one_split", "conversations_apart"},
    ),
    ("a recording in two splits", shared_audio, {"audio_in_one_split"}),
]


def nan_wave() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(8000, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(("damage", "rules"), cases(DAMAGES))
def test_expectation_detects_each_row_corruption(
    damage: Damage, rules: set[str], good: tuple[DatasetInfo, list[Row]], store: LocalStore, tmp_path: Path
) -> None:
    info, rows = good
    write_dataset(tmp_path / "data", info, sorted_rows(damage(rows)))
    validation = judge(tmp_path / "data", info, store)
    assert failed_rules(validation) == rules
    severities = {one.name: one.severity for one in expectations()}
    blocks = any(severities[rule] == "block" for rule in rules)
    assert validation.verdict == ("reject" if blocks else "warn")
    for finding in json.loads(verdict_json(validation))["findings"]:
        assert finding["count"] >= 1 and 1 <= len(finding["examples"]) <= 10 and finding["sentence"].endswith(".")


def sorted_rows(rows: list[Row]) -> Iterator[Row]:
    return iter(sorted(rows, key=lambda row: SPLITS.index(row[0])))


# Changed tables


def with_table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        pq.write_table(change(pq.read_table(path)), path)

    return damage


def text_turns(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("turn"), "turn", table["turn"].cast(pa.string()))


def bare_audio(table: pa.Table) -> pa.Table:
    values = pa.array([row["bytes"] for row in table["audio"].to_pylist()], pa.binary())
    return table.set_column(table.schema.get_field_index("audio"), "audio", values)


def named_audio(table: pa.Table) -> pa.Table:
    kind = table.schema.field("audio").type
    values = pa.array([{"bytes": None, "path": "a.wav"}] * len(table), kind)
    return table.set_column(table.schema.get_field_index("audio"), "audio", values)


TABLES: list[tuple[str, Callable[[Path], object], set[str]]] = [
    ("no parquet", lambda path: path.write_bytes(b"PAR1 but not really"), {"shards_readable", "splits_filled"}),
    ("cut off", lambda path: path.write_bytes(path.read_bytes()[:-200]), {"shards_readable", "splits_filled"}),
    ("no label", with_table(lambda table: table.drop_columns(["label"])), {"columns_present"}),
    ("no dialogue", with_table(lambda table: table.drop_columns(["dialogue_id"])), {"columns_present"}),
    ("turns as text", with_table(text_turns), {"column_types"}),
    ("audio as bare bytes", with_table(bare_audio), {"column_types"}),
    ("audio as paths", with_table(named_audio), {"audio_embedded"}),
]


@pytest.mark.parametrize(("damage", "rules"), cases(TABLES))
def test_expectation_detects_each_table_corruption(
    damage: Callable[[Path], object],
    rules: set[str],
    good: tuple[DatasetInfo, list[Row]],
    store: LocalStore,
    tmp_path: Path,
) -> None:
    info, rows = good
    write_dataset(tmp_path / "data", info, iter(rows))
    damage(tmp_path / "data" / "dev-00000.parquet")
    validation = judge(tmp_path / "data", info, store)
    assert failed_rules(validation) == rules and validation.verdict == "reject"
    assert "reject" in render(validation, info.name, "")


# Drift


def only_labels(*labels: str) -> Damage:
    """Replace all other labels by the first of the given ones."""
    return lambda rows: [(s, u if u.label in labels else replace(u, label=labels[0])) for s, u in rows]


DRIFTS: list[tuple[str, Damage, set[str]]] = [
    ("a label map off by one", off_by_one(LABELS), {"drift_label_meaning"}),
    ("labels in other shares", only_labels("neutral", "sad"), {"drift_labels"}),
    (
        "slower speech",
        rewritten(change_samples(lambda wave, rate: (np.repeat(wave, 2), rate))),
        {"drift_duration"},
    ),
    ("a lower gain", rewritten(change_samples(lambda wave, rate: (wave * 0.05, rate))), {"drift_level"}),
    (
        "other words",
        rewritten(change_text(lambda text: " ".join(word[::-1] for word in text.split()))),
        {"drift_vocabulary"},
    ),
    ("shorter sentences", rewritten(change_text(lambda text: text[: max(3, len(text) // 3)])), {"drift_text_length"}),
]


@pytest.fixture(scope="module")
def champion_profile(
    good: tuple[DatasetInfo, list[Row]], store: LocalStore, tmp_path_factory: pytest.TempPathFactory
) -> Profile:
    """The profile of the undamaged dataset, against which it has no drift itself."""
    info, rows = good
    data = tmp_path_factory.mktemp("before") / "data"
    write_dataset(data, info, iter(rows))
    before = judge(data, info, store).profile
    assert not failed_rules(judge(data, info, store, before))
    return before


@pytest.mark.parametrize(("change", "rules"), cases(DRIFTS))
def test_drift_from_the_champions_data_is_detected(
    change: Damage,
    rules: set[str],
    good: tuple[DatasetInfo, list[Row]],
    champion_profile: Profile,
    store: LocalStore,
    tmp_path: Path,
) -> None:
    info, rows = good
    write_dataset(tmp_path / "now", info, iter(change(rows)))
    validation = judge(tmp_path / "now", info, store, champion_profile)
    assert rules <= failed_rules(validation)
    assert {rule for rule in failed_rules(validation) if rule.startswith("drift_")} - rules <= {"drift_vocabulary"}
    page = render(validation, info.name, "")
    assert "Against the data of the current model" in page and "moved" in page


@pytest.mark.long
def test_changed_label_set_is_detected(good: tuple[DatasetInfo, list[Row]], store: LocalStore, tmp_path: Path) -> None:
    info, rows = good
    write_dataset(tmp_path / "data", info, iter(rows))
    profile = judge(tmp_path / "data", info, store).profile
    before = profile.model_copy(update={"labels": {"bored" if k == "sad" else k: v for k, v in profile.labels.items()}})
    validation = judge(tmp_path / "data", info, store, before)
    assert {"drift_label_set", "drift_labels"} == failed_rules(validation) and validation.verdict == "warn"


# No false findings


def test_clean_sample_has_no_findings(good: tuple[DatasetInfo, list[Row]], store: LocalStore, tmp_path: Path) -> None:
    info, rows = good
    write_dataset(tmp_path / "data", info, iter(rows))
    validation = judge(tmp_path / "data", info, store)
    assert validation.verdict == "pass" and not failed_rules(validation)
    # There is no champion, and the sample declares neither roles nor further modalities.
    assert {o.rule.layer for o in validation.outcomes if o.status == "not checked"} == {"Drift", "Labels", "Modalities"}


@pytest.mark.long
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_reencoded_copy_has_no_findings(
    form: str,
    good: tuple[DatasetInfo, list[Row]],
    champion_profile: Profile,
    store: LocalStore,
    tmp_path: Path,
) -> None:
    info, rows = good
    telephone = rewritten(change_samples(lambda wave, rate: (resample(wave, rate, 16000), 16000), form))
    write_dataset(tmp_path / "data", info, iter(telephone(rows)))
    validation = judge(tmp_path / "data", info, store, champion_profile)
    assert validation.verdict == "pass" and not failed_rules(validation)


@pytest.mark.long
@pytest.mark.skipif(not MELD.is_dir(), reason="MELD's tables are not beside the project (../shared/data/meld)")
def test_meld_text_has_no_false_findings(store: LocalStore, tmp_path: Path) -> None:
    import_meld(MELD, tmp_path / "meld")
    info = load_info(tmp_path / "meld" / "dataset.yaml")
    validation = judge(tmp_path / "meld", info, store)
    # One true finding: these two test dialogues are parts of a train dialogue, with other labels.
    assert failed_rules(validation) == {"conversation_in_one_split"} and validation.verdict == "warn"
    (outcome,) = (o for o in validation.outcomes if o.status == "warn")
    assert [example.split(" ", 2)[2] for example in outcome.examples] == [
        "test/test-0084 in train/train-0012",
        "test/test-0085 in train/train-0012",
    ]
