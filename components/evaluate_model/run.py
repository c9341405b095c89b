"""``evaluate_model``: the test split, read once: figures with intervals, each expert alone, and every prediction kept.

The champion's predictions on this very test split come along, so that the gate can compare in pairs: from its own report
where that is of the same test split, else by running its bundle on the raw utterances.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.artifact_io import Opened, open_artifact
from components.core.champion import NO_CHAMPION, read_champion
from components.core.config.evaluation import EvaluationConfig
from components.core.manifests import EmbeddingSet, EvaluationReport, ModelBundle, MoEModel, UtteranceSet
from components.core.stage import Result, Stage, Step

if TYPE_CHECKING:
    import numpy as np

    from components.core.moe.prediction import DialoguePrediction

STAGE = Stage(
    name="evaluate_model",
    config=EvaluationConfig,
    inputs={"utterances": UtteranceSet, "speech": EmbeddingSet, "text": EmbeddingSet, "model": MoEModel},
    outputs={"report": EvaluationReport},
    reports={"report": ("metrics.json",)},
    imports=("torch", "pyarrow.parquet"),
)
PREDICTIONS_FILE = "predictions.parquet"
CHAMPION_FILE = "champion.parquet"


def run(
    config: EvaluationConfig,
    step: Step,
    utterances: Opened[UtteranceSet],
    speech: Opened[EmbeddingSet],
    text: Opened[EmbeddingSet],
    model: Opened[MoEModel],
    report: Path,
    champion_digest: str,
) -> Result:
    """Evaluate.

    Args:
        config: the ``evaluation`` section.
        step: this execution.
        utterances: the dataset, for evaluating a champion with other encoders.
        speech: speech vectors.
        text: text vectors.
        model: the mixture.
        report: folder of the output artifact.
        champion_digest: the champion's bundle, or ``none``.
    """
    import numpy as np

    from components.core.embeddings import EmbeddedDialogues
    from components.core.evaluation import measure, write_predictions
    from components.core.gate_statistics import collapsed_gate
    from components.core.missing_curve import curve_metrics
    from components.core.missing_modality import missing_modality_curve
    from components.core.moe.prediction import load_mixture, predict

    data = EmbeddedDialogues.open([speech, text])
    mixture = load_mixture(model.path)
    test = data.split("test")
    step.progress(f"predicting {len(test)} test dialogues")
    read, labels = [data.read(dialogue) for dialogue in test], [dialogue.labels for dialogue in test]
    answers = predict(mixture, read, model.manifest.temperature)
    true = np.concatenate(labels)
    names = [dialogue.dialogue_id for dialogue in test]
    measured = measure(answers, true, names, data.labels, mixture.experts, config)
    curve = missing_modality_curve(mixture, model.manifest.temperature, read, labels, names, len(data.labels), config)
    metrics = measured.metrics | curve_metrics(curve)
    if collapse := collapsed_gate(metrics, mixture.experts):
        step.progress.note(collapse)
    write_predictions(report / PREDICTIONS_FILE, answers, labels, names)
    if champion_digest != NO_CHAMPION:
        _champion_predictions(step, utterances.manifest, champion_digest, labels, names, report)
    (report / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")
    return Result(
        manifests={
            "report": EvaluationReport(
                labels=data.labels,
                experts=mixture.experts,
                test_digest=model.manifest.test_digest,
                utterances=len(true),
                dialogues=len(test),
                metrics=metrics,
                confusion=measured.confusion.tolist(),
            )
        }
    )


def _champion_predictions(
    step: Step, reference: UtteranceSet, digest: str, labels: list[np.ndarray], names: list[str], report: Path
) -> None:
    """Write the champion's predictions on this test split as ``champion.parquet``.

    Nothing is written where they cannot be compared (other labels); the gate then says so.
    """
    import shutil

    from components.core.evaluation import write_predictions

    champion = read_champion(step.store).champion
    if champion is not None and champion.bundle_digest == digest:
        before = open_artifact(step.store, EvaluationReport, champion.evaluation_digest)
        if before.manifest.test_digest == reference.test_digest:
            shutil.copyfile(before.file(PREDICTIONS_FILE), report / CHAMPION_FILE)
            return
    bundle = open_artifact(step.store, ModelBundle, digest)
    if bundle.manifest.labels != reference.labels:
        step.progress.note("the champion knows other labels than this dataset: they cannot be compared.")
        return
    write_predictions(report / CHAMPION_FILE, _run_bundle(step, reference, digest), labels, names)


def _run_bundle(step: Step, reference: UtteranceSet, digest: str) -> list[DialoguePrediction]:
    from components.core.artifact_io import artifact_key
    from components.core.inference import load_bundle
    from components.core.utterances import UtteranceReader

    model = load_bundle(step.store.location(artifact_key(ModelBundle.__name__, digest)))
    reader = UtteranceReader(reference, ("test",))
    answers: list[DialoguePrediction] = []
    for dialogue in reader.dialogues("test"):
        answers += model.predict([dialogue])
        step.progress("running the champion on this test split", len(answers), reference.dialogues["test"])
    return answers
