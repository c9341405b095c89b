"""Graphs of encoders and mixtures give what PyTorch gives, and files of strangers are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistere.artifacts.onnx_manifest import OnnxModel
from mistere.common.errors import ArtifactError, MistereError
from mistere.model.dialogue_model import DialogueModel
from mistere.model.encoders.families import families
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.mixture.prediction import CalibratedMixture
from mistere.model.onnx.comparison import largest_difference
from mistere.model.onnx.encoders import OUTPUT
from mistere.model.onnx.graph_check import check_graph
from mistere.model.onnx.graphs import write_encoder, write_mixture
from mistere.model.onnx.mixture import GraphMixture
from mistere.model.onnx.session import GraphSession
from tests.serving.conftest import LABELS, tiny_mixture
from tests.unit.model.test_encoders import inputs_of, settings_of

pytestmark = pytest.mark.usefixtures("one_thread")
DIMENSIONS = {"speech": 6, "text": 5}


def encoder_of(folder: Path, name: str, **changes: Any) -> UtteranceEncoder:
    family, _, variant = name.partition("/")
    families()[family].write_random(folder / "source", 0, variant)
    families()[family].export_base(folder / "source", folder / "base")
    settings = settings_of(family, **changes)
    torch.manual_seed(1)
    return UtteranceEncoder(families()[family](folder / "base", settings), settings, len(LABELS)).eval()


def graph_vectors(encoder: UtteranceEncoder, path: Path, utterances: list[Any]) -> np.ndarray:
    """The vectors of a graph, each utterance alone, and those of text all at once too."""
    family = encoder.family
    session = GraphSession(path, 1, family.graph_inputs, [OUTPUT])
    if family.kind == "audio":
        return np.concatenate([session.run({"samples": wave[None]})[0] for wave in utterances])
    if family.kind == "vector":
        return session.run({"values": np.stack(utterances)})[0]
    batch = family.collate([family.prepare(utterance) for utterance in utterances])
    return session.run({name: tensor.numpy() for name, tensor in batch.items()})[0]


@pytest.mark.parametrize(
    "name",
    [
        "bidirectional_text/bert",
        "whisper/",
        "convolutional/",
        "vector/",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                "bidirectional_text/roberta",
                "bidirectional_text/distilbert",
                "waveform/wav2vec2",
                "waveform/wav2vec2-group",
                "waveform/hubert",
                "waveform/wavlm",
            )
        ),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", pytest.param("layer_mix", marks=pytest.mark.long)])
def test_the_graph_of_an_encoder_gives_its_vectors(name: str, pooling: str, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, name, pooling=pooling)
    write_encoder(encoder, "speech", tmp_path / "encoder.onnx")
    utterances = inputs_of(encoder.family.kind)
    family = encoder.family
    with torch.inference_mode():
        expected = encoder.embed(family.collate([family.prepare(utterance) for utterance in utterances])).numpy()
    np.testing.assert_allclose(graph_vectors(encoder, tmp_path / "encoder.onnx", utterances), expected, atol=2e-4)


def test_the_graph_of_a_shortened_whisper_averages_positions(tmp_path: Path) -> None:
    whole = encoder_of(tmp_path, "whisper", pooling="attentive")
    whole.family.write_shortened(whole.backbone, [0], 4, tmp_path / "short")
    settings = settings_of("whisper", pooling="attentive")
    short = UtteranceEncoder(families()["whisper"](tmp_path / "short", settings), settings, len(LABELS)).eval()
    write_encoder(short, "speech", tmp_path / "encoder.onnx")
    waves = inputs_of("audio")
    features = short.family.collate([short.family.prepare(wave) for wave in waves])
    with torch.inference_mode():
        expected = short.embed(features).numpy()
    np.testing.assert_allclose(graph_vectors(short, tmp_path / "encoder.onnx", waves), expected, atol=2e-4)


def test_large_families_are_refused_in_one_sentence(tmp_path: Path) -> None:
    assert {name for name, family in families().items() if not family.graph_inputs} >= {"decoder_text", "omni"}
    with pytest.raises(MistereError, match="cannot be exported: models of the family image are not made for small"):
        write_encoder(encoder_of(tmp_path, "image/vit"), "face", tmp_path / "encoder.onnx")


def graph_mixture(folder: Path, mixture: Any, temperature: float) -> DialogueModel:
    write_mixture(mixture, temperature, folder / "mixture.onnx")
    described = OnnxModel.model_construct(
        labels=LABELS,
        experts=mixture.experts,
        dimensions=mixture.dimensions,
        context_mode=mixture.config.context_mode,
        weights=mixture.size,
        precision="float32",
    )
    return DialogueModel(GraphMixture(folder, described, 1), {})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fusion": "feed_forward", "context_mode": "causal", "gate": "fitted"},
        {"context": "utterance", "gate": "mean", "standardise": False, "kernels": [1]},
        {
            "context_mode": "causal",
            "gru_layers": 2,
            "projection": 7,
            "attention_projections": 2,
            "fusion_skip": "input",
        },
    ],
    ids=["published", "feed_forward", "utterance", "causal"],
)
def test_the_graph_of_a_mixture_gives_its_probabilities(settings: dict[str, Any], tmp_path: Path) -> None:
    mixture = tiny_mixture(DIMENSIONS, **settings)
    exported = graph_mixture(tmp_path, mixture, 1.7)
    assert largest_difference(DialogueModel(CalibratedMixture(mixture, 1.7), {}), exported, []) < 1e-5
    empty = {name: np.full((3, width), np.nan, np.float32) for name, width in DIMENSIONS.items()}
    (answer,) = exported.predict_embeddings([empty])
    assert answer.modalities == ["none"] * 3 and np.isfinite(answer.probabilities).all()


def test_graphs_with_other_files_loops_or_strange_operations_are_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def graph(node: Any, weights: list[Any]) -> Any:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
        return helper.make_graph([node], "g", values[:1], values[1:], initializer=weights)

    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    body = graph(helper.make_node("Identity", ["x"], ["y"]), [])
    refused = {
        "weights in another file": graph(add, [outside]),
        "a loop or a branch": graph(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body), []),
        "an unknown kind": graph(helper.make_node("Run", ["x"], ["y"], domain="shell"), []),
        "weights in another file ": graph(helper.make_node("Constant", [], ["y"], value=outside), []),
    }
    path = tmp_path / "graph.onnx"
    for reason, one in refused.items():
        path.write_bytes(helper.make_model(one).SerializeToString())
        with pytest.raises(ArtifactError, match=reason.strip()):
            check_graph(path)
    onnx.save(helper.make_model(graph(add, [weights])), path)
    check_graph(path)
    content = path.read_bytes()
    for damaged in (b"", b"\x00", content[:-3], b"\xff" * 40, content + b"\x3a\x05"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            check_graph(path)


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def nested(path: list[int], hidden: int = -1) -> bytes:
    """A message in a message by field numbers; the key of one level has bit 32 set, which runtimes cut off."""
    content = b"\x01"
    for level in reversed(range(len(path))):
        key = path[level] << 3 | (0 if path[level] == 14 and level == len(path) - 1 else 2)
        key += (level == hidden) << 32
        content = varint(key) + (content if not key & 7 else varint(len(content)) + content)
    return content


@pytest.mark.parametrize(
    "path",
    [
        [25],
        [7, 15],
        [7, 5, 13],
        [7, 5, 14],
        [7, 1, 7],
        [7, 1, 5, 6],
        [7, 1, 5, 11],
        [7, 1, 5, 5, 13],
        [7, 1, 5, 10, 13],
        [7, 1, 5, 22],
        [7, 1, 5, 23],
    ],
    ids=str,
)
def test_a_key_of_more_than_32_bits_hides_no_forbidden_field(path: list[int], tmp_path: Path) -> None:
    file = tmp_path / "graph.onnx"
    file.write_bytes(nested([7, 2]))
    check_graph(file)
    file.write_bytes(nested(path))
    with pytest.raises(ArtifactError, match=r"defines|holds|refers|has an operation"):
        check_graph(file)
    for hidden in range(len(path)):
        file.write_bytes(nested([7, 2]) + nested(path, hidden))
        with pytest.raises(ArtifactError, match="is no ONNX file"):
            check_graph(file)


@pytest.mark.parametrize(
    "content",
    [b"\xba\x00\x00", b"\x3a\x80\x00", b"\x02\x00", b"\x00\x01", b"\x08" + b"\xff" * 9 + b"\x02"],
    ids=["long key", "long length", "field 0 of bytes", "field 0 of a number", "more than 64 bits"],
)
def test_numbers_that_readers_may_read_differently_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "graph.onnx"
    file.write_bytes(nested([7, 2]) + content)
    with pytest.raises(ArtifactError, match="is no ONNX file"):
        check_graph(file)
