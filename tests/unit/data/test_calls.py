"""The effects of real calls have the documented strength, keep the length, and depend on the seed and the utterance alone."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import soundfile

from mistere.common.errors import UsageError
from mistere.config.calls import CallEffect, SpeechEffect
from mistere.data.audio import decode, resample
from mistere.data.calls.catalogue import EFFECTS, LEVELS, effects_named
from mistere.data.calls.channels import through_opus, with_lost_packets
from mistere.data.calls.effect import Level, Surroundings
from mistere.data.calls.noises import in_a_room, street, with_babble, with_street
from mistere.data.calls.word_errors import with_word_errors
from mistere.data.dataset import Utterance
from mistere.evaluation.calls import CallMeasurement, CallSettings

RATE = 16000
HEARD = [level for effect in EFFECTS.values() if effect.affected == "speech" for level in effect.levels]
every_heard = pytest.mark.parametrize("level", HEARD, ids=[level.name for level in HEARD])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def voice(pitch: float = 120.0, seconds: float = 1.5) -> np.ndarray:
    """A buzz of harmonics that swells and fades like syllables."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * pitch * number * time) / number for number in range(1, 12))
    return (0.1 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def wav(wave: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def utterance(turn: int = 0, dialogue: str = "d", audio: bytes | None = None, text: str | None = None) -> Utterance:
    return Utterance(dialogue_id=dialogue, turn=turn, label="joy", text=text, audio=audio)


@pytest.fixture(scope="module")
def around() -> Surroundings:
    dialogues = [f"e{number}" for number in range(8)]
    return Surroundings.of(
        utterance(0, name, wav(voice(90 + 23 * index)), "well I think so") for index, name in enumerate(dialogues)
    )


def samples(audio: bytes | None) -> np.ndarray:
    assert audio is not None
    return resample(*decode(audio), RATE)


def level_of(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))


def test_settings_name_the_effects_of_the_catalogue() -> None:
    named = {name for part in get_args(CallEffect) for name in (get_args(part) or (part,))}
    assert named == set(EFFECTS)
    assert set(get_args(SpeechEffect)) == {name for name, one in EFFECTS.items() if one.affected == "speech"}
    assert all(level.effect == name for name, one in EFFECTS.items() for level in one.levels)
    assert len(LEVELS) == sum(len(one.levels) for one in EFFECTS.values()), "the names of the levels are unique"
    assert [one.name for one in effects_named(["street", "codec"])] == ["codec", "street"]
    with pytest.raises(UsageError, match="there is no effect 'bable'; did you mean 'babble'"):
        effects_named(["bable"])


@every_heard
def test_an_effect_changes_speech_and_keeps_its_length(level: Level, around: Surroundings) -> None:  # type: ignore[no-untyped-def]
    original = utterance(3, audio=wav(voice(seconds=2.0)), text="well")
    changed = level.utterance(original, around, 0)
    before, after = samples(original.audio), samples(changed.audio)
    assert abs(len(before) - len(after)) <= 2 and np.isfinite(after).all()
    assert replace(changed, audio=original.audio) == original
    count = min(len(before), len(after))
    assert level_of(after[:count] - before[:count]) > 0.01 * level_of(before)
    assert np.array_equal(samples(level.utterance(original, around, 0).audio), after), "the same seed, the same samples"


@every_heard
@pytest.mark.parametrize("count", [1, 2, 159, 321])
def test_an_effect_accepts_very_short_and_silent_recordings(level: Level, count: int, around: Surroundings) -> None:  # type: ignore[no-untyped-def]
    for wave in (np.zeros(count, np.float32), voice()[:count]):
        assert np.isfinite(samples(level.utterance(utterance(audio=wav(wave)), around, 1).audio)).all()


@every_heard
def test_an_effect_leaves_what_does_not_decode(level: Level, around: Surroundings) -> None:  # type: ignore[no-untyped-def]
    for audio in (None, b"", b"RIFF, but no more", b"\0" * 100):
        assert level.utterance(utterance(audio=audio), around, 0) == utterance(audio=audio)


def test_effects_of_chance_differ_between_utterances_and_seeds(around: Surroundings) -> None:
    for name in ("packet_loss_20", "babble_10db", "street_10db", "reverberation_600ms"):
        level = LEVELS[name]
        one = utterance(0, audio=wav(voice()))
        heard = {
            samples(level.utterance(replace(one, turn=turn), around, seed).audio).tobytes()
            for turn in (0, 1)
            for seed in (0, 1)
        }
        assert len(heard) == 4, name


@pytest.mark.parametrize("decibels", [20, 10, 0])
def test_noises_have_the_requested_signal_to_noise_ratio(decibels: int) -> None:
    wave, voices = voice(), [voice(80 + 17 * number) for number in range(9)]
    for noisy, _ in (with_babble(wave, decibels, generator(), voices), with_street(wave, decibels, generator())):
        ratio = level_of(wave) / level_of(noisy.astype(np.float64) - wave)
        assert 20 * np.log10(ratio) == pytest.approx(decibels, abs=0.1)


def test_babble_is_made_of_other_dialogues() -> None:
    own, other = voice(100), voice(250)
    around = Surroundings([("d", own), ("e", other)])
    assert len(around.others("d")) == 1 and np.array_equal(around.others("d")[0], other)
    assert len(around.others("x")) == 2
    alone = Surroundings([("d", own), ("d", other)])
    assert around.has_others and not alone.has_others and alone.others("d") == [], "never the speaker's own"
    wave = voice()
    assert np.array_equal(with_babble(wave, 0, generator(), [])[0], wave)


def test_other_voices_are_measured_only_where_there_are_others() -> None:
    def levels(*dialogues: str) -> set[str]:
        settings = CallSettings(effects_named(["babble", "clipping"]))
        turns = [[utterance(dialogue=name, audio=wav(voice()))] for name in dialogues]
        return set(CallMeasurement(lambda: iter(turns), ["joy"], settings)._affected)

    assert levels("d") == {"clipping_1", "clipping_5", "clipping_20"}
    assert levels("d", "e") == levels("d") | {"babble_20db", "babble_10db", "babble_0db"}


def test_a_street_rumbles_below_speech() -> None:
    spectrum = np.abs(np.fft.rfft(street(10 * RATE, generator()))) ** 2
    hertz = np.fft.rfftfreq(10 * RATE, 1 / RATE)
    assert spectrum[hertz < 300].sum() > 2 * spectrum[hertz > 1000].sum()


def test_surroundings_take_few_recordings_of_many_dialogues() -> None:
    long = wav(voice(seconds=9.5))
    turns = [
        utterance(turn, f"d{dialogue}", long if turn else b"", "So it IS") for dialogue in range(3) for turn in range(4)
    ]
    around = Surroundings.of([*turns, utterance(9, "short", wav(voice(seconds=0.3)))])
    assert Counter(name for name, _ in around.voices) == {"d0": 2, "d1": 2, "d2": 2}
    assert all(len(wave) <= 8 * RATE + 1 for _, wave in around.voices)
    assert around.words == ["is", "it", "so"] and around.silent_texts


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_packets_are_lost_in_the_requested_share_and_concealed(share: float) -> None:
    wave = np.tile(voice(seconds=2.0), 30)
    output, rate = with_lost_packets(wave, share, generator())
    assert rate == RATE and output.shape == wave.shape
    packets = (output != wave).reshape(-1, 320).mean(1) > 0.5
    assert packets.mean() == pytest.approx(share, rel=0.25)
    starts = np.flatnonzero(np.diff(packets.astype(int)) == 1)
    assert packets.sum() / len(starts) == pytest.approx(2, rel=0.25), "two packets are lost in a row on average"
    silenced = np.where(np.repeat(packets, 320), 0, wave)
    assert level_of(output - wave) < 0.8 * level_of(silenced - wave), "concealment is better than silence"


def test_a_long_gap_fades_to_silence() -> None:
    wave = voice(seconds=3.0)
    output, _ = with_lost_packets(wave, 0.9, generator(2))
    assert level_of(output) < 0.6 * level_of(wave)
    assert not with_lost_packets(wave, 1.0, generator())[0].any()


def test_a_codec_with_fewer_bits_is_worse() -> None:
    wave = voice() + 0.02 * generator().standard_normal(len(voice())).astype(np.float32)
    errors = [level_of(through_opus(wave, kilobits)[0] - wave) for kilobits in (32, 16, 6)]
    assert errors == sorted(errors) and errors[0] < errors[2]


def test_a_room_echoes_for_its_time() -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 1.0
    for seconds in (0.3, 0.6, 1.2):
        response, _ = in_a_room(click, seconds, generator())
        energy = np.cumsum(response[::-1].astype(np.float64)[: -int(0.005 * RATE)] ** 2)[::-1]
        decay = 10 * np.log10(energy / energy[0] + 1e-12)
        measured = 2 * (np.argmax(decay < -35) - np.argmax(decay < -5)) / RATE
        assert measured == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("percent", [1, 5, 20])
def test_clipping_clips_the_requested_share(percent: int, around: Surroundings) -> None:
    before = voice()
    after = samples(LEVELS[f"clipping_{percent}"].utterance(utterance(audio=wav(before)), around, 0).audio)
    assert np.mean(np.abs(after) >= 0.9999 * np.abs(after).max()) == pytest.approx(percent / 100, abs=0.003)
    assert level_of(after) == pytest.approx(level_of(before), rel=1e-4)


def distance(true: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(true, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1]


@pytest.mark.parametrize(
    "rate", [pytest.param(0.1, marks=pytest.mark.long), pytest.param(0.2, marks=pytest.mark.long), 0.3]
)
def test_word_errors_have_the_requested_rate(rate: float) -> None:
    words = [f"{first}{second}n" for first in "abcdefghij" for second in "aeiou"]
    true = [words[index] for index in generator(1).integers(len(words), size=1500)]
    heard = with_word_errors(" ".join(true), rate, generator(), words).split()
    assert distance(true, heard) / len(true) == pytest.approx(rate, rel=0.15)


def test_word_errors_are_similar_words_and_keep_one() -> None:
    assert with_word_errors("night.", 1.0, generator(1), ["light", "banana", "night"]) in {
        "light.",
        "night. light",
        "night.",
    }
    assert all(with_word_errors("no", 1.0, generator(seed), []) for seed in range(20))
    assert with_word_errors("as it is", 0.0, generator(), ["x"]) == "as it is"
    assert " " not in with_word_errors("今日はいい天気", 0.3, generator(), ["雨", "雪"])
    mixed = "My name is Mueller 李 and I live in 北京 today"
    seen = {with_word_errors(mixed, 0.3, generator(seed), ["light", "banana"]) for seed in range(40)}
    assert all(set(one.split()) & {"name", "and", "live"} for one in seen), (
        "a name does not make English a text of letters"
    )
    assert all(len(one.split()) >= 5 and "  " not in one for one in seen) and any("北京" in one for one in seen)
    assert with_word_errors(f" {mixed}\n", 0.0, generator(), ["x"]) == mixed
    level = LEVELS["word_errors_30"]
    assert level.utterance(utterance(text=None, audio=b"x"), Surroundings(), 0) == utterance(text=None, audio=b"x")


def test_lost_turns_are_nested_and_leave_a_labelled_one() -> None:
    dialogue = [utterance(turn) for turn in range(400)]
    kept = [
        {one.turn for one in LEVELS[f"missing_turns_{share}"].apply(dialogue, Surroundings(), 0)}
        for share in (10, 25, 50)
    ]
    assert kept[0] > kept[1] > kept[2]
    assert [len(turns) / 400 for turns in kept] == pytest.approx([0.9, 0.75, 0.5], abs=0.06)
    for seed in range(30):
        pair = [replace(utterance(0), label=None), utterance(1)]
        left = LEVELS["missing_turns_50"].apply(pair, Surroundings(), seed)
        assert any(one.label for one in left)
