"""Figures of the candidate under the effects of real calls, and of the champion on the same dialogues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from mistere.artifacts.io import artifact_key
from mistere.artifacts.manifests import ChampionEvaluation, ModelBundle, UtteranceSet
from mistere.common.errors import DataError
from mistere.config.evaluation import EvaluationConfig
from mistere.data.calls.catalogue import effects_named
from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader
from mistere.engine.stage import Step
from mistere.evaluation.calls import CallMeasurement, CallSettings

if TYPE_CHECKING:
    from mistere.model.dialogue_model import DialogueModel


def measure_calls(
    config: EvaluationConfig,
    step: Step,
    reference: UtteranceSet,
    model: DialogueModel,
    champion: ChampionEvaluation | None,
) -> dict[str, float]:
    """Metrics under each level of the configured effects.

    Args:
        config: effects, number of dialogues, resamples, seed.
        step: this execution.
        reference: the dataset.
        model: the candidate.
        champion: how the champion was evaluated; None without a champion.
    """
    reader = UtteranceReader(reference, ("test",), store=step.store)

    def dialogues() -> Iterator[list[Utterance]]:
        return islice(reader.dialogues("test"), config.robustness_dialogues)

    settings = CallSettings(effects_named(config.call_effects), config.resamples, config.seed)
    measurement = CallMeasurement(dialogues, reference.labels, settings)
    if not measurement.turns:
        raise DataError(
            f"no turn of the first test dialogues ({config.robustness_dialogues}) has a label: raise evaluation.robustness_dialogues."
        )
    other = _champion(step, champion)

    def report(_: str, done: float, total: float) -> None:
        step.progress("dialogues under the effects of calls", done, total)

    return measurement.measure(model, other, report).metrics()


def _champion(step: Step, evaluation: ChampionEvaluation | None) -> DialogueModel | None:
    """The champion, unless it cannot be compared or takes vectors."""
    if evaluation is None or evaluation.incomparable:
        return None
    with step.loading():
        from mistere.model.inference import load_bundle
    loaded = load_bundle(step.store.location(artifact_key(ModelBundle.__name__, evaluation.bundle_digest)))
    return loaded if loaded.embedders else None
