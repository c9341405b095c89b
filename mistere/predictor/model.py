"""The model behind the endpoint: converts a request to a prediction. It can be tested without a server."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from kserve import InferRequest, InferResponse, Model
from kserve.metrics import PREDICT_HIST_TIME
from kserve.model import InferenceVerb

from mistere.predictor import metrics
from mistere.predictor.answer_observers import AnsweredRequest, AnswerObservers, answer_observers
from mistere.predictor.audio.clip_store import ClipStore
from mistere.predictor.encoding.transcription_queue import TranscriptionQueue
from mistere.predictor.errors import internal, invalid, log_value, not_ready
from mistere.predictor.explanation.queue import ExplanationQueue
from mistere.predictor.protocol.codec import (
    DialogueRequest,
    decode_request,
    encode_response,
    model_version,
    predicted_labels,
    script_warning,
    text_sources,
    with_all_experts,
    without_context,
)
from mistere.predictor.protocol.further_outputs import explanation_parameters, further_outputs
from mistere.predictor.protocol.metadata import input_types, output_types
from mistere.predictor.protocol.v1 import decode_v1, encode_v1
from mistere.predictor.protocol.wire import body_bytes, is_light, request_id
from mistere.predictor.scheduling.after_response import call_after_response
from mistere.predictor.scheduling.batcher import Batcher
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.scheduling.slices import SliceQueue
from mistere.predictor.settings import Limits, ServerSettings
from mistere.predictor.shadow.request_hash import request_hash
from mistere.predictor.tracing.request_trace import (
    TRACES,
    TRACING,
    RequestTrace,
    note_answer,
    note_dialogues,
    note_request,
    working_for,
)
from mistere.predictor.tracing.span_sender import start_tracing
from mistere.predictor.warm_up import predict_once

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.encoding.encoder import CachedEncoder, Embedded
    from mistere.predictor.encoding.plan import EncodingPlan, Task
    from mistere.serving.explanation import Explanation

logger = logging.getLogger("kserve.predictor")

_LONG_SECONDS, _LONG_PRICE = 0.08, 8.0
"""A request is long, and encoded in slices, if its encoding takes more time than the first and costs more seconds of audio than the
second: a turn of a live conversation never is."""
_INLINE_CLIPS = 4
"""The most recordings of a small request that are inspected on the event loop; each takes 0.1 ms, MP3 up to 3 ms."""


@dataclass(frozen=True)
class _Request:
    """A request in the queue: its dialogues, how they are encoded unless they are embeddings, and its trace if it has one."""

    dialogues: list[DialogueRequest]
    plan: EncodingPlan | None
    traces: Sequence[RequestTrace]


class EmotionPredictor(Model):  # type: ignore[misc]  # kserve has no type information
    """Emotion recognition in dialogues, V1 and V2.

    Args:
        settings: limits and name.
        load_bundle: opens and verifies a bundle.
    """

    def __init__(self, settings: ServerSettings, load_bundle: Callable[[str], EmotionModel]) -> None:
        super().__init__(settings.model_name)
        self._settings = settings
        limits = self._limits = settings.limits
        self._load_bundle = load_bundle
        self._loaded: EmotionModel | None = None
        self._clips = ClipStore(limits.audio_store_bytes, settings.options.audio_uri_prefixes, limits.request_bytes)
        self._encoder: CachedEncoder | None = None
        self._pace = Pace()
        self.batcher: Batcher[_Request, list[DialoguePrediction]] = Batcher(
            self._infer,
            limits.waiting_requests,
            limits.batch_hold_seconds,
            limits.batch_utterances,
            may_run_inline=lambda request: request.plan is None,  # no encoder runs, only the mixture
            pace=self._pace,
            max_price=limits.waiting_seconds,
        )
        self._slices: SliceQueue[Task] = SliceQueue(self._encode_slice, self._pace, limits.waiting_seconds)
        self._observers: AnswerObservers | None = None
        self._transcripts = TranscriptionQueue(limits)
        self._explanations = ExplanationQueue(lambda: self.loaded, lambda: self._pace.seconds(limits.waiting_seconds))
        self._queues = (self.batcher, self._slices, self._transcripts, self._explanations)
        metrics.QUEUE_DEPTH.set_function(lambda: sum(queue.depth for queue in self._queues))

    @property
    def limits(self) -> Limits:
        """The limits of a request."""
        return self._limits

    @property
    def settings(self) -> ServerSettings:
        """The settings of its server."""
        return self._settings

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or is computed."""
        return not any(queue.depth for queue in self._queues)

    @property
    def loaded(self) -> EmotionModel:
        """The model.

        Raises:
            RequestError: the model is not loaded yet.
        """
        if self._loaded is None:
            raise not_ready()
        return self._loaded

    def load(self) -> bool:
        """Load and verify the bundle, and predict once to warm up.

        Raises:
            MistereError: the bundle is missing or damaged.
        """
        start = time.perf_counter()
        model = self._load_bundle(self._settings.bundle)
        for queue in (self.batcher, self._slices):
            queue.warm_up(lambda: predict_once(model))
        from mistere.predictor.encoding.encoder import CachedEncoder

        self._encoder = CachedEncoder(model, self._limits, self._pace)
        if model.transcriber is not None:
            self._transcripts.add(model.transcriber)
        self._observers = answer_observers(model, self._settings)
        start_tracing(model, self._settings.options)
        self._loaded = model
        gc.collect()
        gc.freeze()  # later collections skip the model's objects, which live as long as the process
        self.ready = True
        metrics.MODEL.labels(model.bundle.name, model_version(model)).set(1)
        logger.info(
            "model=%s version=%s loaded in %.1f s",
            log_value(model.bundle.name),
            model_version(model),
            time.perf_counter() - start,
        )
        return True

    def start(self) -> None:
        """Do nothing: kserve calls this at registration, but the model is ready only when it is loaded."""

    async def __call__(
        self,
        body: InferRequest | dict[str, Any],
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[InferResponse | dict[str, Any], dict[str, str]]:
        """Predict.

        This overrides kserve's pre- and postprocessing stages, which do nothing here but take as long as validating a request
        (``mistere bench serving_speed``, part ``overhead``), and kserve's timing, which includes requests without an answer;
        :meth:`_observe` times the others.
        """
        return await self.predict(body, headers), {}

    async def predict(
        self,
        payload: InferRequest | dict[str, Any],
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse | dict[str, Any]:
        """Answer one request.

        Args:
            payload: a V2 request, or the JSON object of a V1 request.
            headers: headers of the request; the size decides whether it is read on the event loop.
            response_headers: not used.

        Raises:
            RequestError: the request is invalid.
            AudioDecodeError, AudioTooLongError: the audio of an utterance is invalid.
        """
        model = self.loaded
        identity = request_id(payload, headers)
        note_request(identity, body_bytes(headers) or 0)
        start = time.perf_counter()
        with metrics.phase("decode"), self.batcher.reading():
            light = is_light(headers)
            dialogues = self._decode(payload, model) if light else await asyncio.to_thread(self._decode, payload, model)
            if any(turn.audio_uri is not None for dialogue in dialogues for turn in dialogue.turns):
                dialogues = await asyncio.to_thread(lambda: [self._clips.with_read(dialogue) for dialogue in dialogues])
            asked = dialogues
            note_dialogues(dialogues, model.transcriber is not None)
            dialogues = await self._transcripts.completed(dialogues)
            plan = None if dialogues[0].embeddings else await self._planned(dialogues, light)
            if plan is not None:
                plan.is_transient = dialogues[0].is_interim
            if dialogues[0].explain:
                self._explanations.check(dialogues, plan)
        price = 0.0 if plan is None else plan.price
        is_long = price > self._pace.price_within(_LONG_SECONDS, _LONG_PRICE)
        if is_long and plan is not None:
            with metrics.phase("slices"):
                await self._slices.run(plan.missing())
            price = 0.0
        predictions = await self.batcher.run(
            _Request(dialogues, plan, TRACES.get()),
            sum(len(dialogue) for dialogue in dialogues),
            price,
            admitted=is_long,
        )
        self._check_finite(dialogues, predictions, identity)
        explanations = await self._explained(dialogues, plan, predictions)
        predictions = [
            without_context(prediction, dialogue.context)
            for prediction, dialogue in zip(predictions, dialogues, strict=True)
        ]
        with metrics.phase("respond"):
            detail = dialogues[0].detail
            warnings = script_warning(dialogues, model)
            sources = [text_sources(*pair, model) for pair in zip(asked, dialogues, strict=True)]
            further = further_outputs(sources, explanations)
            parameters = {**warnings, **(explanation_parameters(model) if dialogues[0].explain else {})}
            response: InferResponse | dict[str, Any]
            if isinstance(payload, InferRequest):
                response = encode_response(payload, identity, predictions[0], model, detail, parameters, further[0])
            else:
                response = encode_v1(predictions, identity, model, detail, parameters, further)
        if dialogues[0].is_interim:
            return response
        seconds = time.perf_counter() - start
        note_answer(predictions)
        call_after_response(
            self._observe, AnsweredRequest(identity, asked, dialogues, predictions, plan, seconds), model
        )
        return response

    def _decode(self, payload: InferRequest | dict[str, Any], model: EmotionModel) -> list[DialogueRequest]:
        if isinstance(payload, InferRequest):
            dialogues = [decode_request(payload, model, self._limits)]
        else:
            dialogues = decode_v1(payload, model, self._limits)
        return [self._clips.with_held(dialogue, self._is_encoded) for dialogue in dialogues]

    def _is_encoded(self, audio_digest: str) -> bool:
        return self._encoder is not None and self._encoder.holds_speech(audio_digest)

    async def _planned(self, dialogues: Sequence[DialogueRequest], light: bool) -> EncodingPlan:
        """Look up and price what a request needs.

        Args:
            dialogues: its dialogues, as raw inputs.
            light: whether its body is small enough for the event loop.

        Raises:
            RequestError: it has more new audio or text than a request may hold.
        """
        encoder = self._encoder
        assert encoder is not None
        turns = [dialogue.turns for dialogue in dialogues]
        plan = encoder.plan(turns) if light else await asyncio.to_thread(encoder.plan, turns)
        if len(plan.clips) > _INLINE_CLIPS or not light:
            await asyncio.to_thread(encoder.price_clips, plan)
        else:
            encoder.price_clips(plan)
        return plan

    async def _explained(
        self, dialogues: Sequence[DialogueRequest], plan: EncodingPlan | None, predictions: Sequence[DialoguePrediction]
    ) -> list[Explanation]:
        """Explain the predictions of a request, from the vectors that it was answered from; none if it does not ask for that."""
        if not dialogues[0].explain:
            return []
        assert self._encoder is not None
        embedded = self._encoder.embeddings(plan) if plan else [dialogue.embeddings for dialogue in dialogues]
        if isinstance(embedded, Exception):
            raise embedded
        return await self._explanations.explain(dialogues, embedded, predictions)

    def _encode_slice(self, tasks: Sequence[Task]) -> None:
        assert self._encoder is not None
        with metrics.phase("encode"):
            self._encoder.compute(tasks)

    def _infer(self, requests: Sequence[_Request]) -> list[list[DialoguePrediction] | Exception]:
        """Compute a batch of requests, with embeddings or raw inputs; called by the batcher."""
        with working_for(request.traces for request in requests):
            return self._inferred(requests)

    def _inferred(self, requests: Sequence[_Request]) -> list[list[DialoguePrediction] | Exception]:
        model, encoder = self.loaded, self._encoder
        assert encoder is not None
        metrics.BATCH.observe(sum(len(request.dialogues) for request in requests))
        plans = [request.plan for request in requests if request.plan is not None]
        if plans:
            missing = [task for plan in plans for task in plan.missing()]
            with metrics.phase("encode", batch_requests=len(requests), new_vectors=len(missing)):
                encoder.compute(missing)
        embedded: list[Embedded | Exception] = []
        for request in requests:
            if request.plan is None:
                embedded.append([dialogue.embeddings for dialogue in request.dialogues])
                continue
            embedded.append(encoder.embeddings(request.plan))
            if not isinstance(embedded[-1], Exception) and not request.plan.is_transient:
                self._clips.remember(request.dialogues)
        readable = [
            dialogue for embeddings in embedded if not isinstance(embeddings, Exception) for dialogue in embeddings
        ]
        with metrics.phase("mixture", batch_requests=len(requests), batch_dialogues=len(readable)):
            predictions = iter(model.predict_embeddings(readable)) if readable else iter(())
        return [
            embeddings
            if isinstance(embeddings, Exception)
            else [with_all_experts(next(predictions), model.experts) for _ in range(len(embeddings))]
            for embeddings in embedded
        ]

    def close(self) -> None:
        """Finish what is being computed, drop what waits, and write what is left of traces, log, counts and sample."""
        self.batcher.close()
        self._slices.close()
        self._explanations.close()
        self._transcripts.close()
        TRACING.close()
        if self._observers is not None:
            self._observers.close()

    @staticmethod
    def _check_finite(
        dialogues: Sequence[DialogueRequest], predictions: Sequence[DialoguePrediction], identity: str
    ) -> None:
        if all(np.isfinite(prediction.probabilities).all() for prediction in predictions):
            return
        if dialogues[0].embeddings:
            raise invalid("The embeddings hold numbers that are too large for this model.")
        logger.error("request=%s failed: the model returned non-finite probabilities", log_value(identity))
        raise internal(identity)

    def _observe(self, answered: AnsweredRequest, model: EmotionModel) -> None:
        """Count, time and log an answered request, and pass it on to the observers."""
        metrics.labelled(PREDICT_HIST_TIME, self.name).observe(answered.seconds)
        identity, predictions = answered.identity, answered.predictions
        counted: Counter[str] = Counter()
        for prediction in predictions:
            predicted = predicted_labels(prediction, model.labels)
            counted.update(label for label in predicted if label)
            metrics.observe_dialogue(predicted)
        logger.info(
            "request=%s utterances=%d labels=%s version=%s ms=%.1f%s",
            log_value(identity),
            sum(len(prediction.modalities) for prediction in predictions),
            ",".join(f"{log_value(label)}:{count}" for label, count in sorted(counted.items())),
            model_version(model),
            answered.seconds * 1000,
            f" hash={request_hash(identity)}" if self._settings.options.shadow else "",
        )
        if self._observers is not None:
            self._observers.observe(answered)

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs for the metadata endpoints."""
        return input_types(self.loaded, with_uris=bool(self._settings.options.audio_uri_prefixes))

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs for the metadata endpoints."""
        return output_types(self.loaded)
