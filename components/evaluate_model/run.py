"""``evaluate_model``: metrics with intervals on the test split, and every prediction.

Metrics, calibration, experts and missing modalities are always measured. The raw utterances are read for slices by length, for
the bundle's example dialogue and, depending on the settings, for the model's running cost and robustness.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.io import ArtifactHandle, open_artifact
from mistere.artifacts.manifest import FileEntry
from mistere.artifacts.manifests import (
    BaseEncoder,
    ChampionEvaluation,
    EmbeddingSet,
    EncoderCheckpoint,
    EvaluationReport,
    MoEModel,
    UtteranceSet,
)
from mistere.common.counting import counted
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.config.evaluation import EvaluationConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.metrics.predictions import PREDICTIONS_FILE
from mistere.registry.release.champion import NO_CHAMPION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from components.evaluate_model.baselines import Baseline
    from components.evaluate_model.raw_utterances import RawTest
    from mistere.evaluation.split_metrics import Answers
    from mistere.model.dialogue_model import DialogueModel
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.encoders.embedding import Embedder
    from mistere.model.mixture.mixture import MixtureOfExperts

    Present = Mapping[str, tuple[ArtifactHandle[EncoderCheckpoint], ArtifactHandle[EmbeddingSet]]]

STAGE = Stage(
    name="evaluate_model",
    config=EvaluationConfig,
    inputs={
        "utterances": UtteranceSet,
        "vectors": EmbeddingSet,
        "encoders": EncoderCheckpoint,
        "model": MoEModel,
    },
    by_modality=frozenset({"vectors", "encoders"}),
    outputs={"report": EvaluationReport},
    reports={"report": ("metrics.json",)},
    imports=("torch", "pyarrow.parquet"),
)


def run(
    config: EvaluationConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
    encoders: Mapping[str, ArtifactHandle[EncoderCheckpoint]],
    model: ArtifactHandle[MoEModel],
    report: Path,
    champion_digest: str,
    anchor_digest: str,
) -> Result:
    """Evaluate.

    Args:
        config: the ``evaluation`` section.
        step: this execution.
        utterances: the dataset.
        vectors: vectors, or their absence, by modality.
        encoders: what made them, or its absence, by modality.
        model: the mixture.
        report: folder of the output artifact.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the bundle of the gate's anchor, or ``none``.
    """
    from components.evaluate_model.baselines import Baseline, compare_slices
    from components.evaluate_model.calls import measure_calls
    from components.evaluate_model.example import chosen_example
    from components.evaluate_model.raw_utterances import columns_of, keys_of, read_raw_test
    from components.evaluate_model.report_files import Findings, write_report
    from components.evaluate_model.robustness import CleanDialogues, Reembedding
    from mistere.data.transcripts import TEXT_SOURCE
    from mistere.data.utterances import UtteranceReader
    from mistere.evaluation.gate_timeline import liveliest
    from mistere.evaluation.mixture_evaluation import evaluate_mixture
    from mistere.evaluation.split_metrics import Answers, write_predictions
    from mistere.metrics.expert_gate import collapsed_gate
    from mistere.metrics.modality_choice import choice_metrics
    from mistere.metrics.slices import slice_metrics
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.mixture.prediction import load_mixture

    mixture, temperature = load_mixture(model.path), model.manifest.temperature
    data = EmbeddedDialogues.open(list(vectors.values())).only(list(mixture.dimensions))
    test = data.split("test")
    step.progress(f"predicting {counted(len(test), 'test dialogue')}")
    evaluated = evaluate_mixture(mixture, temperature, data, config)
    names, read, labels, answers = evaluated.names, evaluated.read, evaluated.labels, evaluated.answers
    scored, true = evaluated.scored, evaluated.scored.labels
    metrics = evaluated.metrics | choice_metrics(model.manifest.metrics)
    if collapse := collapsed_gate(metrics, mixture.experts):
        step.progress.note(collapse)
    write_predictions(report / PREDICTIONS_FILE, answers, labels, names)

    step.progress("reading the raw test utterances")
    timelines = liveliest(names, answers, labels, data.labels)
    used = frozenset(IMPLICIT_KINDS) | mixture.dimensions.keys()
    reader = UtteranceReader(utterances.manifest, ("test",), store=step.store)
    raw = read_raw_test(reader, [timeline.name for timeline in timelines], used)
    flat = Answers.of(scored.predictions, names)
    keys = keys_of(test)
    turns = {dialogue.dialogue_id: len(dialogue) for dialogue in test}
    columns = [*config.slices, *([TEXT_SOURCE] if utterances.manifest.transcription else [])]
    parts = slices_of(flat, turns) | raw.membership(keys) | columns_of(reader, list(dict.fromkeys(columns)), keys)
    metrics |= slice_metrics(parts, true, flat.predicted, flat.dialogues, len(data.labels), config)
    if config.speaker_probe:
        metrics |= _speaker_probe(config, step, mixture, data, raw, keys, flat)
    present = {name: (encoders[name], vectors[name]) for name in mixture.dimensions}
    whole = partial(_whole_model, step, mixture, model.manifest.temperature, present)
    runtime = _runtime(config, step, model, present, whole, raw, utterances.manifest)
    if config.robustness or config.int8:
        clean = CleanDialogues(names, read, labels, len(data.labels))
        again = Reembedding(config, reader, mixture, temperature, clean, step.progress)
        if config.robustness:
            metrics |= again.robustness(
                {name: _embedder(step, e, v.manifest.encoder.precision) for name, (e, v) in present.items()}
            )
        if config.int8:
            metrics |= again.int8({name: _embedder(step, e, "float32", int8=True) for name, (e, _) in present.items()})

    evaluations: dict[str, ChampionEvaluation] = {}
    for baseline in (Baseline.champion(champion_digest), Baseline.anchor(anchor_digest)):
        if baseline.digest != NO_CHAMPION:
            evaluations[baseline.name], compared = _baseline(
                config, step, utterances.manifest, baseline, labels, names, report
            )
            metrics |= compared
    if "champion" in evaluations and not evaluations["champion"].incomparable:
        metrics |= compare_slices(report, parts, len(data.labels), config)
    if config.calls:
        metrics |= measure_calls(config, step, utterances.manifest, whole(), evaluations.get("champion"))
    with_texts = [timeline.with_texts(raw.texts.get(timeline.name, {})) for timeline in timelines]
    probabilities = {name: answer.probabilities for name, answer in zip(names, answers, strict=True)}
    example = chosen_example(config.example, utterances.manifest, raw.example, probabilities, whole)
    findings = Findings(metrics, runtime, with_texts, example, evaluations)
    return Result(manifests={"report": write_report(report, model.manifest, evaluated, findings)})


def slices_of(flat: Answers, turns: Mapping[str, int]) -> dict[str, list[str | None]]:
    """The slices that every model has: by modality, and by the dialogue's number of turns.

    Args:
        flat: predictions of the N utterances.
        turns: number of turns of each dialogue.

    Returns:
        By kind, the slice of each utterance ``[N]``.
    """
    from mistere.metrics.slices import binned

    return {
        "modalities": list(flat.modalities),
        "dialogue_turns": [binned("dialogue_turns", turns[name]) for name in flat.dialogues],
    }


def _speaker_probe(
    config: EvaluationConfig,
    step: Step,
    mixture: MixtureOfExperts,
    data: EmbeddedDialogues,
    raw: RawTest,
    keys: list[tuple[str, int]],
    flat: Answers,
) -> dict[str, float]:
    speakers = raw.speakers(keys)
    if not any(speakers):
        return {}
    import numpy as np

    from components.evaluate_model.speaker_probe import probe_speakers
    from mistere.model.mixture.prediction import representations

    step.progress("probing for speakers")
    test = data.split("test")
    true = np.concatenate([dialogue.labels for dialogue in test])
    labelled = np.concatenate([dialogue.labelled for dialogue in test])
    rows = representations(mixture, [data.read(dialogue) for dialogue in test])[labelled]
    return probe_speakers(rows, speakers, flat.dialogues, true[labelled], config)


def _embedder(
    step: Step, encoder: ArtifactHandle[EncoderCheckpoint], precision: str, *, int8: bool = False
) -> Embedder:
    with step.loading():
        from mistere.config.encoder import ExtractionSettings
        from mistere.model.embedders import open_embedder

    return open_embedder(
        step.store,
        encoder.manifest.modality,
        encoder.manifest.encoder,
        encoder.file("tuned.safetensors"),
        len(encoder.manifest.labels),
        ExtractionSettings.model_validate({"precision": precision}),
        note=step.progress.note,
        int8=int8,
    )


def _runtime(
    config: EvaluationConfig,
    step: Step,
    model: ArtifactHandle[MoEModel],
    encoders: Present,
    whole: Callable[[], DialogueModel],
    raw: RawTest,
    reference: UtteranceSet,
) -> dict[str, float]:
    """The bundle's size and, if enabled, its running cost."""
    from components.evaluate_model.runtime import measure_runtime, sizes

    own, base = [*model.manifest.files.values()], list[FileEntry]()
    for encoder, _ in encoders.values():
        own.append(encoder.manifest.files["tuned.safetensors"])
        base += open_artifact(step.store, BaseEncoder, encoder.manifest.encoder.base_digest).manifest.files.values()
    if reference.transcription is not None:
        digest = reference.transcription.model.base_digest
        base += open_artifact(step.store, BaseEncoder, digest).manifest.files.values()
    figures = sizes(sum(file.size for file in own), sum(file.size for file in base))
    if not config.runtime:
        return figures
    with step.loading():
        import transformers.modeling_utils  # noqa: F401  (what is loaded with it is not the model's memory)

        import mistere.model.inference  # noqa: F401
    step.progress("timing raw dialogues")
    return figures | measure_runtime(lambda: whole().predict, raw.timed)


def _whole_model(step: Step, mixture: MixtureOfExperts, temperature: float, encoders: Present) -> DialogueModel:
    """The encoders and the mixture, loaded: what the endpoint will run."""
    with step.loading():
        from mistere.model.dialogue_model import DialogueModel
        from mistere.model.mixture.prediction import CalibratedMixture
    embedders = {name: _embedder(step, encoder, "float32") for name, (encoder, _) in encoders.items()}
    for embedder in embedders.values():
        _ = embedder.encoder
    return DialogueModel(CalibratedMixture(mixture, temperature), embedders)


def _baseline(
    config: EvaluationConfig,
    step: Step,
    reference: UtteranceSet,
    baseline: Baseline,
    labels: list[np.ndarray],
    names: list[str],
    report: Path,
) -> tuple[ChampionEvaluation, dict[str, float]]:
    from components.evaluate_model.baselines import compare_with, evaluate_baseline

    evaluation = evaluate_baseline(step, reference, baseline, labels, names, report)
    if evaluation.incomparable:
        return evaluation, {}
    return evaluation, compare_with(baseline, report, len(reference.labels), config)
