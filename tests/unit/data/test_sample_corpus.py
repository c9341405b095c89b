"""The sample is a valid dataset, identical for the same seed, with no speaker in two splits."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.splits import SPLITS, Split
from mistere.corpora.sample import make_sample, ogg, prosody
from mistere.corpora.sample.assembly import describe
from mistere.corpora.sample.faces import FRAMES
from mistere.corpora.sample.planner import DIALOGUES as DIALOGUES_IN_FULL
from mistere.corpora.sample.planner import plan, split_sizes
from mistere.corpora.sample.synthesis import synthesize
from mistere.corpora.sample.turn_kinds import FILLER, KINDS, NOISY, PLAIN, draw_kind
from mistere.corpora.sample.voices import voices_of
from mistere.corpora.sample.wording import EMOTIONS, word
from mistere.data.dataset import Utterance, load_info, read_utterances, shards_of

SEED, DIALOGUES = 5, 3

needs_synthesizer = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="the speech synthesizer is not installed (pip install -e .[sample])",
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Split, int], list[tuple[int, int]]]:
    directory = tmp_path_factory.mktemp("corpora") / "sample"
    progress: list[tuple[int, int]] = []
    counts = make_sample(directory, SEED, DIALOGUES, on_progress=lambda done, total: progress.append((done, total)))
    return directory, counts, progress


def utterances(directory: Path, split: Split) -> list[Utterance]:
    return list(read_utterances(shards_of(directory.iterdir(), split)))


@pytest.mark.long
@needs_synthesizer
def test_same_seed_gives_the_same_bytes(sample: tuple[Path, dict[Split, int], object], tmp_path: Path) -> None:
    directory, counts, _ = sample
    again = tmp_path / "again"
    assert make_sample(again, SEED, DIALOGUES) == counts
    files = sorted(path.name for path in directory.iterdir())
    assert files == sorted(path.name for path in again.iterdir())
    for name in files:
        assert (directory / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.long
@needs_synthesizer
def test_faces_are_added_on_demand(sample: tuple[Path, dict[Split, int], object], tmp_path: Path) -> None:
    assert make_sample(tmp_path / "faces", SEED, DIALOGUES, faces=True) == sample[1]
    info = load_info(tmp_path / "faces" / "dataset.yaml")
    assert info.modalities == {"face": "frames"} and not load_info(sample[0] / "dataset.yaml").modalities
    plain = utterances(sample[0], "test")
    rows = list(read_utterances(shards_of((tmp_path / "faces").iterdir(), "test"), modalities=info.kinds))
    assert [(row.text, row.audio, row.label) for row in rows] == [(row.text, row.audio, row.label) for row in plain]
    assert {len(row.others.get("face", ())) for row in rows} == {0, FRAMES}


@needs_synthesizer
def test_sample_has_the_dataset_form(sample: tuple[Path, dict[Split, int], list[tuple[int, int]]]) -> None:
    directory, counts, progress = sample
    info = load_info(directory / "dataset.yaml")
    assert info.name == "sample" and info.labels == list(EMOTIONS)
    assert info.synthetic and info.speaker_disjoint and "ynthetic" in info.description
    total = sum(counts.values())
    assert progress == [(done, total) for done in range(1, total + 1)]
    speakers: dict[str, str] = {}
    for split in SPLITS:
        rows = utterances(directory, split)
        assert len(rows) == counts[split]
        turns: dict[str, list[int]] = {}
        for row in rows:
            turns.setdefault(row.dialogue_id, []).append(row.turn)
            assert row.text and row.label in info.labels and row.speaker
            assert speakers.setdefault(row.speaker, split) == split
        for numbers in turns.values():
            assert numbers == list(range(len(numbers))) and 8 <= len(numbers) <= 14


@needs_synthesizer
def test_sample_audio_is_16_khz_mono_speech(sample: tuple[Path, dict[Split, int], object]) -> None:
    seconds = size = 0.0
    for row in utterances(sample[0], "test"):
        assert row.audio is not None
        with soundfile.SoundFile(io.BytesIO(row.audio)) as file:
            assert (file.samplerate, file.channels, file.format) == (16_000, 1, "OGG")
            audio = file.read(dtype="float32")
        assert 0.2 < len(audio) / 16_000 < 8
        assert np.sqrt(np.mean(audio**2)) > 0.005
        seconds += len(audio) / 16_000
        size += len(row.audio)
    assert size / seconds < 4000, "more than 32 kbit/s"


@needs_synthesizer
def test_synthesis_of_an_utterance_does_not_depend_on_order() -> None:
    requests: list[dict[str, str | int]] = [
        {"text": text, "variant": variant, "rate": 165, "pitch": 50, "range": 50}
        for text, variant in (
            ("I know.", "f2"),
            ("Did you hear that noise upstairs?", "m3"),
            ("Wait a moment.", "Annie"),
        )
    ]
    forward = [speech.tobytes() for speech, _ in synthesize(requests)]
    backward = [speech.tobytes() for speech, _ in synthesize(reversed(requests))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 3


@needs_synthesizer
def test_synthesizer_failure_is_reported_in_one_sentence() -> None:
    request: dict[str, str | int] = {"text": "Hello.", "variant": "nobody", "rate": 165, "pitch": 50, "range": 50}
    with pytest.raises(MistereError, match="speech synthesizer stopped: espeak-ng"):
        list(synthesize([request]))


def test_missing_synthesizer_error_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MistereError, match=r"pip install -e \.\[sample\]"):
        make_sample(tmp_path / "sample", SEED, DIALOGUES)
    assert not (tmp_path / "sample").exists()


def test_committed_dataset_yaml_matches_the_sample(tmp_path: Path) -> None:
    """The chain data.dvc → .dir → dataset.yaml in the committed remote, checked without the synthesizer."""
    remote = PROJECT_ROOT / ".dvc" / "sample-remote" / "files" / "md5"
    tracked = yaml.safe_load((PROJECT_ROOT / "data.dvc").read_text())["outs"][0]
    folder = (remote / tracked["md5"][:2] / tracked["md5"][2:]).read_bytes()
    assert hashlib.md5(folder).hexdigest() + ".dir" == tracked["md5"]
    files = {entry["relpath"]: entry["md5"] for entry in json.loads(folder)}
    objects = {name: remote / digest[:2] / digest[2:] for name, digest in files.items()}
    assert tracked["nfiles"] == len(files) and tracked["size"] == sum(path.stat().st_size for path in objects.values())
    info = load_info(objects["sample/dataset.yaml"])
    assert info == describe(7) and info.source == "mistere data sample --seed 7"
    stored_files = {path for path in remote.rglob("*") if path.is_file()}
    assert stored_files >= {*objects.values(), remote / tracked["md5"][:2] / tracked["md5"][2:]}
    listed = {
        remote / entry["md5"][:2] / entry["md5"][2:]
        for listing in remote.rglob("*.dir")
        for entry in json.loads(listing.read_bytes())
    }
    assert stored_files == listed | set(remote.rglob("*.dir")), "an object that no version of the sample names"


def test_full_sample_plan_has_the_documented_sizes() -> None:
    assert split_sizes(DIALOGUES_IN_FULL) == {"train": 80, "dev": 30, "test": 150}
    planned = list(plan(1, DIALOGUES_IN_FULL))
    assert planned == list(plan(1, DIALOGUES_IN_FULL)) and planned != list(plan(2, DIALOGUES_IN_FULL))
    rows = {split: [utterance for utterance in planned if utterance.split == split] for split in SPLITS}
    assert len(rows["test"]) >= 1600 and len(rows["train"]) >= 850
    for emotion in EMOTIONS:
        assert sum(utterance.emotion == emotion for utterance in rows["test"]) >= 120
    for kind in KINDS:
        assert sum(utterance.kind is kind for utterance in planned) / len(planned) == pytest.approx(
            kind.share, abs=0.03
        )
    dialogues: dict[str, set[str]] = {}
    for utterance in planned:
        dialogues.setdefault(utterance.dialogue_id, set()).add(utterance.voice.name)
    assert len(dialogues) == DIALOGUES_IN_FULL and all(len(speakers) <= 2 for speakers in dialogues.values())


@pytest.mark.parametrize("dialogues", range(3, 12))
def test_small_samples_have_every_split(dialogues: int) -> None:
    sizes = split_sizes(dialogues)
    assert sum(sizes.values()) == dialogues and min(sizes.values()) >= 1


def test_a_filler_says_nothing_about_the_emotion_and_noise_hides_the_voice() -> None:
    fillers = {emotion: {word(emotion, FILLER, random.Random(seed)) for seed in range(300)} for emotion in EMOTIONS}
    assert len({frozenset(texts) for texts in fillers.values()}) == 1
    assert max(NOISY.noise_below_speech_db) < 0 < min(PLAIN.noise_below_speech_db)
    speech = (10_000 * np.sin(np.arange(22_050) * 0.1)).astype(np.int16)
    voice = voices_of("train")[0]
    tone = []
    for kind in (PLAIN, NOISY):
        draw = np.random.Generator(np.random.PCG64(1))
        recording = prosody.record(speech, 22_050, voice, prosody.Prosody(1, 1, 1, 0, 0, 0), kind, 0.0, draw)
        power = np.abs(np.fft.rfft(recording)) ** 2
        tone.append(power.max() / power.sum())
    assert tone[0] > 0.5 > 2 * tone[1], "the share of the tone in the recording's power"


def test_too_few_dialogues_are_rejected() -> None:
    with pytest.raises(UsageError, match="at least 3"):
        split_sizes(2)


def test_voices_are_distinct_across_splits() -> None:
    voices = [voice for split in SPLITS for voice in voices_of(split)]
    assert len({voice.name for voice in voices}) == len(voices)
    assert len({(voice.variant, voice.pitch, voice.tract) for voice in voices}) == len(voices)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_each_wording_fills_its_slots(emotion: str) -> None:
    draw = random.Random(3)
    texts = {word(emotion, draw_kind(draw), draw) for _ in range(500)}  # type: ignore[arg-type]
    assert len(texts) > 60
    for text in texts:
        assert "{" not in text and text[0].isupper() and text[-1] in ".?"


def test_synthesis_settings_stay_in_range() -> None:
    for number in range(300):
        draw = np.random.Generator(np.random.PCG64(number))
        drawn = prosody.draw_prosody(EMOTIONS[number % len(EMOTIONS)], KINDS[number % len(KINDS)], draw)
        voice = voices_of("train")[number % 24]
        settings = prosody.synthesis_settings(voice, drawn)
        assert 90 <= settings["rate"] <= 300 and 0 <= settings["pitch"] <= 99 and 0 <= settings["range"] <= 99


def test_ogg_pages_differ_in_their_serial_only() -> None:
    tone = (0.1 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
    first, second = ogg.encode(tone, 16_000, serial=1), ogg.encode(tone, 16_000, serial=2)
    assert first != second
    assert ogg.with_serial(second, 1) == first == ogg.encode(tone, 16_000, serial=1)
    decoded, rate = soundfile.read(io.BytesIO(first))
    assert rate == 16_000 and len(decoded) == len(tone)


def test_ogg_checksum_matches_libogg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CRC computed for a page that libogg wrote equals libogg's value."""
    monkeypatch.setattr(ogg, "with_serial", lambda data, serial: data)
    original = ogg.encode(np.zeros(8000, np.float32), 16_000, serial=0)
    monkeypatch.undo()
    serial = int.from_bytes(original[14:18], "little")
    assert ogg.with_serial(original, serial) == original


def test_invalid_ogg_is_rejected() -> None:
    with pytest.raises(ValueError, match="no Ogg page at byte 0"):
        ogg.with_serial(b"RIFF....", 1)
