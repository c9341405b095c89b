"""Predicting with a bundle in this process, as :func:`mistere.load` offers it: the endpoint's answers without a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mistere.artifacts.onnx_manifest import is_exported
from mistere.common.errors import UsageError
from mistere.model.dialogue_model import EmotionModel
from mistere.model.dialogue_prediction import DialoguePrediction
from mistere.predictor.errors import RequestError
from mistere.predictor.explanation.masking import ExplainedDialogue, check_work, compute
from mistere.predictor.protocol.cells import check_cells, further_modalities
from mistere.predictor.protocol.codec import (
    DialogueRequest,
    RequestTurn,
    check_turns,
    predicted_labels,
    response_parameters,
    script_warning,
    text_sources,
    with_all_experts,
    without_context,
)
from mistere.predictor.protocol.further_outputs import explanation_parameters
from mistere.predictor.protocol.vectors import check_vectors
from mistere.serving import protocol
from mistere.serving.client import EndpointPrediction
from mistere.serving.dialogue import AnyUtterance, dialogue_content
from mistere.serving.explanation import Explanation
from mistere.serving.vectors import VectorDialogue


class LoadedModel:
    """A released model in this process.

    Args:
        model: the opened bundle.
    """

    def __init__(self, model: EmotionModel) -> None:
        self._model = model

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the probabilities."""
        return list(self._model.labels)

    @property
    def vectors(self) -> list[str]:
        """The modalities of a model that takes vectors only; empty for a model with encoders."""
        return [] if self._model.encoder_digests else protocol.in_order(self._model.vector_digests)

    def encoder_digest(self, modalities: Iterable[str]) -> str:
        """The digests of the encoders that made the vectors of some modalities, as a request names them."""
        digests = [self._model.vector_digests.get(name, "") for name in protocol.in_order(modalities)]
        return protocol.join_names(filter(None, digests))

    @property
    def further_modalities(self) -> list[str]:
        """The modalities beside speech and text that the model reads raw."""
        return further_modalities(self._model)

    def predict(
        self,
        dialogue: Sequence[AnyUtterance],
        *,
        detail: bool = False,
        explain: bool = False,
        encoder_digest: str = "",
        transcribe: bool = True,
    ) -> EndpointPrediction:
        """Predict one dialogue, with the same numbers as the endpoint's answer.

        Args:
            dialogue: its utterances in order; see :data:`mistere.serving.dialogue.AnyUtterance`.
            detail: return the probabilities of each expert, too.
            explain: return those and what decided each label.
            encoder_digest: names the encoders of vectors, if the model knows them.
            transcribe: add the text of utterances that have audio and no text, if the model transcribes.

        Raises:
            UsageError: the dialogue is malformed or has nothing that the model reads, or an audio file does not exist.
            AudioDecodeError: the audio of an utterance does not decode.
        """
        content = dialogue_content(dialogue, encoder_digest=encoder_digest)
        if isinstance(content, VectorDialogue):
            return self.predict_vectors(content, detail=detail, explain=explain)
        try:
            turns = [
                RequestTurn(text=turn.text, audio=turn.audio, others=check_cells(turn.others, index, self._model))
                for index, turn in enumerate(content)
            ]
            check_turns(turns, self._model, transcribe)
        except RequestError as error:
            raise UsageError(error.message) from error
        sent = DialogueRequest(turns=turns)
        read = DialogueRequest(turns=list(self._model.transcribed(turns))) if transcribe else sent
        answer = self._answer(
            self._model.embed([read.turns])[0],
            detail,
            explain,
            [index for index, turn in enumerate(content) if not turn.predict],
            script_warning([read], self._model),
        )
        return replace(answer, text_sources=list(text_sources(sent, read, self._model) or ()))

    def predict_vectors(
        self, dialogue: VectorDialogue, *, detail: bool = False, explain: bool = False
    ) -> EndpointPrediction:
        """Predict one dialogue given as vectors.

        Args:
            dialogue: its vectors.
            detail: return the probabilities of each expert, too.
            explain: return those and what decided each label.

        Raises:
            UsageError: the vectors are not those that the model takes.
        """
        try:
            vectors = check_vectors(dialogue.vectors, dialogue.encoder_digest, self._model)
        except RequestError as error:
            raise UsageError(error.message) from error
        answer = self._answer(vectors, detail, explain, sorted(dialogue.context))
        request = DialogueRequest(embeddings=vectors)
        return replace(answer, text_sources=list(text_sources(request, request, self._model) or ()))

    def _answer(
        self,
        embeddings: Mapping[str, np.ndarray],
        detail: bool,
        explain: bool,
        context: Sequence[int] = (),
        warnings: Mapping[str, str] | None = None,
    ) -> EndpointPrediction:
        whole = self._model.predict_embeddings([embeddings])[0]
        prediction = without_context(with_all_experts(whole, self._model.experts), context)
        explanation = self._explanation(embeddings, whole, context) if explain else None
        return EndpointPrediction(
            predicted=predicted_labels(prediction, self._model.labels),
            probabilities=prediction.probabilities,
            expert_weights=prediction.expert_weights,
            expert_probabilities=prediction.expert_probabilities if detail or explain else None,
            modalities=list(prediction.modalities),
            parameters={
                **response_parameters(self._model),
                **(warnings or {}),
                **(explanation_parameters(self._model) if explain else {}),
            },
            explanation=explanation,
        )

    def _explanation(
        self, embeddings: Mapping[str, np.ndarray], whole: DialoguePrediction, context: Sequence[int]
    ) -> Explanation:
        dialogue = ExplainedDialogue(protocol.in_order(self._model.dimensions), embeddings, whole, context)
        try:
            check_work([dialogue.present], [frozenset(context)])
        except RequestError as error:
            raise UsageError(error.message) from error
        compute(self._model, list(dialogue.passes()))
        return dialogue.explanation()


def load(bundle: str | Path) -> LoadedModel:
    """Open a bundle or an exported model, and verify its files. An exported model loads no PyTorch.

    Args:
        bundle: ``<store>/artifacts/ModelBundle/<digest>``, a directory or an ``s3://`` URI; or a folder that ``mistere export`` wrote.

    Raises:
        ArtifactError: it is missing, incomplete or damaged; the message names the file.
        MissingPackageError: it is an exported model, and ONNX Runtime is not installed.
    """
    if is_exported(str(bundle)):
        from mistere.predictor.warm_up import open_exported

        return LoadedModel(open_exported(Path(bundle)))
    from mistere.model.inference import load_bundle

    return LoadedModel(load_bundle(str(bundle)))
