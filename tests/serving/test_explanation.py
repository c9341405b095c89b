"""What decided a label: shares of the modalities, the turns that mattered, and the limits of that work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

import mistere
from mistere.model.dialogue_prediction import DialoguePrediction
from mistere.predictor.errors import RequestError
from mistere.predictor.explanation.masking import (
    MAX_ROWS,
    ExplainedDialogue,
    check_work,
    compute,
    rows_needed,
)
from mistere.predictor.explanation.queue import ExplanationQueue
from mistere.serving import protocol
from mistere.serving.explanation import Explanation
from pipelines.cli.commands.predict import predict
from tests.serving.conftest import Server, Utterance, make_vectors_bundle
from tests.serving.test_context_turns import Turn
from tests.serving.test_errors import infer, refused, tensor

NAMES = ["speech", "text", "face"]


class Known:
    """A model whose rule is known: the text of an utterance decides, and that of the first one counts half in all others."""

    def predict_embeddings(self, dialogues: Sequence[Mapping[str, np.ndarray]]) -> list[DialoguePrediction]:
        return [self._predict(np.nan_to_num(dialogue["text"][:, 0])) for dialogue in dialogues]

    def _predict(self, text: np.ndarray) -> DialoguePrediction:
        score = text + 0.5 * np.where(np.arange(len(text)) > 0, text[0], 0)
        first = 1 / (1 + np.exp(-score))
        zeros = np.zeros((len(text), 1), np.float32)
        return DialoguePrediction(np.stack([first, 1 - first], 1).astype(np.float32), zeros, zeros, [""] * len(text))


def explained(model: Any, names: Sequence[str], dialogue: Mapping[str, np.ndarray], *context: int) -> Explanation:
    one = ExplainedDialogue(names, dialogue, model.predict_embeddings([dialogue])[0], context)
    passes = list(one.passes())
    assert len(passes) * len(one) == rows_needed(one.present, context)
    compute(model, passes)
    return one.explanation()


def test_the_deciding_modality_and_turn_are_named() -> None:
    dialogue = {name: np.ones((4, 2), np.float32) for name in NAMES}
    dialogue["speech"][2] = np.nan
    answer = explained(Known(), NAMES, dialogue, 3)
    expected = 1 / (1 + np.exp(-np.array([1, 1.5, 1.5])))
    silent = 1 / (1 + np.exp(-np.array([0, 0.5, 0.5])))
    np.testing.assert_allclose(answer.contributions[:3, 1], expected - silent, atol=1e-6)
    assert not answer.contributions[:, [0, 2]].any() and not answer.contributions[3].any()
    np.testing.assert_allclose(answer.baselines, [*silent, 0], atol=1e-6)
    assert answer.turns.tolist() == [[-1, -1, -1], [0, -1, -1], [0, -1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(answer.influences[1, 0], expected[1] - 1 / (1 + np.exp(-1)), atol=1e-6)


def test_the_shares_are_the_shapley_values_of_a_real_mixture(tmp_path: Path) -> None:
    """Compared with the definition: the mean gain over all orders in which the modalities may be added."""
    widths = {"speech": 6, "text": 5, "face": 4}
    model = mistere.load(make_vectors_bundle(tmp_path, widths, {}))._model
    random = np.random.default_rng(0)
    dialogue = {name: random.normal(size=(3, width)).astype(np.float32) for name, width in widths.items()}
    dialogue["face"][1] = np.nan
    names = protocol.in_order(widths)
    answer, whole = explained(model, names, dialogue), model.predict_embeddings([dialogue])[0].probabilities
    np.testing.assert_allclose(answer.contributions.sum(1) + answer.baselines, whole.max(1), atol=1e-5)
    assert answer.contributions[1, names.index("face")] == 0 and np.abs(answer.contributions).max() > 1e-3

    def value(turn: int, kept: tuple[str, ...]) -> float:
        part = {name: rows.copy() for name, rows in dialogue.items()}
        for name in set(names) - set(kept):
            part[name][turn] = np.nan
        return float(model.predict_embeddings([part])[0].probabilities[turn, whole[turn].argmax()])

    for turn in range(3):
        gains = dict.fromkeys(names, 0.0)
        for order in permutations(names):
            for count, name in enumerate(order):
                gains[name] += (value(turn, order[: count + 1]) - value(turn, order[:count])) / 6
        np.testing.assert_allclose(answer.contributions[turn], [gains[name] for name in names], atol=1e-5)
    without = {name: rows.copy() for name, rows in dialogue.items()}
    for rows in without.values():
        rows[answer.turns[2, 0]] = np.nan
    left = model.predict_embeddings([without])[0].probabilities[2, whole[2].argmax()]
    np.testing.assert_allclose(answer.influences[2, 0], whole[2].max() - left, atol=1e-5)


def test_every_way_gives_the_same_explanation(server: Server, bundle: str, dialogue: list[Utterance]) -> None:
    local = mistere.load(bundle).predict(dialogue, explain=True)
    answers = [getattr(server.client, f"predict_{kind}")(dialogue, detail="explain") for kind in ("rest", "grpc", "v1")]
    answers.append(mistere.connect(server.url).predict(dialogue, explain=True))
    assert local.explanation is not None
    for answer in answers:
        assert answer.explanation is not None and answer.explanation.modalities == ["speech", "text"]
        assert answer.parameters[protocol.WEIGHTS_MEANING] == protocol.WEIGHTS_MEAN
        assert answer.expert_probabilities is not None
        for name, array in answer.explanation.outputs().items():
            np.testing.assert_allclose(array, local.explanation.outputs()[name], atol=1e-5, err_msg=name)
        total = answer.explanation.contributions.sum(1) + answer.explanation.baselines
        np.testing.assert_allclose(total, answer.probabilities.max(1), atol=1e-5)
        assert not answer.explanation.contributions[[1, 2, 3], [0, 1, 0]].any()
    assert server.client.predict_rest(dialogue, detail=True).explanation is None


def test_binary_and_typed_tensors(server: Server) -> None:
    texts = ["Where have you been?", "At home, why?"]
    expected = server.client.predict_rest([Utterance(text) for text in texts], detail="explain").explanation
    assert expected is not None
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in protocol.EXPLANATION_OUTPUTS]
    response = httpx.post(
        f"{server.url}/v2/models/mistere/infer", json={"inputs": [tensor("text", texts)], "outputs": wanted}
    )
    size = int(response.headers[protocol.BINARY_HEADER])
    outputs, raw = json.loads(response.content[:size])["outputs"], response.content[size:]
    for output in outputs:
        count = output["parameters"]["binary_data_size"]
        values = np.frombuffer(raw[:count], "<i4" if output["datatype"] == "INT32" else "<f4").reshape(output["shape"])
        np.testing.assert_allclose(values, expected.outputs()[output["name"]], atol=1e-5)
        raw = raw[count:]
    message = pb.ModelInferRequest(model_name="mistere")
    column = message.inputs.add(name="text", datatype="BYTES", shape=[2])
    column.contents.bytes_contents.extend(text.encode() for text in texts)
    message.parameters["detail"].string_param = "explain"
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
    typed = {output.name: output.contents for output in answer.outputs}
    assert list(typed["influential_turns"].int_contents) == expected.turns.ravel().tolist()
    np.testing.assert_allclose(typed["turn_influences"].fp32_contents, expected.influences.ravel(), atol=1e-5)


def test_context_turns_matter_but_are_not_explained(server: Server) -> None:
    turns = [Turn("Where have you been?"), Turn("At home, why?", predict=False), Turn("How dare you!")]
    answer = server.client.predict_rest(turns, detail="explain").explanation
    assert answer is not None
    assert not answer.contributions[1].any() and answer.baselines[1] == 0 and set(answer.turns[1]) == {-1}
    assert set(answer.turns[0]) == {1, 2, -1} and set(answer.turns[2]) == {0, 1, -1}


def test_more_work_than_allowed_is_refused(server: Server) -> None:
    width = 16
    rows = [[0.1] * width] * 128
    both = [tensor(f"{name}_embedding", rows, [128, width], "FP32") for name in ("speech", "text")]
    digest = ",".join(("s" * 64, "t" * 64))
    parameters = {"encoder_digest": digest, "detail": "explain"}
    allowed = httpx.post(
        f"{server.url}/v2/models/mistere/infer", json={"inputs": both, "parameters": parameters}, timeout=120
    )
    assert allowed.status_code == 200, allowed.text
    with pytest.raises(RequestError, match=f"may take {MAX_ROWS} predictions of an utterance; this one takes 114688"):
        check_work([np.ones((128, 3), bool)], [frozenset()])
    with pytest.raises(RequestError, match=r"takes 114688: mark some with predict false, or send fewer utterances\."):
        check_work([np.ones((128, 3), bool)], [frozenset()])
    with pytest.raises(
        RequestError, match=r"takes 90000: send fewer utterances\."
    ):  # one modality: marking saves nothing
        check_work([np.ones((300, 1), bool)], [frozenset(range(150))])
    with pytest.raises(RequestError, match="more than 8 modalities") as caught:
        check_work([np.ones((1, 9), bool)], [frozenset()])
    assert caught.value.code == 413


class Slow(Known):
    """Takes half a millisecond for a prediction of an utterance."""

    dimensions: ClassVar = {"text": 2}
    mixture_weights = 0

    def predict_embeddings(self, dialogues: Sequence[Mapping[str, np.ndarray]]) -> list[DialoguePrediction]:
        time.sleep(0.0005 * sum(len(one["text"]) for one in dialogues))
        return super().predict_embeddings(dialogues)


def test_what_may_wait_is_a_measured_time() -> None:
    model: Any = Slow()
    vectors = {"text": np.ones((20, 2), np.float32)}
    dialogue: Any = SimpleNamespace(context=frozenset())
    prediction = Known().predict_embeddings([vectors])

    async def refused_of_two(queue: ExplanationQueue) -> int:
        asked = (queue.explain([dialogue], [vectors], prediction) for _ in range(2))
        return sum(isinstance(one, RequestError) for one in await asyncio.gather(*asked, return_exceptions=True))

    async def go() -> None:
        queue = ExplanationQueue(lambda: model, lambda: 0.08)
        try:
            assert await refused_of_two(queue) == 0, "by the estimate of the start, both take 20 ms"
            assert await refused_of_two(queue) == 1, "they were measured at 200 ms each"
        finally:
            queue.close()

    asyncio.run(go())


def test_another_word_than_explain_is_refused(server: Server) -> None:
    refused(infer(server, tensor("text", ["Hi"]), parameters={"detail": "explained"}), 400, "explain")


def test_the_command_prints_it(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dialogue.json"
    file.write_text(json.dumps([{"text": "Where have you been?"}, {"text": "At home, why?"}]))
    predict(str(file), server.url, "mistere", explain=True)
    shown = capsys.readouterr().out
    assert "from its text" in shown and protocol.WEIGHTS_MEAN.split(";")[0] in " ".join(shown.split())
    predict(str(file), server.url, "mistere", as_json=True, explain=True)
    first = json.loads(capsys.readouterr().out)["utterances"][0]["explanation"]
    assert first["modality_contributions"]["speech"] == 0 and first["influential_turns"][0]["turn"] == 1
