"""Degradations of speech and text have the documented strength; the speaker probe detects speaker information."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from components.evaluate_model.robustness import changed
from components.evaluate_model.speaker_probe import probe_speakers
from mistere.config.evaluation import EvaluationConfig
from mistere.data.audio import decode
from mistere.data.conditions import condition_named, usual_conditions
from mistere.data.dataset import Utterance
from mistere.data.kinds.audio import encoded as encoded_as
from mistere.data.kinds.audio import noisy, telephone_band
from mistere.data.kinds.text import without_words

RATE = 16000
CONDITIONS = usual_conditions()
HEARD = [name for name, condition in CONDITIONS.items() if condition.modality == "speech"]
READ = [name for name, condition in CONDITIONS.items() if condition.modality == "text"]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(wave: np.ndarray, rate: int = RATE, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form)
    return buffer.getvalue()


def utterance(text: str | None = None, audio: bytes | None = None, turn: int = 0, name: str = "d") -> Utterance:
    return Utterance(dialogue_id=name, turn=turn, label="joy", text=text, audio=audio, speaker="ann")


def content(one: Utterance) -> tuple[object, ...]:
    """Comparable content of an utterance. Samples are decoded because a float WAV file's PEAK chunk holds a timestamp."""
    samples, rate = decode(one.audio) if one.audio else (np.empty(0, np.float32), 0)
    return one.dialogue_id, one.turn, one.label, one.text, one.speaker, rate, samples.tobytes()


def level(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))


def strength(wave: np.ndarray, rate: int, hertz: float) -> float:
    """Amplitude of a tone in the middle of the samples."""
    middle = wave[len(wave) // 4 : -len(wave) // 4].astype(np.float64)
    turning = np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / rate)
    return float(2 * abs((middle * turning * np.hanning(len(middle))).sum()) / np.hanning(len(middle)).sum())


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(max(ratio, 1e-12)))


def degraded_by(condition: str, one: Utterance, seed: int = 0) -> Utterance:
    named = CONDITIONS[condition]
    return changed(named.degradation, named.modality, 0, one, seed)


def test_conditions_are_named_by_modality_and_degradation() -> None:
    assert HEARD == ["noise_20db", "noise_10db", "noise_0db", "telephone", "telephone_codec"]
    assert READ == ["words_10", "words_20"]
    face = condition_named("face_fewer_frames")
    assert face is not None and (face.modality, face.words) == ("face", "face: every second image lost")
    assert condition_named("face_noise") is None and condition_named("_blur") is None


def test_another_modality_is_degraded_alone() -> None:
    condition = condition_named("acoustic_columns_30")
    assert condition is not None
    one = replace(utterance("well"), others={"acoustic": np.ones(200, np.float32), "face": (b"x",)})
    degraded = changed(condition.degradation, "acoustic", 0, one, 0)
    assert (
        100 < degraded.others["acoustic"].sum() < 180 and degraded.others["face"] == (b"x",) and degraded.text == "well"
    )
    assert changed(condition.degradation, "acoustic", 0, utterance("well"), 0) == utterance("well")


# Speech


