"""Copies a share of the answered requests to a shadow, from a thread of its own, and compares its answers.

An answer never waits for it: a request that was answered is put into a bounded queue or, if that is full, dropped and counted.
Whatever happens to the shadow, to the connection or to the store ends in a count.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import open_store
from mistere.config.predictor import COPY_MIB, LOCAL_SHADOW
from mistere.predictor.scheduling.observer_thread import ObserverThread
from mistere.predictor.settings import ServerSettings
from mistere.predictor.shadow.conversations import Conversations
from mistere.predictor.shadow.copy import DialogueCopy, encoder_digest
from mistere.predictor.shadow.peer import AnotherBundleError, CopyError, Identity, Peer
from mistere.predictor.shadow.recorder import ShadowRecorder
from mistere.predictor.shadow.request_hash import request_hash
from mistere.predictor.shadow.targets import FixedTarget, LocalTarget, Target
from mistere.serving.shadow.figures import Comparison, ShadowCounts, add_seconds

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.protocol.codec import DialogueRequest

logger = logging.getLogger("kserve.predictor")

COPIES: Final = Counter(
    "mistere_shadow_copies", "Requests copied to the shadow by what became of the copy.", ["outcome"]
)
MOST_QUEUED_BYTES: Final = COPY_MIB << 20
"""Inputs that the queue holds at most, beside its length."""
CHECK_SECONDS: Final = 2.0
"""Time between two looks for a shadow that is not there, or another one."""
_WAKE_SECONDS: Final = 0.5
_STUMBLES: Final = 3
"""Copies in a row without a connection after which none are made until the shadow is found again."""


def shadow_copier(model: EmotionModel, settings: ServerSettings) -> ShadowCopier | None:
    """Start to copy requests; None if the settings name no shadow.

    Raises:
        UsageError: the bundle's store cannot be opened.
    """
    options = settings.options
    if not options.shadow:
        return None
    location, _ = split_bundle_location(settings.bundle)
    store = open_store(location)
    target: Target = FixedTarget(options.shadow, store, settings.model_name)
    if options.shadow == LOCAL_SHADOW:
        target = LocalTarget(store, settings.model_name, options)
    labels = tuple(model.labels)
    recorder = ShadowRecorder(model.bundle.digest, labels, store, options.traffic_seconds, options.shadow_days)
    return ShadowCopier(
        model,
        settings.model_name,
        target,
        recorder,
        options.shadow_share,
        options.shadow_queue,
        options.shadow_seconds,
    )


class ShadowCopier(ObserverThread):
    """Copies dialogues.

    Args:
        model: the model in front.
        model_name: the model's name in the endpoint's paths, here and at the shadow.
        target: where the shadow is.
        recorder: receives the counts.
        share: share of the requests, 0 to 1.
        capacity: dialogues that may wait.
        timeout: time limit of the shadow's answer, seconds.
    """

    def __init__(
        self,
        model: EmotionModel,
        model_name: str,
        target: Target,
        recorder: ShadowRecorder,
        share: float,
        capacity: int,
        timeout: float,
    ) -> None:
        super().__init__("shadow")
        self._digest, self._labels = model.bundle.digest, tuple(model.labels)
        self._vector_digests = model.vector_digests
        self._model_name, self._target, self._recorder = model_name, target, recorder
        self._share, self._capacity, self._timeout = share, capacity, timeout
        self._queue: deque[DialogueCopy] = deque()
        self._queued_bytes = 0
        self._accepts = False  # read by the event loop: whether copies are worth queueing
        self._peer: Peer | None = None
        self._identity: Identity | None = None
        self._silent_since: float | None = None
        self._comparison: Comparison | None = None
        self._conversations: Conversations | None = None
        self._thread.start()

    def offer(
        self,
        identity: str,
        dialogues: Sequence[DialogueRequest],
        predictions: Sequence[DialoguePrediction],
        seconds: float,
    ) -> None:
        """Queue the dialogues of an answered request, if it is among the share. It is called on the event loop and never waits.

        Args:
            identity: id of the request.
            dialogues: as the client sent them, with the recordings that they refer to.
            predictions: the answers, with rows of zeros for turns that are context only.
            seconds: time of the answer.
        """
        if self._identity is None or random.random() >= self._share:  # noqa: S311  (chooses a sample)
            return
        if not self._accepts:
            self._count("unreachable", len(dialogues))
            return
        dropped = 0
        with self._changed:
            for dialogue, prediction in zip(dialogues, predictions, strict=True):
                digest = encoder_digest(self._vector_digests, dialogue) if dialogue.embeddings else ""
                copy = DialogueCopy(identity, dialogue, prediction.probabilities, seconds, digest)
                if len(self._queue) >= self._capacity or self._queued_bytes + copy.size > MOST_QUEUED_BYTES:
                    dropped += 1
                    continue
                self._queue.append(copy)
                self._queued_bytes += copy.size
            self._changed.notify()
        if dropped:
            self._count("full", dropped)

    def end(self) -> None:
        """Drop what waits, and end the wait for an answer of the shadow."""
        super().end()
        if (peer := self._peer) is not None:
            peer.interrupt()

    def join(self, seconds: float) -> None:
        """Wait for the end, write the counts, and stop a shadow of this machine.

        The counts have half of the time: the thread may hang at a store that they are not in.
        """
        deadline = time.monotonic() + seconds
        super().join(seconds / 2)
        self._recorder.close(deadline - time.monotonic())
        self._target.close()

    def _count(self, outcome: str, number: int = 1) -> None:
        COPIES.labels(outcome).inc(number)
        identity = self._identity

        def change(counts: ShadowCounts) -> None:
            counts.outcomes[outcome] += number

        if identity is not None:
            self._recorder.change(identity.digest, identity.labels, change)

    def _run(self) -> None:
        looked = -CHECK_SECONDS
        stumbles = 0
        while not self._closing:
            try:
                if time.monotonic() - looked >= CHECK_SECONDS:
                    looked = time.monotonic()
                    self._look(found=self._accepts and not stumbles)
                copy = self._next()
                if copy is None:
                    continue
                outcome = self._compare(copy)
                stumbles = stumbles + 1 if outcome == "unreachable" else 0
                if stumbles >= _STUMBLES:
                    self._leave()
            except Exception:  # of a comparison or of starting a shadow: the endpoint does not depend on them
                logger.exception("the comparison with the shadow failed")
                self._leave()

    def _next(self) -> DialogueCopy | None:
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(_WAKE_SECONDS)
            if not self._queue or self._closing:
                return None
            copy = self._queue.popleft()
            self._queued_bytes -= copy.size
            return copy

    def _look(self, *, found: bool) -> None:
        """Find the shadow, or another one in its place.

        Args:
            found: whether the one that is known answers.
        """
        url = self._target.url()
        if found and self._peer is not None and url == self._peer.url:
            return
        if not url:
            self._leave(forget=True)
            return
        peer = Peer(url, self._model_name, self._timeout)
        identity = peer.identify()
        if identity is None:
            self._leave(forget=self._is_removed())
            return
        self._silent_since = None
        if identity.digest == self._digest:
            self._leave(forget=True)  # the same model: there is nothing to compare
            return
        if identity != self._identity:
            self._comparison = Comparison(self._labels, identity.labels)
            self._conversations = Conversations(self._comparison.tally)
            self._target.found()
            logger.info("shadow=%s receives a share of %g of the requests", identity.digest[:12], self._share)
        self._disconnect()
        self._peer, self._identity = peer, identity
        self._accepts = True

    def _is_removed(self) -> bool:
        """Whether the shadow, which does not answer, is gone on purpose."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        return self._identity is None or self._target.is_removed(now - self._silent_since)

    def _leave(self, *, forget: bool = False) -> None:
        """Make no copies until a shadow is found.

        Args:
            forget: there is none on purpose, so what is not copied is not counted either.
        """
        self._accepts = False
        with self._changed:
            dropped = len(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
        if dropped and not forget:
            self._count("unreachable", dropped)
        if forget:
            self._identity = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _compare(self, copy: DialogueCopy) -> str:
        """Ask the shadow, and count; returns the outcome."""
        peer, identity, comparison, conversations = self._peer, self._identity, self._comparison, self._conversations
        if peer is None or identity is None or comparison is None or conversations is None:
            return ""
        if not copy.is_complete:
            self._count("unsendable")
            return "unsendable"
        try:
            answer, seconds = peer.ask(copy, identity)
        except AnotherBundleError:
            self._leave(forget=True)  # the next look finds it; what waits is for the other one
            return ""
        except CopyError as error:
            if self._closing:  # the wait was ended
                return ""
            self._count(error.outcome)
            return error.outcome
        tally = conversations.tally(*copy.chain())
        earlier = tally.identity
        more = ShadowCounts(self._labels, identity.labels)
        more.outcomes["compared"] = 1
        add_seconds(more, copy.seconds, seconds)
        comparison.count(more, tally, copy.probabilities, answer, request_hash(copy.identity), copy.first)

        def change(counts: ShadowCounts) -> None:
            if more.dialogues:
                counts.forget(earlier)
            counts.add(more)

        COPIES.labels("compared").inc()
        self._recorder.change(identity.digest, identity.labels, change)
        return "compared"
