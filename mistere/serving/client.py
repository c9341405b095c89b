"""A client of the endpoint, for REST, gRPC and V1.

Importing it is cheap: httpx, and gRPC with kserve's messages, are imported by the call that needs them.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.documents import load_json
from mistere.serving import protocol
from mistere.serving.explanation import Explanation
from mistere.serving.other_tensors import json_fields, json_tensor, other_columns
from mistere.serving.vectors import VectorDialogue

Detail = bool | Literal["explain"]
"""What an answer has beside the predictions: the probabilities of each expert (True), or those and an explanation."""


class Utterance(Protocol):
    """An utterance to send: a transcript, an encoded audio file, both or neither.

    One with an attribute ``predict`` that is False is context for its neighbours only.

    An attribute ``others`` may map further modalities of the model to their cells: vectors as numpy arrays, images as a sequence of
    encoded files.
    """

    @property
    def text(self) -> str | None:
        """The transcript."""

    @property
    def audio(self) -> bytes | None:
        """The encoded audio file."""


class EndpointError(MistereError):
    """The endpoint did not answer, or answered with an error.

    Attributes:
        code: REST status code or gRPC status name; empty without an answer.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class EndpointPrediction:
    """The prediction for a dialogue.

    Attributes:
        predicted: label per utterance, ``n``; empty for one that is context only, whose other rows are zeros.
        probabilities: float32 ``[n, C]``.
        expert_weights: float32 ``[n, E]``.
        expert_probabilities: float32 ``[n, E, C]`` with ``detail``; else None.
        modalities: modalities used per utterance, ``+``-joined or ``none``.
        parameters: response parameters, among them model version and bundle digest.
        request_id: id of the response.
        text_sources: where the text of each utterance comes from: ``human``, ``asr`` (a transcript of the server's) or ``none``;
            empty if the model does not transcribe.
        explanation: what decided each label, with ``detail="explain"``; else None.
    """

    predicted: list[str]
    probabilities: np.ndarray
    expert_weights: np.ndarray
    expert_probabilities: np.ndarray | None
    modalities: list[str]
    parameters: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    text_sources: list[str] = field(default_factory=list)
    explanation: Explanation | None = None

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the probabilities."""
        return protocol.split_names(self.parameters.get(protocol.LABELS, ""))

    @property
    def experts(self) -> list[str]:
        """Expert names, in the order of the weights."""
        return protocol.split_names(self.parameters.get(protocol.EXPERTS, ""))


class DialogueClient:
    """A client of one endpoint.

    Args:
        url: URL for REST, for example ``http://localhost:8080``.
        grpc_target: address for gRPC, for example ``localhost:8081``; needed for :meth:`predict_grpc` only.
        model_name: the model's name in the paths; None reads it from the server.
        timeout: time limit of a request, seconds.
        headers: additional headers of every REST request, for example a ``Host`` for a gateway.
        verify: verification of TLS certificates; True uses the system's authorities.

    Raises:
        UsageError: ``url`` does not begin with ``http://`` or ``https://``.
    """

    def __init__(
        self,
        url: str,
        grpc_target: str | None = None,
        model_name: str | None = None,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise UsageError(f"{url}: the URL of an endpoint starts with http:// or https://.")
        self.url = url.rstrip("/")
        self.grpc_target = grpc_target
        self._model_name = model_name
        self._timeout = timeout
        self._headers = dict(headers or {})
        self._verify = verify

    def wait_ready(self, timeout: float) -> None:
        """Wait until the server is ready.

        Args:
            timeout: time limit, seconds.

        Raises:
            EndpointError: the server is not ready within that time.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._request("GET", protocol.READY_PATH, timeout=min(5.0, self._timeout))
                return
            except EndpointError as error:
                if time.monotonic() >= deadline:
                    raise EndpointError(f"{self.url} is not ready after {timeout:g} s: {error}", error.code) from error
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))

    @property
    def model_name(self) -> str:
        """The served model's name."""
        if self._model_name is None:
            content = self._json(self._request("GET", "/v2/models").content)
            names = content.get("models") or []
            if len(names) != 1:
                raise EndpointError(f"{self.url} serves {len(names)} models: set model_name.")
            self._model_name = str(names[0])
        return self._model_name

    def metadata(self) -> dict[str, Any]:
        """The model's metadata: its tensors, labels, limits and digests.

        Raises:
            EndpointError: the endpoint did not answer, or answered with an error.
        """
        return self._json(self._request("GET", f"/v2/models/{self.model_name}").content)

    def predict_rest(
        self,
        dialogue: Sequence[Utterance] | VectorDialogue,
        detail: Detail = False,
        transcribe: bool = True,
        dialogue_id: str = "",
        consent: bool = False,
    ) -> EndpointPrediction:
        """Predict by REST (V2), with tensors as JSON.

        Args:
            dialogue: the utterances, or their vectors.
            detail: ask for the probabilities of each expert, too; with ``explain`` also for what decided each label.
            transcribe: let a model that transcribes add the text of utterances that have audio and no text.
            dialogue_id: name of the dialogue, the same whenever it is sent again; empty for none.
            consent: let the server keep the dialogue for labelling, if it does so; needs ``dialogue_id``.

        Raises:
            EndpointError: the endpoint did not answer, or answered with an error.
        """
        inputs: list[dict[str, Any]] = []
        parameters = _parameters(detail, transcribe, dialogue_id, consent)
        if isinstance(dialogue, VectorDialogue):
            parameters |= dialogue.parameters
            inputs += [
                {"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": _numbers(rows)}
                for name, rows in dialogue.ordered.items()
            ]
        for name, values in _columns(dialogue).items():
            tensor: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(values)]}
            if name == protocol.AUDIO:
                tensor["parameters"] = {protocol.CONTENT_TYPE: protocol.BASE64}
                tensor["data"] = [base64.b64encode(value).decode() for value in values]
            else:
                tensor["data"] = [value.decode() for value in values]
            inputs.append(tensor)
        inputs += [json_tensor(name, rows) for name, rows in other_columns(dialogue).items()]
        if flags := _flags(dialogue):
            inputs.append({"name": protocol.PREDICT, "datatype": "BOOL", "shape": [len(flags)], "data": flags})
        body = {"inputs": inputs, "parameters": parameters}
        content = self._json(self._request("POST", f"/v2/models/{self.model_name}/infer", body).content)
        fields = {
            output["name"]: np.array(
                output["data"], dtype=None if output["datatype"] == "BYTES" else np.float32
            ).reshape(output["shape"])
            for output in content["outputs"]
        }
        return _prediction(fields, content.get("parameters", {}), content.get("id", ""))

    def predict_v1(
        self,
        dialogue: Sequence[Utterance],
        detail: Detail = False,
        transcribe: bool = True,
        dialogue_id: str = "",
        consent: bool = False,
    ) -> EndpointPrediction:
        """Predict by REST with V1 JSON. The arguments are those of :meth:`predict_rest`.

        Raises:
            EndpointError: the endpoint did not answer, or answered with an error.
        """
        utterances = []
        for utterance in dialogue:
            turn: dict[str, Any] = {}
            if utterance.text:
                turn["text"] = utterance.text
            if utterance.audio:
                turn["audio"] = base64.b64encode(utterance.audio).decode()
            if not _is_predicted(utterance):
                turn[protocol.PREDICT] = False
            utterances.append(turn | json_fields(utterance))
        body = {
            "instances": [{"utterances": utterances}],
            "parameters": _parameters(detail, transcribe, dialogue_id, consent),
        }
        content = self._json(self._request("POST", f"/v1/models/{self.model_name}:predict", body).content)
        texts = {protocol.LABEL, protocol.MODALITIES_USED, protocol.TEXT_SOURCE}
        fields = {
            name: np.array(value, dtype=None if name in texts else np.float32)
            for name, value in content["predictions"][0].items()
        }
        return _prediction(fields, content.get("parameters", {}), content.get("id", ""))

    def predict_grpc(
        self,
        dialogue: Sequence[Utterance] | VectorDialogue,
        detail: Detail = False,
        transcribe: bool = True,
        dialogue_id: str = "",
        consent: bool = False,
    ) -> EndpointPrediction:
        """Predict by gRPC (V2), with tensors as raw bytes. The arguments are those of :meth:`predict_rest`.

        Raises:
            EndpointError: the endpoint did not answer, or answered with an error.
        """
        import grpc
        from kserve import InferInput, InferRequest, InferResponse
        from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
        from kserve.protocol.infer_type import to_http_parameters

        if self.grpc_target is None:
            raise EndpointError("the client has no gRPC address: set grpc_target.")
        tensors = {name: ("BYTES", np.array(values, dtype=object)) for name, values in _columns(dialogue).items()}
        parameters = _parameters(detail, transcribe, dialogue_id, consent)
        if isinstance(dialogue, VectorDialogue):
            parameters |= dialogue.parameters
            tensors |= {name: ("FP32", rows.astype(np.float32)) for name, rows in dialogue.ordered.items()}
        for name, rows in other_columns(dialogue).items():
            tensors[name] = ("BYTES" if rows.dtype == object else "FP32", rows)
        if flags := _flags(dialogue):
            tensors[protocol.PREDICT] = ("BOOL", np.array(flags))
        inputs = []
        for name, (datatype, array) in tensors.items():
            tensor = InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array, binary_data=True)
            tensor.parameters = None
            inputs.append(tensor)
        request = InferRequest(self.model_name, inputs, parameters=parameters)
        with grpc.insecure_channel(self.grpc_target) as channel:
            try:
                message = GRPCInferenceServiceStub(channel).ModelInfer(request.to_grpc(), timeout=self._timeout)
            except grpc.RpcError as error:
                status = error.code().name
                raise EndpointError(f"{self.grpc_target} answered {status}: {error.details()}", status) from error
        response = InferResponse.from_grpc(message)
        fields = {output.name: output.as_numpy() for output in response.outputs}
        return _prediction(fields, to_http_parameters(response.parameters), response.id)

    def _request(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> Any:
        import httpx

        try:
            response = httpx.request(
                method,
                f"{self.url}{path}",
                json=body,
                headers=self._headers,
                timeout=timeout or self._timeout,
                verify=self._verify,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EndpointError(
                f"{self.url} does not answer ({type(error).__name__}): check that the server runs."
            ) from error
        if response.status_code != 200:
            raise EndpointError(
                f"{self.url} answered {response.status_code}: {_sentence(response.content)}", str(response.status_code)
            )
        return response

    def _json(self, content: bytes) -> dict[str, Any]:
        try:
            value = load_json(content)
        except ValueError as error:
            raise EndpointError(
                f"{self.url} did not answer with JSON: check that it is the address of a predictor."
            ) from error
        return value if isinstance(value, dict) else {}


def _parameters(detail: Detail, transcribe: bool, dialogue_id: str, consent: bool) -> dict[str, str | bool]:
    """The parameters of a request; those with the value that a server assumes without them are left out."""
    parameters: dict[str, str | bool] = {protocol.DETAIL: detail}
    if not transcribe:
        parameters[protocol.TRANSCRIBE] = False
    if dialogue_id:
        parameters[protocol.DIALOGUE_ID] = dialogue_id
    if consent:
        parameters[protocol.CONSENT] = True
    return parameters


def _sentence(content: bytes) -> str:
    try:
        return str(load_json(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def _numbers(rows: np.ndarray) -> list[float | None]:
    """The numbers of a matrix, row after row; None for NaN, which JSON lacks."""
    return [None if value != value else value for value in rows.astype(np.float32).ravel().tolist()]


def _columns(dialogue: Sequence[Utterance] | VectorDialogue) -> dict[str, list[bytes]]:
    """Tensor → one element per utterance, empty if the utterance has none. Tensors without any element are omitted."""
    if isinstance(dialogue, VectorDialogue):
        return {}
    columns = {
        protocol.TEXT: [(utterance.text or "").encode() for utterance in dialogue],
        protocol.AUDIO: [utterance.audio or b"" for utterance in dialogue],
    }
    present = {name: values for name, values in columns.items() if any(values)}
    return present if present or other_columns(dialogue) else {protocol.TEXT: columns[protocol.TEXT]}


def _is_predicted(utterance: Utterance) -> bool:
    return getattr(utterance, "predict", True) is not False


def _flags(dialogue: Sequence[Utterance] | VectorDialogue) -> list[bool]:
    """Whether each utterance is predicted; empty if all are, which is what a request says that leaves it out."""
    if isinstance(dialogue, VectorDialogue):
        flags = [index not in dialogue.context for index in range(len(dialogue))]
    else:
        flags = [_is_predicted(utterance) for utterance in dialogue]
    return [] if all(flags) else flags


def _names(values: np.ndarray) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _prediction(fields: Mapping[str, np.ndarray], parameters: Mapping[str, Any], request_id: str) -> EndpointPrediction:
    missing = [name for name in protocol.OUTPUTS if name not in fields and name != protocol.EXPERT_PROBABILITIES]
    if missing:
        raise EndpointError(f"The answer lacks {', '.join(missing)}: check that the address is a predictor's.")
    return EndpointPrediction(
        predicted=_names(fields[protocol.LABEL]),
        probabilities=fields[protocol.PROBABILITIES],
        expert_weights=fields[protocol.EXPERT_WEIGHTS],
        expert_probabilities=fields.get(protocol.EXPERT_PROBABILITIES),
        modalities=_names(fields[protocol.MODALITIES_USED]),
        parameters={name: str(value) for name, value in parameters.items()},
        request_id=request_id,
        text_sources=_names(fields[protocol.TEXT_SOURCE]) if protocol.TEXT_SOURCE in fields else [],
        explanation=Explanation.of(fields, str(parameters.get(protocol.MODALITIES, ""))),
    )