@pytest.mark.parametrize("requested", [20.0, 10.0, 0.0, -5.0])
@pytest.mark.parametrize("loud", [0.001, 0.4])
def test_noise_has_the_requested_signal_to_noise_ratio(requested: float, loud: float) -> None:
    wave = tone(300, 2.0, level=loud) * np.linspace(0.2, 1, 2 * RATE, dtype=np.float32)
    degraded = noisy(wave, requested, generator())
    assert degraded.dtype == np.float32 and degraded.shape == wave.shape
    noise = degraded.astype(np.float64) - wave
    assert decibels(level(wave) / level(noise)) == pytest.approx(requested, abs=0.3)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    low, high = spectrum[: len(spectrum) // 2].sum(), spectrum[len(spectrum) // 2 :].sum()
    assert low / high == pytest.approx(1, abs=0.1), "the noise is white"


def test_noise_leaves_silence_silent() -> None:
    assert not noisy(np.zeros(100, np.float32), 10, generator()).any()


@pytest.mark.parametrize("condition", ["noise_20db", "noise_10db", "noise_0db"])
def test_noise_conditions_keep_rate_and_length(condition: str) -> None:
    wave, rate = decode(encoded(tone(300, rate=22050), 22050))
    audio = degraded_by(condition, utterance(audio=encoded(wave, rate))).audio
    assert audio is not None
    degraded, rate_now = decode(audio)
    assert rate_now == rate and len(degraded) == len(wave)
    requested = float(condition.removeprefix("noise_").removesuffix("db"))
    assert decibels(level(wave) / level(degraded - wave)) == pytest.approx(requested, abs=0.3)


def test_noise_louder_than_full_scale_is_not_clipped() -> None:
    audio = degraded_by("noise_0db", utterance(audio=encoded(tone(300, level=0.9)))).audio
    assert audio is not None and np.abs(decode(audio)[0]).max() > 1


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_telephone_filter_passes_its_band(rate: int) -> None:
    for hertz, least, most in ((100, -np.inf, -20), (3900, -np.inf, -20), (1000, -1, 1), (2500, -1, 1)):
        degraded = telephone_band(tone(hertz, 1.0, rate), rate)
        assert degraded.dtype == np.float32 and len(degraded) == 8000
        assert least < decibels(strength(degraded, 8000, hertz) / 0.4) < most, hertz


def test_telephone_filter_does_not_alias() -> None:
    degraded = telephone_band(tone(7000), RATE)
    assert decibels(level(degraded[1000:-1000]) / level(tone(7000))) < -40


@pytest.mark.parametrize("samples", [1, 2, 5, 16, 17, 40, 200])
def test_telephone_filter_accepts_very_short_audio(samples: int) -> None:
    degraded = telephone_band(tone(500, rate=8000)[:samples], 8000)
    assert len(degraded) == samples and np.isfinite(degraded).all()


def test_telephone_condition_encodes_as_mu_law() -> None:
    original = utterance(audio=encoded(tone(1000)))
    forms = {}
    for condition in ("telephone", "telephone_codec"):
        audio = degraded_by(condition, original).audio
        assert audio is not None
        forms[condition] = soundfile.info(io.BytesIO(audio))
        wave, rate = decode(audio)
        assert rate == 8000 and len(wave) == 8000
        assert decibels(strength(wave, rate, 1000) / 0.4) == pytest.approx(0, abs=1)
    assert (forms["telephone_codec"].format, forms["telephone_codec"].subtype) == ("WAV", "ULAW")
    assert forms["telephone_codec"].samplerate == 8000 and forms["telephone"].subtype == "FLOAT"


@pytest.mark.parametrize("loud", [1.0, 2.0, 1e3, 1e9])
def test_telephone_codec_cuts_off_at_full_scale(loud: float) -> None:
    """libsndfile encodes µ-law with a table that it does not keep to: 1.01 became 0.06, and 1000 a segmentation fault."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(1000, level=loud), RATE, format="WAV", subtype="FLOAT")
    audio = degraded_by("telephone_codec", utterance(audio=buffer.getvalue())).audio
    assert audio is not None
    wave, rate = decode(audio)
    expected = np.clip(telephone_band(tone(1000, level=loud), RATE), -1, 1)
    assert rate == 8000 and np.abs(wave - expected).max() < 0.02


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "PCM_16", "PCM_24", "IMA_ADPCM", "GSM610"])
def test_no_encoder_is_given_samples_beyond_full_scale(subtype: str) -> None:
    wave = np.array([0.5, 1.01, -1.01, 2, -2, 1e9, -1e9, np.inf, -np.inf, np.nan] * 64, np.float32)
    decoded, _ = soundfile.read(io.BytesIO(encoded_as(wave, 8000, subtype)), dtype="float32")
    assert np.isfinite(decoded).all() and np.abs(decoded).max() <= 1
    if subtype in ("ULAW", "ALAW", "PCM_16"):
        np.testing.assert_allclose(decoded[: len(wave)], np.clip(np.nan_to_num(wave), -1, 1), atol=0.02)


def test_integers_are_encoded_as_they_are() -> None:
    samples = np.array([-32768, -2, 1, 20_000, 32767], np.int16)
    decoded, _ = soundfile.read(io.BytesIO(encoded_as(samples, 8000, "PCM_16")), dtype="int16")
    np.testing.assert_array_equal(decoded, samples)


@pytest.mark.parametrize("condition", HEARD)
def test_degradation_keeps_utterances_without_decodable_audio(condition: str) -> None:
    for audio in (None, b"", b"RIFF, but no more than that", b"\0" * 100):
        original = utterance("well", audio)
        assert degraded_by(condition, original) == original


@pytest.mark.parametrize("condition", HEARD)
def test_audio_degradation_changes_only_audio_of_any_codec(condition: str) -> None:
    stereo = np.stack([tone(500), tone(700)], 1)
    for audio in (encoded(tone(500)), encoded(tone(500), form="OGG"), encoded(stereo, form="FLAC")):
        original = utterance("well", audio)
        degraded = degraded_by(condition, original)
        assert degraded.audio and degraded.audio != audio and replace(degraded, audio=audio) == original


# Text


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_word_loss_removes_the_requested_share_and_keeps_order(share: float) -> None:
    words = [f"w{number}" for number in range(5000)]
    remaining = without_words(" ".join(words), share, generator()).split()
    spread = np.sqrt(len(words) * share * (1 - share))
    assert abs(len(words) - len(remaining) - share * len(words)) < 4 * spread
    numbers = [int(word[1:]) for word in remaining]
    assert numbers == sorted(set(numbers)) and set(remaining) <= set(words)


def test_word_loss_keeps_at_least_one_word() -> None:
    assert without_words("well I never", 1.0, generator()) == "well"
    assert all(without_words("no", 0.9, generator(seed)) == "no" for seed in range(50))
    assert without_words("as it is", 0.0, generator()) == "as it is"
    assert without_words("   ", 0.5, generator()) == ""


@pytest.mark.parametrize("condition", READ)
def test_text_degradation_changes_only_text(condition: str) -> None:
    original = utterance(" ".join(["word"] * 400), encoded(tone(500)))
    degraded = degraded_by(condition, original)
    assert degraded.text is not None and replace(degraded, text=original.text) == original
    lost = 1 - len(degraded.text.split()) / 400
    assert lost == pytest.approx(float(condition.removeprefix("words_")) / 100, abs=0.08)
    for silent in (utterance(None, original.audio), utterance("", original.audio)):
        assert degraded_by(condition, silent) == silent


# Determinism


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_degradation_depends_on_seed_and_utterance_only(condition: str) -> None:
    text = " ".join(f"w{number}" for number in range(100))
    original = [utterance(text, encoded(tone(500)), turn, name) for name in ("d", "e") for turn in (0, 1)]
    number = list(CONDITIONS).index(condition)
    named = CONDITIONS[condition]
    change = named.degradation, named.modality, number
    first = [changed(*change, one, 3) for one in original]
    again = [changed(*change, one, 3) for one in reversed(original)][::-1]
    assert [content(one) for one in first] == [content(one) for one in again]
    if "telephone" not in condition:
        other = [changed(*change, one, 4) for one in original]
        outcomes = {content(one) for one in [*first, *other]}
        assert len(outcomes) == 8, "each utterance has independent draws"


# The speaker probe

SPEAKERS, EMOTIONS = 6, 4
CONFIG = EvaluationConfig(resamples=300)


def conversations(seed: int = 0) -> tuple[list[str | None], list[str], np.ndarray, np.ndarray]:
    """Speakers (names and numbers), dialogues and emotions of 60 dialogues; speakers have emotional habits."""
    draw = generator(seed)
    habits = draw.dirichlet(np.full(EMOTIONS, 1.5), size=SPEAKERS)
    numbers, dialogues = [], []
    for index in range(60):
        pair = draw.choice(SPEAKERS, 2, replace=False)
        numbers += [int(pair[turn % 2]) for turn in range(8)]
        dialogues += [f"d{index}"] * 8
    emotions = np.array([draw.choice(EMOTIONS, p=habits[number]) for number in numbers])
    return [f"speaker {number}" for number in numbers], dialogues, np.array(numbers), emotions


def test_speaker_probe_recognises_speakers_in_voice_vectors() -> None:
    speakers, dialogues, numbers, emotions = conversations()
    draw = generator(1)
    voices = draw.normal(size=(SPEAKERS, 16))
    carried = voices[numbers] + draw.normal(0, 1.0, (len(numbers), 16))
    metrics = probe_speakers(carried, speakers, dialogues, emotions, CONFIG)
    assert metrics["test.speaker_probe.speakers"] == SPEAKERS
    assert metrics["test.speaker_probe.accuracy"] > 0.7 > 2 * metrics["test.speaker_probe.chance"] * 0.7
    low, value, high = (metrics[f"test.speaker_probe.beyond_chance{end}"] for end in (".low", "", ".high"))
    assert 0.3 < low < value < high
    assert value == pytest.approx(
        metrics["test.speaker_probe.accuracy"] - metrics["test.speaker_probe.chance"], abs=1e-7
    )
    assert probe_speakers(carried, speakers, dialogues, emotions, CONFIG) == metrics


@pytest.mark.parametrize("seed", range(4))
def test_speaker_probe_is_at_chance_on_emotion_vectors(seed: int) -> None:
    speakers, dialogues, _, emotions = conversations(seed)
    draw = generator(10 + seed)
    carried = 3 * np.eye(EMOTIONS)[emotions] + draw.normal(0, 0.3, (len(emotions), EMOTIONS))
    metrics = probe_speakers(carried, speakers, dialogues, emotions, CONFIG)
    assert metrics["test.speaker_probe.beyond_chance.low"] <= 0.02
    assert abs(metrics["test.speaker_probe.beyond_chance"]) < 0.08
    assert metrics["test.speaker_probe.chance"] > 1 / SPEAKERS, "emotional habits alone exceed uniform chance"


def test_speaker_probe_does_not_profit_from_dialogue_identity() -> None:
    speakers, dialogues, _, emotions = conversations()
    draw = generator(2)
    places = {name: draw.normal(size=16) for name in dict.fromkeys(dialogues)}
    carried = np.array([places[name] for name in dialogues]) + draw.normal(0, 0.1, (len(dialogues), 16))
    metrics = probe_speakers(carried, speakers, dialogues, emotions, CONFIG)
    assert metrics["test.speaker_probe.beyond_chance.low"] <= 0.02


def test_speaker_probe_needs_several_speakers_with_several_dialogues() -> None:
    speakers, dialogues, numbers, emotions = conversations()
    vectors = generator().normal(size=(len(numbers), 4))
    nobody: list[str | None] = [None] * len(numbers)
    assert probe_speakers(vectors, nobody, dialogues, emotions, CONFIG) == {}
    assert probe_speakers(vectors, ["ann"] * len(numbers), dialogues, emotions, CONFIG) == {}
    once: list[str | None] = [f"{name} {number % 2}" for name, number in zip(dialogues, numbers, strict=True)]
    assert probe_speakers(vectors, once, dialogues, emotions, CONFIG) == {}
    assert probe_speakers(vectors, speakers, ["one"] * len(numbers), emotions, CONFIG) == {}
    assert probe_speakers(vectors[:0], [], [], emotions[:0], CONFIG) == {}


def test_speaker_probe_excludes_unknown_and_single_dialogue_speakers() -> None:
    speakers, dialogues, numbers, emotions = conversations()
    voices = generator(1).normal(size=(SPEAKERS, 16))
    carried = voices[numbers] + generator(3).normal(0, 1.0, (len(numbers), 16))
    wanted = probe_speakers(carried, speakers, dialogues, emotions, CONFIG)
    more = [*speakers, *["guest"] * 8, *[None] * 8]
    owners = [*dialogues, *["d60"] * 8, *["d61"] * 8]
    vectors = np.concatenate([carried, np.full((16, 16), 100.0)])
    assert probe_speakers(vectors, more, owners, np.concatenate([emotions, np.zeros(16, int)]), CONFIG) == wanted
    returning = [*speakers, *["guest"] * 16]
    metrics = probe_speakers(vectors, returning, owners, np.concatenate([emotions, np.zeros(16, int)]), CONFIG)
    assert metrics["test.speaker_probe.speakers"] == SPEAKERS + 1


def test_speaker_probe_limits_itself_to_the_most_frequent_speakers() -> None:
    speakers: list[str | None] = [f"s{number:02}" for number in range(60) for _ in range(2 if number < 30 else 4)]
    dialogues = [f"d{index}" for index in range(len(speakers))]
    vectors = generator().normal(size=(len(speakers), 3))
    metrics = probe_speakers(vectors, speakers, dialogues, np.zeros(len(speakers), int), CONFIG)
    assert metrics["test.speaker_probe.speakers"] == 50


def test_speaker_probe_counts_unseen_speakers_as_errors() -> None:
    speakers: list[str | None] = ["ann", "bob", "ann", "bob"]
    metrics = probe_speakers(generator().normal(size=(4, 2)), speakers, ["d", "d", "e", "e"], np.zeros(4, int), CONFIG)
    assert metrics["test.speaker_probe.speakers"] == 2 and 0 <= metrics["test.speaker_probe.accuracy"] <= 1
    split: list[str | None] = ["ann", "ann", "bob", "bob"]
    assert probe_speakers(generator().normal(size=(4, 2)), split, ["d", "d", "e", "e"], np.zeros(4, int), CONFIG) == {}
