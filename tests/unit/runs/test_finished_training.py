"""What ``mistere register`` reads of a training's folder, and what it refuses."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.evaluate_model.vectors import evaluate_vectors
from components.gate_model.config import GateConfig
from components.gate_model.run import decide
from components.register_model.model_card import TrainingData
from components.register_model.vectors_bundle import assemble_vectors
from mistere.artifacts.identities import EncoderIdentity
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifests import EvaluationReport, ModelBundle, MoEModel, UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.model.mixture.prediction import save_mixture
from mistere.registry.release.champion import NO_CHAMPION, Champion, ChampionPointer, move_champion, read_champion
from mistere.serving.example_dialogue import read_example
from mistere.serving.vectors import VectorDialogue
from pipelines.cli.experiments.finished_training import FinishedTraining
from pipelines.cli.experiments.source import EmbeddingSource, inspect_source
from tests.serving.conftest import tiny_mixture
from tests.unit.artifacts.embeddings_folder import LABELS, write_embeddings

EVALUATION = EvaluationConfig(resamples=100, runtime=False)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("made elsewhere") / "vectors", ("text", "face"))


@pytest.fixture(scope="module")
def source(vectors: Path) -> EmbeddingSource:
    return inspect_source(vectors)


@pytest.fixture
def training(vectors: Path, source: EmbeddingSource, tmp_path: Path) -> Path:
    """A folder as ``mistere train`` writes it."""
    folder = tmp_path / "training"
    (folder / "model").mkdir(parents=True)
    save_mixture(tiny_mixture({"text": 8, "face": 8}, len(LABELS)), folder / "model")
    description = {"labels": LABELS, "experts": [], "temperature": 1.1, "seed": 0, "dev.weighted_f1": 0.5}
    (folder / "model" / "model.json").write_text(json.dumps(description))
    record = {
        "embeddings": source.data.fingerprint(),
        "settings": {"modalities": []},
        "seeds": 1,
        "evaluation": EVALUATION.model_dump(mode="json"),
        "origin": {"source": str(vectors), "profile": "tiny", "commit": "c" * 40, "dirty": True, "uncommitted": "a.py"},
    }
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def change(training: Path, **changes: Any) -> None:
    file = training / "training.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_training_knows_its_embeddings_and_its_code(training: Path, source: EmbeddingSource) -> None:
    opened = FinishedTraining.open(training)
    assert opened.origin.code_state == "uncommitted: a.py"
    assert opened.source(None).data.fingerprint() == source.data.fingerprint()
    change(training, origin={})
    earlier = FinishedTraining.open(training)
    assert earlier.origin.code_state == "unknown"
    with pytest.raises(UsageError, match="does not say where its embeddings are: name their folder with --embeddings"):
        earlier.source(None)


def test_other_or_moved_embeddings_are_refused(training: Path, tmp_path: Path) -> None:
    other = write_embeddings(tmp_path / "other", ("text", "face"), dialogues=20)
    with pytest.raises(UsageError, match="these are not the embeddings that the model in"):
        FinishedTraining.open(training).source(other)
    change(training, origin={"source": str(tmp_path / "gone")})
    with pytest.raises(UsageError, match="not there any more: name their folder with --embeddings"):
        FinishedTraining.open(training).source(None)


def test_a_folder_without_a_finished_training_is_refused(training: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished training: name an output folder of `mistere train`"):
        FinishedTraining.open(tmp_path)
    (training / "model" / "mixture.json").unlink()
    with pytest.raises(UsageError, match=r"mixture\.json is missing: run `mistere train` again"):
        FinishedTraining.open(training)
    (training / "training.json").write_text("{")
    with pytest.raises(UsageError, match=r"training\.json is missing or damaged"):
        FinishedTraining.open(training)


def test_a_folder_of_vectors_may_name_its_encoders(vectors: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vectors, tmp_path / "named")
    (folder / "encoders.json").write_text('{"text": "my-encoder"}')
    named = inspect_source(folder)
    assert {name: one.digest for name, one in named.encoders.items()} == {"face": "", "text": "my-encoder"}
    assert {one.test_digest for one in named.encoders.values()} == {
        one.test_digest for one in inspect_source(vectors).encoders.values()
    }
    for wrong in ("{", "[]", '{"gaze": "a"}', '{"text": "a,b"}', '{"text": 3}'):
        (folder / "encoders.json").write_text(wrong)
        with pytest.raises(UsageError, match=r"encoders\.json .*: write an object such as"):
            inspect_source(folder)


def model_in(store: LocalStore, source: EmbeddingSource, work: Path, digest: str = "") -> ArtifactHandle[MoEModel]:
    work.mkdir()
    mixture = tiny_mixture({"text": 8, "face": 8}, len(LABELS))
    save_mixture(mixture, work)
    test = source.encoders["text"].test_digest
    manifest = MoEModel(
        labels=LABELS,
        dimensions=mixture.dimensions,
        experts=mixture.experts,
        parameters=1,
        temperature=1.0,
        encoders={name: EncoderIdentity(digest=digest, test_digest=test) for name in mixture.dimensions},
    )
    return open_artifact(store, MoEModel, publish(store, manifest, work).digest)


def evaluated(
    store: LocalStore, model: ArtifactHandle[MoEModel], source: EmbeddingSource, folder: Path, champion: str
) -> EvaluationReport:
    folder.mkdir()
    data = source.data.only(list(model.manifest.dimensions))
    return evaluate_vectors(EVALUATION, store, Progress("test"), model, data, folder, champion)


def outcomes(report: EvaluationReport, champion: str, **thresholds: Any) -> dict[str, str]:
    verdict = decide(GateConfig(**thresholds), report, None, champion, "committed", takes_vectors=True)
    return {rule.rule: rule.outcome for rule in verdict.rules}


def test_a_champion_is_compared_on_the_same_test_split_only(source: EmbeddingSource, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    model = model_in(store, source, tmp_path / "model")
    first = evaluated(store, model, source, tmp_path / "first", NO_CHAMPION)
    assert first.champion is None and first.metrics["test.missing.face.50.weighted_f1"] >= 0
    example = read_example(tmp_path / "first")
    assert example is not None and isinstance(example.dialogue, VectorDialogue)
    assert np.allclose(example.expected.sum(1), 1)

    report = publish(store, first, tmp_path / "first")
    work = tmp_path / "bundle"
    work.mkdir()
    shutil.copyfile(model.file("mixture.json"), work / "mixture.json")
    bundle = publish(
        store,
        ModelBundle(
            name="mistere", labels=LABELS, experts=first.experts, encoders={}, vectors=model.manifest.encoders,
            temperature=1.0, test_digest=first.test_digest, metrics={}, dvc_digest="",
        ),
        work,
    )  # fmt: skip
    champion = Champion(
        bundle_digest=bundle.digest, evaluation_digest=report.digest, model_name="mistere", model_version="1",
        run_id="train-1", moved_at=1.0,
    )  # fmt: skip
    move_champion(store, ChampionPointer(None, read_champion(store).version), champion)
    same = evaluated(store, model, source, tmp_path / "same", bundle.digest)
    assert same.champion is not None and not same.champion.incomparable
    assert same.metrics["champion.difference.weighted_f1"] == 0
    assert outcomes(same, bundle.digest)["champion_comparison"] != "off"

    moved = {name: one.model_copy(update={"test_digest": "other"}) for name, one in model.manifest.encoders.items()}
    other = ArtifactHandle(model.path, model.manifest.model_copy(update={"encoders": moved}))
    apart = evaluated(store, other, source, tmp_path / "apart", bundle.digest)
    assert apart.champion is not None and "another test split" in apart.champion.incomparable
    assert outcomes(apart, bundle.digest)["champion_comparison"] == "hold"


def test_a_rule_that_needs_what_vectors_lack_never_passes(source: EmbeddingSource, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    report = evaluated(store, model_in(store, source, tmp_path / "model"), source, tmp_path / "report", NO_CHAMPION)
    assert outcomes(report, NO_CHAMPION)["data_verdict"] == "hold"
    assert outcomes(report, NO_CHAMPION, unvalidated_data="pass")["data_verdict"] == "promote"
    report = report.model_copy(update={"experts": ["speech", "text", "cross_modal"]})  # modalities that a run degrades
    assert outcomes(report, NO_CHAMPION, max_robustness_loss=0.05)["robustness"] == "reject"
    assert outcomes(report, NO_CHAMPION, max_dialogue_ms=500)["latency"] == "reject"


@pytest.mark.parametrize("known", [True, False])
def test_the_bundle_of_vectors_says_what_is_known_of_its_data(
    known: bool, source: EmbeddingSource, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    model = model_in(store, source, tmp_path / "model", digest="e" * 64 if known else "")
    files = tmp_path / "report"
    report = evaluated(store, model, source, files, NO_CHAMPION)
    work = tmp_path / "bundle"
    work.mkdir()
    data = TrainingData(
        "calls", "d" * 32, language="en", licence="mit", predict_roles=["customer"], speaker_disjoint=True
    )
    data = data if known else TrainingData("calls", embeddings="f" * 40)
    bundle = assemble_vectors("mistere", model, ArtifactHandle(files, report), data, None, work)
    card = (work / "README.md").read_text()
    assert bundle.vectors == model.manifest.encoders and not bundle.encoders
    assert ("role customer" in card) == ("language: en" in card) == ("license: mit" in card) == known
    assert ("not recorded" in card) == ("Language not stated; licence not stated." in card) == (not known)
    assert "`face_embedding` | 8 |" in card and (work / "MLmodel").is_file() and (work / "example").is_dir()


def test_the_card_of_a_dataset_has_every_fact_that_its_template_names() -> None:
    template = (Path(inspect.getfile(TrainingData)).parent / "model_card.md").read_text()
    facts = {one.name for one in fields(TrainingData)}
    assert set(re.findall(r"\bdata\.(\w+)", template)) <= facts
    assert facts - {"embeddings"} <= set(UtteranceSet.model_fields)
