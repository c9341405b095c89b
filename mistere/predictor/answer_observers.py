"""What happens with an answer after it is on its way: it is counted and, with consent, kept for labelling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import open_store
from mistere.config.predictor import BUNDLE_STORE
from mistere.predictor.sample.sampler import Sampler
from mistere.predictor.sample.writer import SampleWriter
from mistere.predictor.settings import ServerSettings
from mistere.predictor.traffic.observation import TrafficObserver, traffic_observer

if TYPE_CHECKING:
    from mistere.model.inference import DialoguePrediction, EmotionModel
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest


def answer_observers(model: EmotionModel, settings: ServerSettings) -> AnswerObservers:
    """The observers that the settings ask for.

    Raises:
        UsageError: a store of the settings cannot be opened.
    """
    return AnswerObservers(traffic_observer(model, settings), _sampler(model, settings))


def _sampler(model: EmotionModel, settings: ServerSettings) -> Sampler | None:
    options = settings.options
    if not options.sample_share:
        return None
    location = options.sample_store
    if location == BUNDLE_STORE:
        location, _ = split_bundle_location(settings.bundle)
    store = open_store(location, options.sample_encryption)
    return Sampler(model, SampleWriter(store, options.sample_days), options.sample_share)


class AnswerObservers:
    """The observers of a served model.

    Args:
        traffic: counts each answer.
        sampler: keeps dialogues for labelling; None to keep none.
    """

    def __init__(self, traffic: TrafficObserver, sampler: Sampler | None) -> None:
        self._traffic, self._sampler = traffic, sampler

    def observe(
        self,
        asked: Sequence[DialogueRequest],
        read: Sequence[DialogueRequest],
        predictions: Sequence[DialoguePrediction],
        plan: EncodingPlan | None,
    ) -> None:
        """Observe an answered request; never raises.

        Args:
            asked: the dialogues as the client sent them.
            read: the dialogues as the model read them, with transcripts.
            predictions: the answers, with rows of zeros for turns that are context only.
            plan: what was encoded for the request; None for vectors.
        """
        self._traffic.observe(asked, read, predictions, plan)
        if self._sampler is not None and self._sampler.wants(asked):
            self._sampler.keep(asked[0], read[0], predictions[0], plan)

    def close(self) -> None:
        """Write what is left to the stores."""
        self._traffic.recorder.close()
        if self._sampler is not None:
            self._sampler.writer.close()
