"""What happens with an answer after it is on its way: it is counted, compared with a shadow's, logged and, with consent, kept for labelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import open_store
from mistere.common.errors import MistereError
from mistere.config.predictor import BUNDLE_STORE
from mistere.predictor.request_log.log import start_request_log
from mistere.predictor.request_log.writer import RequestLogWriter
from mistere.predictor.sample.sampler import Sampler
from mistere.predictor.sample.writer import SampleWriter
from mistere.predictor.scheduling.observer_thread import CLOSE_SECONDS, close_all
from mistere.predictor.settings import ServerSettings
from mistere.predictor.shadow.copier import ShadowCopier, shadow_copier
from mistere.predictor.traffic.observation import TrafficObserver, traffic_observer
from mistere.predictor.traffic.sweeper import Sweeper, start_sweeper
from mistere.serving.sample.places import HASHING_KEY

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest


@dataclass(frozen=True)
class AnsweredRequest:
    """A request whose response is on its way.

    Attributes:
        identity: its id.
        asked: the dialogues as the client sent them.
        read: the dialogues as the model read them, with transcripts.
        predictions: the answers, with rows of zeros for turns that are context only.
        plan: what was encoded for the request; None for vectors.
        seconds: the time of the answer.
    """

    identity: str
    asked: Sequence[DialogueRequest]
    read: Sequence[DialogueRequest]
    predictions: Sequence[DialoguePrediction]
    plan: EncodingPlan | None
    seconds: float


def answer_observers(model: EmotionModel, settings: ServerSettings) -> AnswerObservers | None:
    """The observers that the settings ask for; None for a shadow, of whose answers nothing is counted or kept.

    Raises:
        UsageError: a store of the settings cannot be opened.
    """
    if settings.options.copies:
        return None
    return AnswerObservers(
        traffic_observer(model, settings),
        _sampler(model, settings),
        shadow_copier(model, settings),
        start_request_log(model, settings),
        start_sweeper(settings),
    )


def _sampler(model: EmotionModel, settings: ServerSettings) -> Sampler | None:
    """The sampler; with a share of 0 it keeps nothing, but still deletes what was kept when its time is over."""
    options = settings.options
    location = options.sample_store
    if location == BUNDLE_STORE:
        if not options.sample_share and not _holds_a_sample(settings.bundle):
            return None
        location, _ = split_bundle_location(settings.bundle)
    store = open_store(location, options.sample_encryption)
    return Sampler(model, SampleWriter(store, options.sample_days), options.sample_share)


def _holds_a_sample(bundle: str) -> bool:
    """Whether dialogues were ever kept in a bundle's store; False if that cannot be said, as for a copy outside of a store."""
    try:
        return open_store(split_bundle_location(bundle)[0]).exists(HASHING_KEY)
    except (MistereError, OSError):
        return False


class AnswerObservers:
    """The observers of a served model.

    Args:
        traffic: counts each answer.
        sampler: keeps dialogues for labelling; None to keep none.
        shadow: copies requests to a shadow; None to copy none.
        request_log: writes what :data:`~mistere.predictor.tracing.request_trace.TRACING` notes of requests; None for no log.
        sweeper: deletes what is over its time; None for nothing to delete.
    """

    def __init__(
        self,
        traffic: TrafficObserver,
        sampler: Sampler | None,
        shadow: ShadowCopier | None,
        request_log: RequestLogWriter | None = None,
        sweeper: Sweeper | None = None,
    ) -> None:
        self._traffic, self._sampler, self._shadow = traffic, sampler, shadow
        self._request_log, self._sweeper = request_log, sweeper

    def observe(self, answered: AnsweredRequest) -> None:
        """Observe an answered request; never raises."""
        asked, read, predictions, plan = answered.asked, answered.read, answered.predictions, answered.plan
        self._traffic.observe(asked, read, predictions, plan)
        if self._sampler is not None and self._sampler.wants(asked):
            self._sampler.keep(asked[0], read[0], predictions[0], plan)
        if self._shadow is not None:
            self._shadow.offer(answered.identity, asked, predictions, answered.seconds)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what is left to the stores, and wait for it at most so long, however many of them hang."""
        sampled = None if self._sampler is None else self._sampler.writer
        # The shadow's thread first, which asks another one to end after it.
        threads = self._shadow, self._traffic.recorder, self._request_log, sampled, self._sweeper
        close_all([thread for thread in threads if thread is not None], seconds)
