"""Which stages run again after a line of code or a row of data changed, in a copy of the tree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.local.workshop import LABELS, ROOT, Run, make_dataset, rows, run

pytestmark = pytest.mark.long
UNCACHED = {"resolve_inputs", "register_model", "deploy_model", "report_run"}
MARK = "\nCHANGED = 1\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for name in ("mistere", "components", "pipelines"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for lock in ROOT.glob("requirements*.lock"):
        shutil.copy(lock, copy)
    return copy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, tree: Path, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("output")
    for _ in range(2):  # from the second run on there is a champion
        assert run(folder, data, root=tree).code == 0
    return folder


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("components/pull_data/run.py", {"pull_data"}),
        ("components/validate_data/run.py", {"validate_data"}),
        ("components/finetune_encoder/run.py", {"finetune_encoder-speech", "finetune_encoder-text"}),
        ("components/embed_shard/run.py", {"embed_shard-speech", "embed_shard-text"}),
        ("components/extract_embeddings/run.py", {"extract_embeddings-speech", "extract_embeddings-text"}),
        ("components/train_moe/run.py", {"train_moe"}),
        ("components/evaluate_model/run.py", {"evaluate_model"}),
        ("components/gate_model/run.py", {"gate_model"}),
        ("components/gate_model/rules/above_majority.py", {"gate_model"}),
        ("components/report_run/run.py", set()),
    ],
)
def test_a_changed_line_reruns_its_stage(file: str, expected: set[str], tree: Path, output: Path, data: Path) -> None:
    path = tree / file
    path.write_text(path.read_text() + MARK)
    rerun: Run = run(output, data, root=tree)
    assert rerun.code == 0, rerun.text
    # Later stages are reused, because the result is the same.
    assert rerun.ran - UNCACHED == expected


def test_a_changed_row_reruns_what_reads_it(tree: Path, output: Path, tmp_path: Path) -> None:
    def relabelled():  # type: ignore[no-untyped-def]
        for split, utterance in rows():
            if utterance.dialogue_id == "train-0" and utterance.turn == 0:
                other_label = LABELS[(LABELS.index(utterance.label) + 1) % 3]
                utterance = type(utterance)(
                    **{**{s: getattr(utterance, s) for s in utterance.__slots__}, "label": other_label}
                )
            yield split, utterance

    rerun = run(output, make_dataset(tmp_path / "tones", relabelled()), root=tree)
    assert rerun.ran >= {"pull_data", "validate_data", "finetune_encoder-speech", "finetune_encoder-text", "train_moe"}
