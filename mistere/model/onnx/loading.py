"""Open an exported model: an :class:`~mistere.model.dialogue_model.EmotionModel` without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from mistere.artifacts.io import ArtifactHandle, verify_directory
from mistere.artifacts.onnx_manifest import GRAPH_INPUTS, GRAPH_SUFFIX, MIXTURE_GRAPH, TOKENIZER, OnnxModel
from mistere.artifacts.signing import VERIFYING_KEY_VARIABLE
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.processes.threads import usable_cores
from mistere.config.encoder import EncoderConfig
from mistere.model.dialogue_model import EmotionModel
from mistere.model.encoders.folder_check import check_folder
from mistere.model.onnx.encoders import GraphEmbedder
from mistere.model.onnx.mixture import GraphMixture

_REMEDY = "export the model again with `mistere export`"


def verify_onnx(folder: Path) -> ArtifactHandle[OnnxModel]:
    """Check the folder of an exported model against its manifest.

    Raises:
        UsageError: there is no exported model.
        ArtifactError: a file is missing, damaged, or leads out of the folder; or the environment requires a signature, which no exported
            model has.
    """
    if not (folder / "manifest.json").is_file():
        raise UsageError(f"there is no exported model in {folder}: name a folder that `mistere export` wrote.")
    if os.environ.get(VERIFYING_KEY_VARIABLE):
        raise ArtifactError(
            f"the exported model in {folder} is not signed, as no export is, and {VERIFYING_KEY_VARIABLE} requires a signature",
            "serve the signed bundle, or unset the variable for a folder that you exported yourself",
        )
    return verify_directory(folder, OnnxModel)


def load_onnx(folder: Path, threads: int = 0, digest: str = "") -> EmotionModel:
    """Open and verify an exported model.

    Args:
        folder: as `mistere export` wrote it.
        threads: of an operation; 0 for the cores that this process may use.
        digest: that it must have; empty for no check.

    Raises:
        UsageError: there is no exported model.
        ArtifactError: a file is missing, damaged or refused; the message names it.
        MissingPackageError: ONNX Runtime is not installed.
    """
    manifest = verify_onnx(folder).manifest
    if digest and manifest.digest != digest:
        raise ArtifactError(f"the model in {folder} was exported again meanwhile", "give the same command again")
    if reason := _disagreement(manifest):
        raise ArtifactError(f"the manifest in {folder} is of no usable model: {reason}", _REMEDY)
    return graph_model(folder, manifest, threads or usable_cores())


def graph_model(folder: Path, manifest: OnnxModel, threads: int) -> EmotionModel:
    """A model of verified files.

    Args:
        folder: with the files.
        manifest: describes them.
        threads: of an operation.

    Raises:
        ArtifactError: a file is damaged or refused.
    """
    embedders = {}
    for name, graph in manifest.encoders.items():
        try:
            settings = EncoderConfig.model_validate(manifest.bundle.encoders[name].settings)
        except ValidationError as error:
            raise ArtifactError(f"the encoder of {name} in {folder} has an invalid setting", _REMEDY) from error
        if graph.text is not None:
            check_folder((folder / graph.text.tokenizer).parent, name)
        embedders[name] = GraphEmbedder(
            folder, name, graph, settings, threads, manifest.digest, int8=manifest.precision == "int8"
        )
    return EmotionModel(manifest.bundle, GraphMixture(folder, manifest, threads), embedders)


def _disagreement(model: OnnxModel) -> str:
    """What in a manifest contradicts itself, as a clause; empty if nothing does."""
    bundle = model.bundle
    if bundle.labels != model.labels or bundle.experts != model.experts or bundle.digest != model.bundle_digest:
        return "it describes another bundle than it names"
    if model.encoders.keys() != bundle.encoders.keys():
        return "it has other encoders than its bundle"
    if model.encoders and {name: one.dimension for name, one in model.encoders.items()} != model.dimensions:
        return "its encoders are not those of its mixture"
    if not model.encoders and bundle.vectors.keys() != model.dimensions.keys():
        return "its vectors are not those of its mixture"
    if MIXTURE_GRAPH not in model.files:
        return f"{MIXTURE_GRAPH} is not in it"
    for name, graph in model.encoders.items():
        if not graph.graph.endswith(GRAPH_SUFFIX):
            return f"the graph of {name} is not named *{GRAPH_SUFFIX}"
        fed = {"text": graph.text, "audio": graph.audio, "vector": graph.width}
        if {kind for kind, how in fed.items() if how is not None} != {graph.kind}:
            return f"it does not say how the encoder of {name} is fed"
        if tuple(graph.inputs) != GRAPH_INPUTS[graph.kind]:
            return f"the encoder of {name} has other inputs than {', '.join(GRAPH_INPUTS[graph.kind])}"
        if graph.text is not None and Path(graph.text.tokenizer).name != TOKENIZER:
            return f"the tokenizer of {name} is not named {TOKENIZER}"
        if {graph.graph, *([graph.text.tokenizer] if graph.text else [])} - model.files.keys():
            return f"a file of the encoder of {name} is not in it"
    return ""
