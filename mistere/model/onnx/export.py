"""Export a bundle: write its graphs, check them against it, and publish the folder as a whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import MANIFEST, ArtifactHandle, with_files
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.onnx_manifest import MIXTURE_GRAPH, TOKENIZER, AudioInput, EncoderGraph, OnnxModel, TextInput
from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.common.processes.threads import usable_cores
from mistere.data.dataset import Utterance
from mistere.data.kinds.audio import RATE
from mistere.model.dialogue_model import EmotionModel
from mistere.model.encoders.embedding import Embedder
from mistere.model.mixture.prediction import load_mixture
from mistere.model.onnx.comparison import QualityDifference, largest_difference, quality_difference
from mistere.model.onnx.graphs import OPSET, write_encoder, write_mixture
from mistere.model.onnx.loading import graph_model
from mistere.model.onnx.quantisation import quantise_graph
from mistere.model.onnx.session import check_packages

TOLERANCE: Final = 1e-3
"""The largest difference of a probability of a graph in float32 from the bundle's."""
_COMPARED: Final = 5
"""Dialogues of a dataset whose probabilities are compared, each in several forms."""
Dialogues = Callable[[], Iterable[Sequence[Utterance]]]
"""Reads dialogues anew at each call."""
_PACKAGES: Final = ("torch", "transformers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        manifest: as it was written.
        quality: weighted F1 beside the bundle's; None without a dataset.
    """

    manifest: OnnxModel
    quality: QualityDifference | None

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.manifest.files.values())


class QualityError(MistereError):
    """The exported model loses more weighted F1 than allowed."""


def export_model(
    model: EmotionModel,
    bundle: ArtifactHandle[ModelBundle],
    target: Path,
    examples: Sequence[Sequence[Utterance]],
    *,
    int8: bool = False,
    dialogues: Dialogues | None = None,
    margin: float | None = 0.02,
    progress: Callable[[str], object] = lambda _: None,
) -> Exported:
    """Write a bundle's graphs into a new folder, whose manifest is written last.

    Args:
        model: the bundle's model, on a CPU in float32.
        bundle: its files.
        target: the folder, which must not exist.
        examples: dialogues to compare probabilities on; empty for a model of vectors.
        int8: quantise the graphs to 8-bit integers.
        dialogues: of a dataset, with labels, to compare weighted F1 on; None for none.
        margin: weighted F1 that the exported model may lose, with 95 % confidence; None to report it and decide nothing.
        progress: called with what happens.

    Raises:
        MissingPackageError: a package is not installed.
        MistereError: the bundle is damaged, an encoder cannot be exported, or the probabilities differ.
        QualityError: it is not shown that the exported model loses less than the margin.
    """
    check_packages()
    compared = [*examples, *(islice(dialogues(), _COMPARED) if dialogues else ())]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        encoders = {}
        for name, embedder in model.embedders.items():
            progress(f"writing the {name} encoder")
            encoders[name] = _write_encoder(embedder, work)
        progress("writing the mixture")
        mixture = load_mixture(bundle.path)
        write_mixture(mixture, model.bundle.temperature, work / MIXTURE_GRAPH)
        manifest = OnnxModel(
            labels=model.labels,
            experts=model.experts,
            dimensions=model.dimensions,
            encoders=encoders,
            context_mode=model.context_mode,
            weights=mixture.size,
            precision="float32",
            bundle=_described(bundle.manifest),
            bundle_digest=bundle.manifest.digest,
            difference=0.0,
            versions={"opset": str(OPSET), **{name: version(name) for name in _PACKAGES}},
        )
        progress("comparing probabilities")
        exported = graph_model(work, manifest, usable_cores())
        difference = largest_difference(model, exported, compared)
        if not difference <= TOLERANCE:
            raise MistereError(
                f"the exported model's probabilities differ by {difference:.2g} from the bundle's, allowed are {TOLERANCE:g}: nothing "
                "was written; report the encoder's source, or export a student of the bundle."
            )
        int8_difference = None
        if int8:
            progress("quantising")
            for graph in (*(one.graph for one in encoders.values()), MIXTURE_GRAPH):
                quantise_graph(work / graph)
            exported = graph_model(work, manifest, usable_cores())
            int8_difference = largest_difference(model, exported, compared)
        quality = None
        if dialogues is not None:
            progress("comparing weighted F1")
            quality = quality_difference(model, exported, dialogues(), model.labels)
            if margin is not None:
                _check_quality(quality, margin)
        update: dict[str, Any] = {
            "difference": difference,
            "int8_difference": int8_difference,
            "precision": "int8" if int8 else "float32",
            "figures": _figures(quality),
        }
        manifest = with_files(manifest.model_copy(update=update), work)
        (work / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(manifest, quality)


def _write_encoder(embedder: Embedder, folder: Path) -> EncoderGraph:
    """Write the graph of an encoder, and what feeds it, into a folder of its own."""
    name, encoder, settings = embedder.modality, embedder.encoder, embedder.settings
    graph = f"{name}/encoder.onnx"
    write_encoder(encoder, name, folder / graph)
    numbers = encoder.family.write_graph_files(folder / name)
    fed: dict[str, Any] = {}
    if embedder.kind.name == "text":
        fed["text"] = TextInput(tokenizer=f"{name}/{TOKENIZER}", context_turns=settings.context_turns, **numbers)
    elif embedder.kind.name == "audio":
        fed["audio"] = AudioInput(
            sampling_rate=RATE, min_seconds=settings.min_seconds, max_seconds=settings.max_seconds
        )
    else:
        fed["width"] = encoder.family.input_width
    inputs = list(encoder.family.graph_inputs)
    described = {"graph": graph, "kind": embedder.kind.name, "inputs": inputs, "dimension": embedder.dimension, **fed}
    return EncoderGraph.model_validate(described)


def _described(bundle: ModelBundle) -> ModelBundle:
    """A bundle's manifest without files and provenance, and without the transcription, which is not exported."""
    without: dict[str, Any] = {"files": {}, "inputs": {}, "made_by": None, "provenance": None, "transcription": None}
    return bundle.model_copy(update=without)


def _check_quality(quality: QualityDifference, margin: float) -> None:
    difference = quality.difference
    if difference.low < -margin:
        raise QualityError(
            f"the exported model's weighted F1 is {quality.exported.value:.3f}, the bundle's {quality.bundle.value:.3f}: the difference "
            f"{difference.value:+z.3f} ({difference.low:+z.3f} to {difference.high:+z.3f}, {counted(quality.turns, 'turn')}) may exceed the margin of "
            f"{margin:.3f}; nothing was written: export without --int8, or allow more with --margin."
        )


def _figures(quality: QualityDifference | None) -> dict[str, float]:
    if quality is None:
        return {}
    figures: dict[str, float] = {"turns": quality.turns}
    for name in ("bundle", "exported", "difference"):
        interval = getattr(quality, name)
        figures |= {f"{name}.weighted_f1{end}": getattr(interval, which) for end, which in _ENDS.items()}
    return figures


_ENDS: Final = {"": "value", ".low": "low", ".high": "high"}
