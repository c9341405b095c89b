"""Querying an endpoint from Python, as :func:`mistere.connect` offers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mistere.serving.client import DialogueClient, EndpointPrediction
from mistere.serving.dialogue import AnyUtterance, dialogue_content


class Endpoint:
    """One endpoint, queried by REST.

    Args:
        client: connection to the endpoint.
    """

    def __init__(self, client: DialogueClient) -> None:
        self._client = client

    def predict(
        self,
        dialogue: Sequence[AnyUtterance],
        *,
        detail: bool = False,
        explain: bool = False,
        encoder_digest: str = "",
        transcribe: bool = True,
    ) -> EndpointPrediction:
        """Predict one dialogue.

        Args:
            dialogue: its utterances in order; see :data:`mistere.serving.dialogue.AnyUtterance`.
            detail: return the probabilities of each expert, too.
            explain: return those and what decided each label.
            encoder_digest: names the encoders of vectors, if the model knows them.
            transcribe: let a model that transcribes add the text of utterances that have audio and no text.

        Raises:
            UsageError: the dialogue is malformed, or an audio file does not exist.
            EndpointError: there is no answer, or the endpoint refuses the request.
        """
        content = dialogue_content(dialogue, encoder_digest=encoder_digest)
        return self._client.predict_rest(content, detail="explain" if explain else detail, transcribe=transcribe)


def connect(
    url: str, *, model: str | None = None, timeout: float = 60.0, headers: Mapping[str, str] | None = None
) -> Endpoint:
    """Connect to an endpoint; nothing is sent until the first prediction.

    Args:
        url: for example ``http://localhost:8080``.
        model: name of the model; None for the only one that the endpoint serves.
        timeout: of a request, in seconds.
        headers: sent with every request.

    Raises:
        UsageError: the URL does not start with ``http://`` or ``https://``.
    """
    return Endpoint(DialogueClient(url, model_name=model, timeout=timeout, headers=headers))
