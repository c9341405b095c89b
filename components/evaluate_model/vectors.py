"""Evaluate a mixture whose test split is vectors only, as ``mistere register`` does for the output of ``mistere train``.

The figures are those of a run, without what needs texts and recordings: slices by length and by columns, robustness, speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from components.evaluate_model.baselines import Baseline, compare_slices, compare_with, earlier_predictions
from components.evaluate_model.report_files import Findings, write_report
from components.evaluate_model.run import slices_of
from components.evaluate_model.runtime import measure_runtime, sizes
from mistere.artifacts.identities import EncoderIdentity
from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact
from mistere.artifacts.manifests import ChampionEvaluation, EvaluationReport, ModelBundle, MoEModel
from mistere.artifacts.object_store import ObjectStore
from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.gate_timeline import liveliest
from mistere.evaluation.mixture_evaluation import MixtureEvaluation, evaluate_mixture
from mistere.evaluation.split_metrics import Answers, write_predictions
from mistere.metrics.predictions import PREDICTIONS_FILE
from mistere.metrics.slices import slice_metrics
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.prediction import load_mixture, predict
from mistere.registry.release.champion import NO_CHAMPION
from mistere.serving import protocol
from mistere.serving.example_dialogue import FEW_UTTERANCES, Example
from mistere.serving.made_up_dialogue import made_up_vectors
from mistere.serving.vectors import VectorDialogue

if TYPE_CHECKING:
    from mistere.model.dialogue_prediction import Embeddings
    from mistere.model.mixture.mixture import MixtureOfExperts

_TIMED: Final = 5
_NUMBER_BYTES: Final = 24
"""The longest number of a request in JSON, with its separator."""


def evaluate_vectors(
    config: EvaluationConfig,
    store: ObjectStore,
    progress: Progress,
    model: ArtifactHandle[MoEModel],
    data: EmbeddedDialogues,
    report: Path,
    champion_digest: str,
    anchor_digest: str = NO_CHAMPION,
) -> EvaluationReport:
    """Evaluate on test, and write predictions, timelines and an example dialogue of vectors.

    Args:
        config: the ``evaluation`` section.
        store: the object store.
        progress: receives what is being done.
        model: the mixture, with the encoders of its vectors as far as they are known.
        data: vectors of the mixture's modalities.
        report: folder of the report's files.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the bundle of the gate's anchor, or ``none``.
    """
    mixture, temperature = load_mixture(model.path), model.manifest.temperature
    evaluated = evaluate_mixture(mixture, temperature, data, config)
    write_predictions(report / PREDICTIONS_FILE, evaluated.answers, evaluated.labels, evaluated.names)
    flat = Answers.of(evaluated.scored.predictions, evaluated.names)
    true = evaluated.scored.labels
    turns = {name: len(labels) for name, labels in zip(evaluated.names, evaluated.labels, strict=True)}
    parts, classes = slices_of(flat, turns), len(data.labels)
    metrics = evaluated.metrics | slice_metrics(parts, true, flat.predicted, flat.dialogues, classes, config)
    runtime = _runtime(config, model, evaluated.read)
    baselines: dict[str, ChampionEvaluation] = {}
    for baseline in (Baseline.champion(champion_digest), Baseline.anchor(anchor_digest)):
        if baseline.digest == NO_CHAMPION:
            continue
        compared = baselines[baseline.name] = _evaluate(store, progress, model.manifest, baseline, evaluated, report)
        if not compared.incomparable:
            metrics |= compare_with(baseline, report, classes, config)
    if "champion" in baselines and not baselines["champion"].incomparable:
        metrics |= compare_slices(report, parts, classes, config)
    timelines = liveliest(evaluated.names, evaluated.answers, evaluated.labels, data.labels)
    example = None
    if config.example != "none":
        sources = evaluated.read if config.example == "test" else [made_up_vectors(mixture.dimensions)]
        example = example_of(mixture, temperature, sources, model.manifest.encoders)
    return write_report(report, model.manifest, evaluated, Findings(metrics, runtime, timelines, example, baselines))


def example_of(
    mixture: MixtureOfExperts,
    temperature: float,
    dialogues: Sequence[Embeddings],
    encoders: Mapping[str, EncoderIdentity],
) -> Example | None:
    """A dialogue for the smoke test, or the beginning of one, with its probabilities; None if one utterance exceeds a request.

    Args:
        mixture: in evaluation mode.
        temperature: its calibration.
        dialogues: vectors of the test dialogues.
        encoders: what made the vectors, by modality.
    """
    bytes_each = _NUMBER_BYTES * sum(mixture.dimensions.values())
    most = min(FEW_UTTERANCES, protocol.MAX_BYTES // (bytes_each + 64))
    if not most:
        return None

    def rank(dialogue: Embeddings) -> tuple[bool, bool]:
        return any(np.isnan(rows).any() for rows in dialogue.values()), len(next(iter(dialogue.values()))) > most

    vectors = {name: rows[:most] for name, rows in min(dialogues, key=rank).items()}
    vectors = {name: rows for name, rows in vectors.items() if not np.isnan(rows).all()}
    if not vectors:
        return None
    (answer,) = predict(mixture, [vectors], temperature)
    digests = [encoders[name].digest for name in protocol.in_order(vectors)]
    return Example(VectorDialogue(vectors, protocol.join_names(filter(None, digests))), answer.probabilities)


def _runtime(
    config: EvaluationConfig, model: ArtifactHandle[MoEModel], dialogues: Sequence[Embeddings]
) -> dict[str, float]:
    figures = sizes(sum(file.size for file in model.manifest.files.values()), 0)
    if not config.runtime:
        return figures

    def load() -> Callable[[Sequence[VectorDialogue]], object]:
        mixture = load_mixture(model.path)
        return lambda ones: predict(mixture, [one.vectors for one in ones], model.manifest.temperature)

    short = [VectorDialogue(one) for one in dialogues if len(next(iter(one.values()))) <= FEW_UTTERANCES]
    return figures | measure_runtime(load, short[:_TIMED])


def _evaluate(
    store: ObjectStore,
    progress: Progress,
    candidate: MoEModel,
    baseline: Baseline,
    evaluated: MixtureEvaluation,
    report: Path,
) -> ChampionEvaluation:
    """The earlier model's predictions: from its own report of this test split, or by its mixture on vectors of the same encoders."""
    known = earlier_predictions(store, progress, baseline, candidate.test_digest, report)
    if known is not None:
        return known
    bundle = open_artifact(store, ModelBundle, baseline.digest).manifest
    made = {name: encoder.identity for name, encoder in bundle.encoders.items()} | bundle.vectors
    same = all(
        one.digest and candidate.encoders.get(name, EncoderIdentity()).digest == one.digest
        for name, one in made.items()
    )
    if bundle.labels != candidate.labels:
        why = "it has other labels than these vectors"
    elif not same:
        why = "it was evaluated on another test split, and the encoders of these vectors are not known to be its own"
    else:
        from mistere.model.inference import load_bundle

        earlier = load_bundle(store.location(artifact_key(ModelBundle.__name__, baseline.digest)))
        answers = earlier.predict_embeddings([{name: one[name] for name in made} for one in evaluated.read])
        write_predictions(report / baseline.file, answers, evaluated.labels, evaluated.names)
        return ChampionEvaluation(bundle_digest=baseline.digest, test_digest=candidate.test_digest)
    progress.note(f"the {baseline.name} cannot be compared: {why}.")
    return ChampionEvaluation(bundle_digest=baseline.digest, incomparable=why)
