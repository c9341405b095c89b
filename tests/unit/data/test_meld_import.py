"""MELD is imported with repaired text, renumbered turns and media folders; damaged folders are rejected."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.corpora.importers.meld import LABELS, import_meld
from mistere.data.dataset import Utterance, load_info, read_utterances, shards_of
from mistere.data.text_repair import looks_damaged, repair
from tests.unit.data.corpus_files import shard_digests, wav

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
REAL_TABLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "meld"


def row(
    text: str, emotion: str = "neutral", dialogue: int | str = 0, utterance: int | str = 0, speaker: str = "Ross"
) -> str:
    return f'1,"{text}",{speaker},{emotion},neutral,{dialogue},{utterance},4,7,"00:20:57,256","00:21:00,049"'


def make_source(directory: Path, **tables: list[str] | bytes) -> Path:
    """Write a MELD folder; a split that is not given holds one row."""
    directory.mkdir()
    for split in SPLITS:
        table = tables.get(split, [row("Hello.")])
        content = table if isinstance(table, bytes) else "\n".join([HEADER, *table, ""]).encode()
        (directory / f"{split}_sent_emo.csv").write_bytes(content)
    return directory


def read(directory: Path, split: Split) -> list[Utterance]:
    return list(read_utterances(shards_of(directory.iterdir(), split)))


@pytest.mark.parametrize(
    ("damaged", "repaired"),
    [
        ("It\u0092s \u0093fine\u0094 \u0096 really\u0085", "It\u2019s \u201cfine\u201d \u2013 really\u2026"),
        ("It\u00e2\u20ac\u2122s fine", "It\u2019s fine"),
        ("no\u00e2\u20ac\u201dwait", "no\u2014wait"),
        ("Nestl\u00c3\u00a9", "Nestl\u00e9"),
        ("\u00e2\u20ac\u0153Hi\u00e2\u20ac\u009d", "\u201cHi\u201d"),
        ("don\ufffdt \ufffd", "don\u2019t"),
        ("a\u00a0b ", "a b"),
        ("fianc\u00e9e, \u00e2ge, \u2018Kay \u2014 Adi\u00f3s", "fianc\u00e9e, \u00e2ge, \u2018Kay \u2014 Adi\u00f3s"),
    ],
)
def test_repair_restores_mojibake(damaged: str, repaired: str) -> None:
    assert repair(damaged) == repaired
    assert repair(repaired) == repaired
    assert not looks_damaged(repaired)
    assert looks_damaged(damaged) or "\u00a0" in damaged or damaged == repaired


def decoded_wrongly(text: str, encoding: str) -> str:
    """UTF-8 decoded with another encoding, as programs do: bytes that it leaves undefined become control characters."""
    characters = []
    for byte in text.encode():
        try:
            characters.append(bytes([byte]).decode(encoding))
        except UnicodeDecodeError:
            characters.append(chr(byte))
    return "".join(characters)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text",
    [
        "Część, jak się masz dziś?",
        "Už víš, že přijdu?",
        "Őrült ügy",
        "Привет, как дела?",
        "Да",
        "Καλημέρα, τι κάνεις;",
        "שלום, מה שלומך?",
        "مرحبا كيف حالك",
        "Բարեւ",
        "გამარჯობა",
        "你好吗？",
        "これはテストです。",
        "안녕하세요",
        "สวัสดี",
        "नमस्ते",
        "Þetta er gott, ég heiti Jón",
        "Très bien, c’est déjà fait…",
        "CORAZÓN",
        "Österreich, ÖSTERREICH",
        "Đây là tiếng Việt",
        "It’s fine 😀",
        "€5",
    ],
)
def test_double_encoding_is_found_and_repaired_in_every_script(text: str, encoding: str) -> None:
    damaged = decoded_wrongly(text, encoding)
    assert looks_damaged(damaged) and repair(damaged) == text
    assert not looks_damaged(text) and repair(text) == text
    twice = decoded_wrongly(damaged, encoding)
    assert looks_damaged(twice) and repair(twice) == text


def test_every_first_byte_of_utf8_is_known() -> None:
    letters: dict[int, str] = defaultdict(str)
    for character in filter(str.isalpha, map(chr, range(0xA0, 0x110000))):
        first = character.encode()[0]
        if len(letters[first]) < 24:
            letters[first] += character
    assert len(letters) > 30
    for first, words in letters.items():
        assert looks_damaged(decoded_wrongly(words, "cp1252")), hex(first)


@pytest.mark.parametrize(
    "text",
    [
        "fiancée, âge, Adiós, Ñandú",
        "Grüße aus Köln: „schön“, MENÜ“",
        "« Là-bas, où ça ? À l’hôtel » — NÃO",
        "zażółć gęślą jaźń",
        "câștig, hâlâ”, Mâţe",
        "これはテストです。",
        "Привет, как дела?",
        "Viel Spaß… „Spaß“ Spaß–",
        "CAFÉ… É… não",
        "AMANHÃ… IRMÃ”",
        "VÍŠ, ŽE JO. BLÍŽ! Úžasné, víš…",
        "« fiancé…” « allé »",
        "DÛ ? ESPAÑ– Ñ…",
        "Ä…hm, Ö…",
        "NESCAFÉ™ × 3×4 Å”",
        "Ó’Brien, TÀ’, ‘É’, «É»",
    ],
)
def test_repair_keeps_ordinary_accents(text: str) -> None:
    assert not looks_damaged(text)
    assert repair(text) == text


def test_turns_are_sorted_and_renumbered(tmp_path: Path) -> None:
    train = [
        row("Third.", "joy", 7, 5),
        row("First, with a comma.", "Anger", 7, 0, "Rachel"),
        row("Second.", "fear", 7, 2),
        row("Elsewhere.", "disgust", 3, 1),
    ]
    source = make_source(tmp_path / "source", train=train)
    report = import_meld(source, tmp_path / "meld")
    assert report.counts == {"train": 4, "dev": 1, "test": 1}
    assert report.dialogues == {"train": 2, "dev": 1, "test": 1}
    assert report.notes == [
        "train: 4 utterances came in, 9989 are published.",
        "dev: 1 utterance came in, 1109 are published.",
        "test: 1 utterance came in, 2610 are published.",
        "4 dialogues came in, 1432 are published.",
        "2 dialogues skip utterance numbers: the turns are numbered again.",
        f"{source} holds no media folder (train_splits, dev_splits_complete, output_repeated_splits_test): text only.",
    ]
    rows = read(tmp_path / "meld", "train")
    assert [(u.dialogue_id, u.turn, u.label, u.text) for u in rows] == [
        ("train-0003", 0, "disgust", "Elsewhere."),
        ("train-0007", 0, "anger", "First, with a comma."),
        ("train-0007", 1, "fear", "Second."),
        ("train-0007", 2, "joy", "Third."),
    ]
    assert rows[1].speaker == "Rachel" and all(u.audio is None for u in rows)
    assert read(tmp_path / "meld", "dev")[0].dialogue_id == "dev-0000"
    info = load_info(tmp_path / "meld" / "dataset.yaml")
    assert info.labels == list(LABELS) == ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
    assert not info.speaker_disjoint and not info.synthetic


def test_cp1252_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    windows = "\n".join([HEADER, row("It\u2019s here\u2026"), ""]).encode("cp1252")
    marked = b"\xef\xbb\xbf" + "\r\n".join([HEADER, row("It\u2019s here\u2026"), ""]).encode()
    source = make_source(tmp_path / "source", train=windows, dev=marked)
    import_meld(source, tmp_path / "meld")
    assert read(tmp_path / "meld", "train")[0].text == read(tmp_path / "meld", "dev")[0].text == "It\u2019s here\u2026"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([row("Hello.", "bored")], "line 2: unknown emotion 'bored'"),
        ([row("Hello.", dialogue="x")], "line 2: Dialogue_ID is 'x', not a whole number"),
        ([row("Hello.", utterance="")], "line 2: Utterance_ID is '', not a whole number"),
        ([row("One."), row("Two.")], "line 3: this dialogue already has an utterance 0"),
        ([row(" ")], "line 2: the utterance has no text"),
        ([], "holds no utterances"),
        (b"Utterance,Speaker,Dialogue_ID,Utterance_ID\nHello.,Ross,0,0\n", "lacks the column 'Emotion'"),
        (b"", "lacks the column 'Utterance'"),
        ([row("Hel\0lo.")], "line 2: there is a NUL byte"),
        ([row("x" * 200_000)], "line 2: not readable as CSV"),
        (["1,2,3"], "line 2: 3 fields, where the header has 11"),
        ([row("Hello.", dialogue="9" * 5000)], "line 2: Dialogue_ID is '9+', not a whole number"),
    ],
)
def test_damaged_table_is_rejected_with_its_line(tmp_path: Path, table: list[str] | bytes, message: str) -> None:
    source = make_source(tmp_path / "source", dev=table)
    with pytest.raises(DataError, match=message) as caught:
        import_meld(source, tmp_path / "meld")
    assert "dev_sent_emo.csv" in str(caught.value)
    assert not (tmp_path / "meld").exists()


def test_missing_table_is_rejected(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (source / "test_sent_emo.csv").unlink()
    with pytest.raises(UsageError, match=r"test_sent_emo\.csv is missing"):
        import_meld(source, tmp_path / "meld")


def test_folder_at_a_table_path_is_rejected(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (source / "dev_sent_emo.csv").unlink()
    (source / "dev_sent_emo.csv").mkdir()
    with pytest.raises(UsageError, match=r"dev_sent_emo\.csv is missing"):
        import_meld(source, tmp_path / "meld")


def test_media_folders_supply_the_audio(tmp_path: Path) -> None:
    train = [row("One."), row("Two.", utterance=1), row("Three.", utterance=2)]
    source = make_source(tmp_path / "source", train=train)
    folders = [source / "train" / "train_splits", source / "output_repeated_splits_test"]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "dia0_utt0.mp4").write_bytes(wav(100))
    (folders[0] / "dia0_utt0.wav").write_bytes(wav(200))
    (folders[0] / "dia0_utt1.mp4").write_bytes(b"")
    (folders[0] / "._dia0_utt2.mp4").write_bytes(b"")
    (folders[1] / "dia0_utt0.wav").write_bytes(wav(300))
    (folders[1] / "final_videos_testdia0_utt0.mp4").write_bytes(wav(400))
    report = import_meld(source, tmp_path / "meld")
    assert [u.audio for u in read(tmp_path / "meld", "train")] == [wav(200), None, None]
    assert read(tmp_path / "meld", "test")[0].audio == wav(400)
    assert report.notes[-2:] == [
        "2 utterances have no audio file and go without audio (train dia0_utt2, dev dia0_utt0).",
        "1 utterance has an audio file that can't be read and goes without audio (train dia0_utt1).",
    ]
    assert "Text only" not in load_info(tmp_path / "meld" / "dataset.yaml").description
    import_meld(source, tmp_path / "again", media=source)
    assert shard_digests(tmp_path / "again") == shard_digests(tmp_path / "meld")

    assert not any("audio" in note for note in import_meld(source, tmp_path / "text", text_only=True).notes)
    assert all(u.audio is None for u in read(tmp_path / "text", "train"))
    with pytest.raises(UsageError, match="holds none of MELD's media folders"):
        import_meld(source, tmp_path / "none", media=tmp_path / "elsewhere")


@pytest.mark.skipif(not REAL_TABLES.is_dir(), reason="MELD's tables are not beside the project (../shared/data/meld)")
def test_real_tables_have_the_published_counts(tmp_path: Path) -> None:
    report = import_meld(REAL_TABLES, tmp_path / "meld", text_only=True)
    assert report.counts == {"train": 9989, "dev": 1109, "test": 2610}
    assert report.dialogues == {"train": 1038, "dev": 114, "test": 280}
    assert report.notes[0] == "76 dialogues skip utterance numbers: the turns are numbered again."
    assert not any("published" in note or "text only" in note for note in report.notes)
    dialogues = set()
    for split in SPLITS:
        for utterance in read(tmp_path / "meld", split):
            dialogues.add(utterance.dialogue_id)
            assert utterance.text and utterance.speaker and utterance.label in LABELS
            assert not looks_damaged(utterance.text)
    assert len(dialogues) == 1038 + 114 + 280
