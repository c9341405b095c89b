"""The faces of the sample: the same for the same seed, told apart by emotion, and without a trace of the emotion in a speaker's looks."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
from PIL import Image

from mistere.corpora.sample.expressions import _EXPRESSIONS, _FACE_PAIRS, draw_expression
from mistere.corpora.sample.faces import FRAMES, SIZE, draw_frames
from mistere.corpora.sample.prosody import _VOICE_PAIRS
from mistere.corpora.sample.wording import _SHARED, EMOTIONS, Emotion

UTTERANCES = 400


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_the_same_seed_gives_the_same_frames() -> None:
    frames = draw_frames("happy", "speaker-01", 3)
    assert frames is not None and frames == draw_frames("happy", "speaker-01", 3)
    assert len(frames) == FRAMES and len(set(frames)) == FRAMES, "the face moves"
    for frame in frames:
        image = Image.open(io.BytesIO(frame))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))


def test_looks_differ_by_speaker_and_expressions_do_not() -> None:
    first, second = draw_frames("sad", "speaker-01", 5), draw_frames("sad", "speaker-02", 5)
    assert first is not None and second is not None and first != second
    assert draw_expression("sad", generator(5)) == draw_expression("sad", generator(5))


def test_some_faces_are_missing_whatever_the_emotion() -> None:
    for emotion in EMOTIONS:
        missing = sum(draw_expression(emotion, generator(seed)) is None for seed in range(UTTERANCES))
        assert 0.09 < missing / UTTERANCES < 0.21, emotion


def test_faces_confuse_other_emotions_than_words_and_voice() -> None:
    face = {frozenset(pair) for pair in _FACE_PAIRS.items()}
    words = {frozenset(pair) for pair, _ in _SHARED}
    voice = {frozenset(pair) for pair in _VOICE_PAIRS.items()}
    assert len(face) == 3 and not face & words and not face & voice


def test_an_expression_is_nearest_to_its_emotion_or_to_the_pair() -> None:
    """The nearest of six clear expressions is right far above chance, and far below always: the face alone does not suffice."""
    right: Counter[bool] = Counter()
    for emotion in EMOTIONS:
        for seed in range(UTTERANCES):
            expression = draw_expression(emotion, generator(seed))
            if expression is not None:
                right[nearest(np.array(expression)) == emotion] += 1
    assert 0.4 < right[True] / right.total() < 0.75


def nearest(expression: np.ndarray) -> Emotion:
    distances = {emotion: float(((expression - clear) ** 2).sum()) for emotion, clear in _EXPRESSIONS.items()}
    return min(EMOTIONS, key=distances.__getitem__)
