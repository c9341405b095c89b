"""What of a request and its answer is counted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import open_store
from mistere.common.modalities import SPEECH, TEXT
from mistere.config.predictor import BUNDLE_STORE
from mistere.data.scripts import main_script
from mistere.data.text_repair import is_blank
from mistere.predictor import metrics
from mistere.predictor.protocol.codec import expert_names
from mistere.predictor.settings import ServerSettings
from mistere.predictor.traffic.prometheus import TRAFFIC
from mistere.predictor.traffic.recorder import TrafficRecorder
from mistere.predictor.traffic.turn_memory import TurnMemory, chained
from mistere.serving.traffic.figures import OTHER, Figures, pair_counts, prediction_positions

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest

logger = logging.getLogger("kserve.predictor")


def traffic_observer(model: EmotionModel, settings: ServerSettings) -> TrafficObserver:
    """Start to count the traffic of a model, and show it to Prometheus.

    Raises:
        UsageError: the store of the settings cannot be opened.
    """
    location = settings.options.traffic_store
    if location == BUNDLE_STORE:
        location, _ = split_bundle_location(settings.bundle)
    figures = Figures(tuple(model.labels), tuple(model.experts), tuple(sorted(model.vector_digests)))
    store = open_store(location) if location else None
    recorder = TrafficRecorder(figures, model.bundle.digest, store, settings.options.traffic_seconds)
    TRAFFIC.recorder = recorder
    return TrafficObserver(recorder, expert_names(model.experts), model.bundle.scripts)


class TrafficObserver:
    """Counts each turn of the answered dialogues once.

    Args:
        recorder: receives the counts.
        experts: names of the columns of a prediction's weights, which may be more than the model's experts.
        scripts: of the texts that the model was trained on; none if they are not recorded.
    """

    def __init__(self, recorder: TrafficRecorder, experts: Sequence[str], scripts: Iterable[str] = ()) -> None:
        self.recorder = recorder
        self._scripts = frozenset(scripts)
        self._columns = [list(experts).index(name) for name in recorder.figures.experts]
        self._memory = TurnMemory()

    def observe(
        self,
        asked: Sequence[DialogueRequest],
        read: Sequence[DialogueRequest],
        predictions: Sequence[DialoguePrediction],
        plan: EncodingPlan | None,
    ) -> None:
        """Count the dialogues of an answered request. An error in counting is logged, because the answer is right without it.

        Args:
            asked: the dialogues as the client sent them, by which a turn is recognised.
            read: the dialogues as the model read them, with transcripts.
            predictions: the answers, with rows of zeros for turns that are context only.
            plan: what was encoded for the request; None for vectors.
        """
        try:
            for number, (sent, dialogue, prediction) in enumerate(zip(asked, read, predictions, strict=True)):
                keys = {} if plan is None else plan.keys[number]
                turns, unique = _names(sent, keys)
                sounds = {} if plan is None else _sounds(plan, keys.get(SPEECH, ()))
                self._observe(turns, unique, dialogue, prediction, sounds, first=not number)
        except Exception:
            logger.exception("the traffic of a request was not counted")

    def _observe(
        self,
        turns: Sequence[bytes],
        unique: bool,
        dialogue: DialogueRequest,
        prediction: DialoguePrediction,
        sounds: Mapping[int, tuple[float, float]],
        first: bool,
    ) -> None:
        figures = self.recorder.figures
        probabilities = prediction.probabilities
        predicted = probabilities.max(axis=1) > 0
        flags, begins = self._memory.new_turns(turns, predicted.tolist(), unique)
        new = np.asarray(flags)
        chosen = np.flatnonzero(new)
        known = int(predicted.sum()) - len(chosen)
        counted = {
            "requests": int(first),
            "dialogues": int(begins),
            "turns": len(chosen),
            "resent": known,
            "context": len(flags) - len(chosen) - known,
        }
        positions: list[np.ndarray | list[int]] = []
        pairs: np.ndarray | None = None
        if len(chosen):
            weights = prediction.expert_weights[chosen][:, self._columns]
            modalities = [prediction.modalities[index] for index in chosen]
            positions.append(prediction_positions(figures, probabilities[chosen], weights, modalities))
            if len(flags) > 1:
                pairs = pair_counts(probabilities[predicted].argmax(1), new[predicted], len(figures.labels))
            inputs = [sounds[index] for index in chosen.tolist() if index in sounds]
            counted["recordings"] = len(inputs)
            positions.append(_sound_positions(figures, inputs))
            if dialogue.turns:
                texts = [(dialogue.turns[index].text or "").strip() for index in chosen]
                texts = [text for text in texts if text and not is_blank(text)]
                counted["texts"] = len(texts)
                scripts = [script for text in texts if (script := main_script(text)) is not None]
                positions.append(_text_positions(figures, texts, scripts))
                if self._scripts:
                    metrics.UNKNOWN_SCRIPT.inc(sum(script not in self._scripts for script in scripts))
        self.recorder.add(positions, counted, pairs)


def _sound_positions(figures: Figures, sounds: Sequence[tuple[float, float]]) -> list[int]:
    seconds, level = figures.by_name["seconds"], figures.by_name["rms_dbfs"]
    return [place for sound in sounds for place in (seconds.position(sound[0]), level.position(sound[1]))]


def _text_positions(figures: Figures, texts: Sequence[str], scripts: Sequence[str]) -> list[int]:
    length, places = figures.by_name["text_length"], figures.script_positions
    return [
        *(length.position(len(text)) for text in texts),
        *(places.get(script, places[OTHER]) for script in scripts),
    ]


def _sounds(plan: EncodingPlan, keys: Sequence[bytes | None]) -> dict[int, tuple[float, float]]:
    """Seconds and level (dBFS) of the recordings of a dialogue that were decoded for this request, by turn.

    Args:
        plan: the request's.
        keys: of the recordings, None for a turn without one.
    """
    tasks = {index: plan.tasks[key] for index, key in enumerate(keys) if key is not None and key in plan.tasks}
    return {index: task.sound for index, task in tasks.items() if task.sound is not None}


def _names(dialogue: DialogueRequest, keys: Mapping[str, Sequence[bytes | None]]) -> tuple[list[bytes], bool]:
    """Names of the turns of a request, and whether no other dialogue begins alike: a stream, one with a recording, or of vectors.

    Args:
        dialogue: as the client sent it.
        keys: digests of the contents of further modalities, by modality and turn.
    """
    if dialogue.origin is not None:  # a part of a conversation: what came before it is not there
        return dialogue.origin.turns(len(dialogue)), True
    contents, unique = _contents(dialogue, keys)
    return chained(contents), unique


def _contents(dialogue: DialogueRequest, keys: Mapping[str, Sequence[bytes | None]]) -> tuple[list[bytes], bool]:
    """The content of each turn of a request, and whether no other dialogue begins alike: one with a recording, or of vectors.

    A recording is known by its digest alone, because a client may add its transcript later.

    Args:
        dialogue: as the client sent it.
        keys: digests of the contents of further modalities, by modality and turn.
    """
    if dialogue.embeddings:
        rows = [np.ascontiguousarray(dialogue.embeddings[name]) for name in sorted(dialogue.embeddings)]
        return [b"".join(matrix[index].tobytes() for matrix in rows) for index in range(len(dialogue))], True
    further = [keys[name] for name in sorted(keys) if name not in (SPEECH, TEXT)]
    contents, unique = [], False
    for index, turn in enumerate(dialogue.turns):
        others = b"".join(column[index] or b"" for column in further)
        said = bytes.fromhex(turn.clip_digest) if turn.clip_digest else (turn.text or "").strip().encode()
        unique = unique or bool(turn.clip_digest or others)
        contents.append(bytes([bool(turn.clip_digest)]) + others + said)
    return contents, unique
