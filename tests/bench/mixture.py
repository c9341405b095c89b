"""The mixture over several seeds on the embeddings of a finished run, beside each expert alone and late fusion.

usage: mistere bench mixture [OUTPUT] [SEEDS]      (default: output 5)

Test weighted F1, mean ± standard deviation over the seeds, with the mean gain over the better single-modality expert.
Dev chooses each epoch; test is read once a seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from components.core.artifact_io import open_artifact
from components.core.embeddings import EmbeddedDialogues
from components.core.manifests import EmbeddingSet
from components.core.metrics import confusion, weighted_f1
from components.core.moe.prediction import predict
from components.core.moe.training import train_mixture
from components.core.progress import Progress
from components.core.store import LocalStore
from pipelines.profiles import load_profile


class _Silent(Progress):
    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        pass


def latest_embeddings(store: LocalStore) -> EmbeddedDialogues:
    """The embeddings of the newest run that has both modalities' records."""
    for run in sorted(store.local_path("runs").iterdir(), reverse=True):
        records = [run / "stages" / f"extract_embeddings-{modality}.json" for modality in ("speech", "text")]
        if all(record.is_file() for record in records):
            digests = [json.loads(record.read_text())["outputs"].get("embeddings") for record in records]
            if all(digests):
                return EmbeddedDialogues.open([open_artifact(store, EmbeddingSet, digest) for digest in digests])
    raise SystemExit(f"no finished run in {store.uri}: mistere run first")


def main() -> None:
    """Train, measure, print."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "output")
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    settings = sys.argv[3:]
    data = latest_embeddings(LocalStore(output / "store"))
    config = load_profile("sample", settings).mixture
    scores: dict[str, list[float]] = {}
    test = data.split("test")
    true = np.concatenate([dialogue.labels for dialogue in test])
    inputs = [data.read(dialogue) for dialogue in test]

    def score(probabilities: np.ndarray) -> float:
        return float(weighted_f1(confusion(true, probabilities.argmax(1), len(data.labels))))

    for seed in range(seeds):
        trained = train_mixture(config.model_copy(update={"seed": seed}), data, progress=_Silent("bench"))
        answers = predict(trained.model, inputs, trained.temperature)
        experts = np.concatenate([answer.expert_probabilities for answer in answers])
        scores.setdefault("mixture", []).append(score(np.concatenate([answer.probabilities for answer in answers])))
        for index, name in enumerate(trained.model.experts):
            scores.setdefault(f"{name} alone", []).append(score(experts[:, index]))
        late = experts[:, : len(data.dimensions)].mean(1)
        scores.setdefault("late fusion", []).append(score(late))
    for name, values in scores.items():
        print(
            f"{name:<18} {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}   {' '.join(f'{v:.3f}' for v in values)}"
        )
    single = np.max([scores[f"{name} alone"] for name in data.dimensions], axis=0)
    print(
        f"gain over the better single-modality expert: {100 * (np.array(scores['mixture']) - single).mean():.1f} points"
    )


if __name__ == "__main__":
    main()
