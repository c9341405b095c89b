"""What the effects of real calls cost a model: weighted F1 and calibration at each level, beside another model's.

Each selected dialogue is embedded once for each level of its modality, so the cost is about twenty times that of predicting it. The
figures depend on the dataset, the models and the seed only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.errors import DataError
from mistere.common.modalities import SPEECH, TEXT
from mistere.common.names import shown
from mistere.data.calls.effect import Effect, Level, Surroundings
from mistere.data.dataset import Utterance
from mistere.evaluation.changed_input import DialogueChange, embed_changed
from mistere.metrics.calibration import Calibration
from mistere.metrics.classification import DialogueBootstrap
from mistere.metrics.robustness import CallFigures, LevelFigures, ModelFigures

if TYPE_CHECKING:
    from mistere.model.dialogue_model import DialogueModel
    from mistere.model.dialogue_prediction import DialoguePrediction

Probabilities = Mapping[str, Sequence[np.ndarray]]
"""By level, ``""`` without an effect: of each dialogue, the probabilities ``[n, C]`` of the turns that are left."""
Dialogues = Callable[[], Iterable[Sequence[Utterance]]]
"""Reads the dialogues anew at each call, with all modalities of the dataset."""
OnProgress = Callable[[str, float, float], object]
"""Called with what is done, the completed and the total number of dialogues."""
_CLEAN = ""


@dataclass(frozen=True)
class CallSettings:
    """What a measurement depends on besides dataset and models.

    Attributes:
        effects: the effects.
        resamples: of the dialogues, for the intervals.
        seed: of the effects and of the resamples.
    """

    effects: Sequence[Effect]
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class _Facts:
    """A dialogue without its content: which turns have which label, −1 for context."""

    name: str
    labels: np.ndarray
    kept: Mapping[str, np.ndarray]


class CallMeasurement:
    """Measures models on the same dialogues under the same effects.

    Args:
        dialogues: reads the dialogues.
        labels: the names of the classes, in the order of the models' probabilities.
        settings: effects, resamples, seed.

    Raises:
        DataError: a label is not one of ``labels``.
    """

    def __init__(
        self,
        dialogues: Dialogues,
        labels: Sequence[str],
        settings: CallSettings,
    ) -> None:
        self._read, self._settings = dialogues, settings
        self._classes = len(labels)
        classes = {label: index for index, label in enumerate(labels)}
        self._levels = [level for effect in settings.effects for level in effect.levels]
        self._affected = {level.name: effect.affected for effect in settings.effects for level in effect.levels}
        self._facts: list[_Facts] = []

        def utterances() -> Iterator[Utterance]:
            for dialogue in dialogues():
                self._facts.append(self._facts_of(dialogue, classes))
                yield from dialogue

        self._around = Surroundings.of(utterances())
        if not self._around.has_others:
            alone = {level.name for effect in settings.effects if effect.needs_others for level in effect.levels}
            self._levels = [level for level in self._levels if level.name not in alone]
            self._affected = {name: affected for name, affected in self._affected.items() if name not in alone}

    @property
    def dialogues(self) -> int:
        """Number of dialogues."""
        return len(self._facts)

    @property
    def turns(self) -> int:
        """Number of turns with a label."""
        return int(sum((facts.labels >= 0).sum() for facts in self._facts))

    def measure(
        self, model: DialogueModel, other: DialogueModel | None = None, on_progress: OnProgress = lambda *_: None
    ) -> CallFigures:
        """The figures of a model, and of another one beside it.

        Args:
            model: with encoders.
            other: with encoders and the same labels; None for none.
            on_progress: reports progress.

        Raises:
            ValueError: no turn has a label.
        """
        if not self.turns:
            raise ValueError("no turn has a label")
        jobs = [one for one in (model, other) if one is not None]
        passes = sum(len(self._changes(one, modality)) for one in jobs for modality in one.embedders)
        done = 0

        def count(dialogues: int) -> None:
            nonlocal done
            done += dialogues
            on_progress("dialogues", done, passes * len(self._facts))

        return self.figures(self.answers(model, count), {} if other is None else self.answers(other, count))

    def figures(self, own: Probabilities, others: Probabilities) -> CallFigures:
        """The figures of the answers of a model, and of another one beside it; empty for none."""
        figures = {key: self._figures(key, own, others) for key in own}
        return CallFigures(figures.pop(_CLEAN), figures)

    def _facts_of(self, dialogue: Sequence[Utterance], classes: Mapping[str, int]) -> _Facts:
        for one in dialogue:
            if one.label is not None and one.label not in classes:
                raise DataError(
                    f"dialogue {shown(one.dialogue_id)}, turn {one.turn}: the label {shown(one.label)} is not one of {', '.join(classes)}: "
                    "correct the label, or dataset.yaml."
                )
        labels = np.array([-1 if one.label is None else classes[one.label] for one in dialogue])
        kept = {level.name: level.kept(dialogue, self._settings.seed) for level in self._levels if level.lost}
        return _Facts(dialogue[0].dialogue_id, labels, kept)

    def _kept(self, level: str) -> list[np.ndarray]:
        """Of each dialogue, which turns are left ``[n]``."""
        return [facts.kept.get(level, np.ones(len(facts.labels), bool)) for facts in self._facts]

    def answers(
        self, model: DialogueModel, count: Callable[[int], object] = lambda _: None
    ) -> dict[str, list[np.ndarray]]:
        """What a model answers, by level; without levels of a modality that it lacks.

        Args:
            model: with encoders.
            count: called with the number of dialogues that were embedded, each once for each level.
        """
        vectors = {
            modality: embed_changed(embedder, self._read(), self._changes(model, modality), count)
            for modality, embedder in model.embedders.items()
        }
        answered: dict[str, list[np.ndarray]] = {}
        for level in (_CLEAN, *self._affected):
            affected = self._affected.get(level, "turns")
            if affected == "turns" or affected in vectors or self._changes_transcripts(model, affected):
                answered[level] = [one.probabilities for one in self._predicted(model, vectors, level)]
        return answered

    def _predicted(
        self, model: DialogueModel, vectors: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], level: str
    ) -> list[DialoguePrediction]:
        embeddings = []
        for facts, kept in zip(self._facts, self._kept(level), strict=True):
            rows = {}
            for modality, by_level in vectors.items():
                changed = by_level.get(level)
                rows[modality] = by_level[_CLEAN][facts.name][kept] if changed is None else changed[facts.name]
            embeddings.append(rows)
        return model.predict_embeddings(embeddings)

    def _changes(self, model: DialogueModel, modality: str) -> dict[str, DialogueChange]:
        """The levels that change a modality's vectors in another way than leaving out rows, and no change."""
        transcribed = modality == TEXT and self._changes_transcripts(model, SPEECH)
        with_context = model.embedders[modality].settings.context_turns > 0
        changes: dict[str, DialogueChange] = {_CLEAN: self._change(model, None, transcribed=transcribed)}
        for level in self._levels:
            affected = self._affected[level.name]
            if affected == modality or (transcribed and affected == SPEECH) or (with_context and affected == "turns"):
                changes[level.name] = self._change(model, level, transcribed=transcribed)
        return changes

    def _change(self, model: DialogueModel, level: Level | None, *, transcribed: bool) -> DialogueChange:
        def change(dialogue: Sequence[Utterance]) -> Sequence[Utterance]:
            changed = dialogue if level is None else level.apply(dialogue, self._around, self._settings.seed)
            return model.transcribed(changed) if transcribed else changed

        return change

    def _changes_transcripts(self, model: DialogueModel, affected: str) -> bool:
        """Whether what happens to speech happens to texts too, because the model transcribes turns without text."""
        return affected == SPEECH and self._around.silent_texts and model.transcribes

    def _figures(self, level: str, own: Probabilities, others: Probabilities) -> LevelFigures:
        """The figures of the turns that are left and have a label."""
        kept = self._kept(level)
        labels = [facts.labels[mask] for facts, mask in zip(self._facts, kept, strict=True)]
        owners = [f.name for f, own_labels in zip(self._facts, labels, strict=True) for one in own_labels if one >= 0]
        true = np.concatenate(labels)
        labelled = true >= 0
        true = true[labelled]
        bootstrap = DialogueBootstrap(owners, self._settings.resamples, self._settings.seed)

        def figures(answers: Probabilities) -> tuple[ModelFigures, np.ndarray]:
            probabilities = np.concatenate(answers[level])[labelled]
            predicted = probabilities.argmax(1)
            loss = None
            if level:
                clean = [rows[mask] for rows, mask in zip(answers[_CLEAN], kept, strict=True)]
                before = np.concatenate(clean)[labelled].argmax(1)
                loss = bootstrap.weighted_f1_difference(true, before, predicted, self._classes)
            score = bootstrap.weighted_f1(true, predicted, self._classes)
            return ModelFigures(score, Calibration(probabilities, true).expected_error(bootstrap), loss), predicted

        model, predicted = figures(own)
        if level not in others:
            return LevelFigures(len(true), model)
        other, beside = figures(others)
        difference = bootstrap.weighted_f1_difference(true, predicted, beside, self._classes)
        return LevelFigures(len(true), model, other, difference)
