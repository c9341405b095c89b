"""The figures of a comparison: what is counted, intervals, verdicts, files, and a live conversation that is counted once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.parsing.documents import ParseError
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.shadow.conversations import Conversations
from mistere.predictor.shadow.copy import DialogueCopy
from mistere.predictor.stream.origin import StreamOrigin
from mistere.serving.shadow.figures import (
    MOST_DIALOGUES,
    OUTCOMES,
    Comparison,
    DifferingDialogue,
    ShadowCounts,
    add_seconds,
)
from mistere.serving.shadow.files import read_comparisons, read_counts, shadow_file, shadow_key
from mistere.serving.shadow.summary import Summary, agreement, quantile, share_of_errors, wilson

LABELS = ("anger", "joy", "neutral")


def rows(labels: list[int], confidence: float = 0.8) -> np.ndarray:
    values = np.full((len(labels), 3), (1 - confidence) / 2)
    values[np.arange(len(labels)), labels] = confidence
    return values


def counts_of(dialogues: list[tuple[list[int], list[int]]]) -> ShadowCounts:
    comparison, counts = Comparison(LABELS, LABELS), ShadowCounts(LABELS, LABELS)
    for number, (front, shadow) in enumerate(dialogues):
        comparison.count(counts, comparison.tally(), rows(front), rows(shadow, 0.6), f"call-{number}")
        counts.outcomes["compared"] += 1
        add_seconds(counts, 0.01, 0.02)
    return counts


def test_turns_are_counted_by_both_labels() -> None:
    counts = counts_of([([0, 1, 2], [0, 2, 2]), ([1], [1])])
    assert counts.pairs.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    summary = Summary(counts)
    assert (summary.agreement.part, summary.agreement.of, summary.dialogues) == (3, 4, 2)
    assert summary.by_label["joy"].part == 1 and summary.by_label["joy"].of == 2
    assert summary.confidences() == {"front": 0.825, "shadow": 0.625}
    (differing,) = counts.dialogues
    assert (differing.identity, differing.turns, differing.differing) == ("call-0", 3, 1)
    assert summary.latencies()["front"]["p50"] == pytest.approx(10, rel=0.3)


def test_labels_are_compared_by_name_and_context_turns_not_at_all() -> None:
    comparison = Comparison(("anger", "joy"), ("joy", "surprise", "anger"))
    counts = ShadowCounts(("anger", "joy"), ("joy", "surprise", "anger"))
    front = np.array([[0.9, 0.1], [0, 0], [0.2, 0.8]])
    shadow = np.array([[0.1, 0.0, 0.9], [0.1, 0.0, 0.9], [0.1, 0.9, 0.0]])
    comparison.count(counts, comparison.tally(), front, shadow, "x")
    assert agreement(counts.sums[-1]).part == 1 and agreement(counts.sums[-1]).of == 2
    assert counts.distance[0] == 1 and counts.distance[-2] == 1  # 0 and 0.9


def test_a_growing_dialogue_is_one_dialogue_whose_turns_count_once() -> None:
    comparison, counts = Comparison(LABELS, LABELS), ShadowCounts(LABELS, LABELS)
    tally = comparison.tally()
    front, shadow = rows([0, 1, 2, 2]), rows([0, 2, 2, 0])
    for turns in (1, 2, 2, 4):
        comparison.count(counts, tally, front[:turns], shadow[:turns], f"request-{turns}")
    whole = counts_of([([0, 1, 2, 2], [0, 2, 2, 0])])
    assert (counts.sums == whole.sums).all() and (counts.pairs == whole.pairs).all()


def copy_of(*texts: str, audio: bytes | None = None) -> DialogueCopy:
    turns = [RequestTurn(text=text, audio=audio if not number else None) for number, text in enumerate(texts)]
    return DialogueCopy("id", DialogueRequest(turns=turns), np.zeros((len(turns), 3)), 0.0)


def test_a_conversation_is_recognised_by_all_its_turns() -> None:
    conversations = Conversations(Comparison(LABELS, LABELS).tally)
    first = conversations.tally(*copy_of("Hello", audio=b"sound").chain())
    assert conversations.tally(*copy_of("Hello there", audio=b"sound").chain()) is first, "the transcript came later"
    longer = copy_of("Hello", "And?", audio=b"sound")
    assert conversations.tally(*longer.chain()) is first
    assert conversations.tally(*copy_of("Hello", "Or?", audio=b"sound").chain()) is not first, "it has gone on"
    assert conversations.tally(*longer.chain()) is first
    text = conversations.tally(*copy_of("Hello").chain())
    assert conversations.tally(*copy_of("Hello").chain()) is not text, "texts alone may be equal by chance"


def test_a_stream_is_one_conversation_while_its_window_slides() -> None:
    comparison, counts = Comparison(LABELS, LABELS), ShadowCounts(LABELS, LABELS)
    conversations = Conversations(comparison.tally)
    labels, others = [0, 1, 2, 0, 1, 2], [0, 2, 2, 0, 0, 2]

    def answer(first: int, last: int) -> None:
        turns = [RequestTurn(audio=bytes([number])) for number in range(first, last + 1)]
        copy = DialogueCopy("id", DialogueRequest(turns=turns, origin=StreamOrigin(b"one", first)), np.zeros(0), 0.0)
        front = rows(labels[first : last + 1])
        front[:-1] = 0  # context
        comparison.count(
            counts, conversations.tally(*copy.chain()), front, rows(others[first : last + 1]), "id", copy.first
        )

    for last in range(6):
        answer(max(0, last - 2), last)
    answer(2, 4)  # again, with a transcript
    whole = counts_of([(labels, others)])
    assert (counts.sums == whole.sums).all() and (counts.pairs == whole.pairs).all()


def test_interval_allows_for_dialogues_that_differ() -> None:
    mixed = Summary(counts_of([([0, 1], [0, 2])] * 100)).agreement
    apart = Summary(counts_of([([0, 1], [0, 1])] * 50 + [([0, 1], [1, 0])] * 50)).agreement
    assert mixed.value == apart.value == 0.5
    assert apart.high - apart.low > 1.3 * (mixed.high - mixed.low)
    assert wilson(5, 10, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    all_same = Summary(counts_of([([0] * 50, [0] * 50)] * 30)).agreement
    assert all_same.low < 0.95, "30 dialogues are 30, however long they are"


def test_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(50):
        dialogues = []
        for _ in range(60):
            same = generator.random(8) < generator.beta(8, 2)
            dialogues.append(([0] * 8, [0 if one else 1 for one in same]))
        share = Summary(counts_of(dialogues)).agreement
        covered += share.low <= 0.8 <= share.high
    assert covered >= 44


def test_verdicts() -> None:
    alike, apart = [([0, 1], [0, 1])] * 400, [([0, 1], [1, 0])] * 400
    assert Summary(counts_of(alike)).verdict == "alike"
    assert Summary(counts_of(apart)).verdict == "different"
    assert "is below 70 %" in Summary(counts_of(apart)).reasons[0]
    few = Summary(counts_of(alike[:30]))
    assert few.verdict == "undecided" and "60 turns of 30 dialogues" in few.reasons[0]
    failing = counts_of(alike)
    failing.outcomes["failed"] = 40
    assert Summary(failing).verdict == "different" and share_of_errors(failing).of == 440
    full = counts_of(alike)
    full.outcomes |= {"full": 10_000, "busy": 500, "unsendable": 20}
    assert Summary(full).verdict == "alike", "what was dropped is no error of the shadow"
    assert json.dumps(Summary(failing).as_dict())
    empty = Summary(ShadowCounts(LABELS, LABELS))
    assert empty.verdict == "undecided" and json.dumps(empty.as_dict(), allow_nan=False)


def test_quantiles_of_latencies() -> None:
    counts = ShadowCounts(LABELS, LABELS)
    for value in np.geomspace(0.001, 1, 1000):
        add_seconds(counts, value, 1e9)
    assert quantile(counts.seconds[0], 0.5) == pytest.approx(0.0316, rel=0.1)
    assert quantile(counts.seconds[1], 0.5) <= 100


def test_only_the_most_different_dialogues_are_kept() -> None:
    counts = ShadowCounts(LABELS, LABELS)
    for number in range(100):
        counts.keep(DifferingDialogue(f"{number}", 100, number, 0.5))
    assert [one.differing for one in counts.dialogues] == list(range(99, 99 - MOST_DIALOGUES, -1))
    counts.keep(DifferingDialogue("99", 200, 1, 0.1))
    assert counts.dialogues[-1] == DifferingDialogue("99", 200, 1, 0.1), (
        "the later record of an id replaces the earlier one"
    )


def test_files_are_read_as_written_and_added_over_replicas(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    counts = counts_of([([0, 1, 2], [0, 2, 2]), ([1], [1])])
    counts.outcomes["slow"] = 3
    hostile = "\u202e<b>\x00,\n"
    counts.keep(DifferingDialogue(hostile, 3, 3, 1.0))
    for replica in ("a", "b"):
        store.write(shadow_key("f" * 64, "e" * 64, 500_000, replica, 90), shadow_file(counts))
    store.write(shadow_key("f" * 64, "e" * 64, 500_000, "c", 90), b"no parquet")
    store.write(f"shadow/{'f' * 64}/{'e' * 64}/2026-02-31T00/a.parquet", shadow_file(counts))
    notes: list[str] = []
    window = (499_999, 500_001)
    read = read_comparisons(store, ("f" * 64, "e" * 64), (LABELS, LABELS), window, notes.append)
    assert list(read) == [500_000] and len(notes) == 1 and ".parquet is left out" in notes[0]
    assert (read[500_000].sums == 2 * counts.sums).all() and read[500_000].outcomes["slow"] == 6
    assert read[500_000].dialogues[0].identity == hostile
    later = read_comparisons(store, ("f" * 64, "e" * 64), (LABELS, LABELS), (500_001, 500_002), notes.append)
    assert later == {}
    other = read_comparisons(store, ("f" * 64, "e" * 64), (("joy",), LABELS), window, lambda _: None)[500_000]
    assert other.pairs.tolist() == [[0, 2, 2]], "rows of unknown labels are ignored"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (("pairs", "anger", "anger", 0, -1, None), "valid bin and count"),
        (("pairs", "anger", "anger", 0, 1 << 60, None), "valid bin and count"),
        (("pairs", None, "anger", 0, 1, None), "no figure"),
        (("dialogue", "x" * 300, "", 3, 2, 0.5), "none"),
        (("dialogue", "x", "", 3, 4, 0.5), "none"),
        (("dialogue", "x", "", 3, 2, float("nan")), "none"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, row: tuple[object, ...], problem: str) -> None:
    names = ("figure", "key", "other", "bin", "count", "value")
    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int64(), pa.float64())
    arrays = [pa.array([value], kind) for value, kind in zip(row, types, strict=True)]
    pq.write_table(pa.table(arrays, names=list(names)), tmp_path / "x.parquet")
    with pytest.raises(ParseError, match=re.escape(problem)):
        read_counts(tmp_path / "x.parquet", LABELS, LABELS)


def test_a_file_has_a_bounded_size_whatever_was_counted(tmp_path: Path) -> None:
    counts = ShadowCounts(LABELS, LABELS)
    for array in counts.arrays.values():
        array += np.random.default_rng(0).integers(1, 1 << 40, array.shape)
    counts.outcomes = dict.fromkeys(OUTCOMES, 1 << 40)
    for number in range(1000):
        counts.keep(DifferingDialogue(f"{number:>256}", 128, 127, 0.123456789))
    assert len(shadow_file(counts)) < 32_768
