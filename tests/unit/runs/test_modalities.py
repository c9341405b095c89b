"""A profile names the modalities of a run; a profile that names none has speech and text."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import UsageError
from mistere.config.cluster import ClusterConfig, StepSettings
from mistere.config.loader import complete_config, load_config
from mistere.config.modalities import DEFAULT_MODALITIES, modalities_of, name_problem
from mistere.config.stages import split_task, task_title, task_titles
from mistere.engine.modality_template import expand, for_modalities
from mistere.runs.tasks import ordered_tasks
from pipelines.profiles import PIPELINE_CONFIG

FACE = "face: {kind: frames, source: 'random:image', epochs: 3}"
THREE = f"modalities:\n  speech: {{epochs: 2}}\n  text:\n  {FACE}\n"


def load(text: str, tmp_path: Path, *settings: str) -> Any:
    (tmp_path / "own.yaml").write_text(text)
    return load_config(str(tmp_path / "own.yaml"), settings, directory=tmp_path, schema=PIPELINE_CONFIG)


def test_a_profile_without_modalities_has_speech_and_text(tmp_path: Path) -> None:
    config = load("speech: {epochs: 7}", tmp_path)
    assert config.modalities == DEFAULT_MODALITIES and config.encoder("speech").epochs == 7
    assert config == load("modalities: {speech: {epochs: 7}, text: {}}", tmp_path)


def test_each_modality_of_a_profile_has_a_section_with_its_defaults(tmp_path: Path) -> None:
    config = load(THREE, tmp_path, "seed=4", "modalities.face.patience=2", "face.epochs=5")
    assert config.modalities == ("speech", "text", "face")
    assert config.sections[1:6] == ("validation", "speech", "text", "face", "mixture")
    face, speech = config.encoder("face"), config.encoder("speech")
    assert (face.kind, face.epochs, face.patience, face.seed) == ("frames", 5, 2, 4)
    assert (speech.epochs, speech.pooling, speech.seed) == (2, "layer_mix", 4)
    assert config.parameters()["face"]["source"] == "random:image"


def test_a_run_of_one_modality_has_no_other_section(tmp_path: Path) -> None:
    config = load("speech: {epochs: 3}\ntext: {epochs: 4}", tmp_path, "modalities=[text]")
    assert config.encoder("text").epochs == 4
    assert config.modalities == ("text",) and "speech" not in config.parameters()
    assert modalities_of(config.parameters()) == ("text",)


def test_a_setting_replaces_the_modalities_of_a_profile(tmp_path: Path) -> None:
    profile, setting = "speech: {epochs: 3}\ntext: {epochs: 4}", "modalities={text: {}, face: {source: random:image}}"
    config = load(profile, tmp_path, setting)
    assert config.modalities == ("text", "face") and config.encoder("text").epochs == 4
    with pytest.raises(UsageError, match="unknown setting 'speech'"):
        load(profile, tmp_path, setting, "speech.epochs=5")


def test_a_list_chooses_from_the_modalities_of_the_profile(tmp_path: Path) -> None:
    config = load(THREE, tmp_path, "modalities=[face, speech]", "face.patience=2")
    assert config.modalities == ("face", "speech") and "text" not in config.parameters()
    assert (config.encoder("face").epochs, config.encoder("face").patience, config.encoder("speech").epochs) == (
        3,
        2,
        2,
    )
    with pytest.raises(UsageError, match=r"'voice' has no settings: .* or choose from speech, text, face\.$"):
        load(THREE, tmp_path, "modalities=[speech, text, face]", "modalities=[speech, text, face, voice]")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("modalities: [speech, Face]", "'Face' is no name of at most 32 lower-case letters"),
        ("modalities: {label: {source: x}}", "'label' has another meaning here"),
        ("modalities: {face_embedding: {source: x}}", "has another meaning here"),
        ("modalities: {}", "name each modality with its section"),
        ("modalities: speech", "name each modality with its section"),
        ("modalities: [speech, face]", "'face' has no settings: give it a section with its `source`"),
        ("modalities: {face: 3}", "modalities.face: write its settings below it"),
        ("modalities: {face: {}}", "face.source is missing: set it"),
        ("modalities: {text: {}}\nspeech: {epochs: 3}", "unknown setting 'speech': the run's modalities are text"),
        ("modalities: {text: {epoch: 3}}", "did you mean"),
        ("faces: {epochs: 3}", "unknown setting 'faces'"),
    ],
)
def test_an_invalid_modality_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load(text, tmp_path)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_parameters_of_a_run_are_completed_with_the_compiled_modalities(tmp_path: Path) -> None:
    compiled = load(THREE, tmp_path).parameters()
    config = complete_config(compiled, {"face": {"epochs": 9}}, PIPELINE_CONFIG)
    assert config.modalities == ("speech", "text", "face") and config.encoder("face").epochs == 9
    assert config.encoder("face").kind == "frames"


def test_the_parameters_of_a_run_keep_the_order_of_its_modalities(tmp_path: Path) -> None:
    """Kubeflow Pipelines hands the compiled sections over in any order, which must not make another run of a repeated one."""
    compiled = load(THREE, tmp_path).parameters()
    given: dict[str, Any] = {name: {} for name in compiled}
    shuffled = dict(reversed(compiled.items()))
    assert complete_config(shuffled, given, PIPELINE_CONFIG).modalities == ("speech", "text", "face")


def test_tasks_follow_the_modalities() -> None:
    names = ("text", "face")
    assert [task for task in task_titles(names) if task.startswith("finetune")] == [
        "finetune_encoder-text",
        "finetune_encoder-face",
    ]
    assert "face" in task_title("embed_shard-face") and split_task("embed_shard-face") == ("embed_shard", "face")
    assert not task_title("train_moe-face") and not task_title("finetune_encoder") and not task_title("nothing")
    seen = ordered_tasks(["train_moe", "embed_shard-face-2of2", "embed_shard-face-1of2"])
    assert [task for task in seen if "embed" in task][:2] == ["embed_shard-face-1of2", "embed_shard-face-2of2"]
    assert "embed_shard-speech" not in seen


def test_a_student_has_tasks_of_its_own() -> None:
    student = "embed_shard-text-student"
    assert task_title(student) == "turning text into vectors for the student"
    assert split_task(student) == ("embed_shard", "text") and split_task("embed_shard-student")[1] == "student"
    assert not task_title("finetune_encoder-text-student") and student not in task_titles()
    tasks = list(task_titles(["text"], "distillation"))
    assert tasks.index("embed_shard-text") < tasks.index("distill_encoder-text") < tasks.index(student)
    assert tasks.index("extract_embeddings-text-student") == tasks.index("distill_mixture") - 1
    with pytest.raises(ValueError, match="there is no step 'embed_shard-text-student'"):
        ClusterConfig(steps={student: StepSettings(cpu="1")})


def test_a_template_repeats_the_lines_of_a_modality() -> None:
    assert expand("a\nb = MODALITY_vectors['MODALITY']\nMODALITYS\n", ["x", "y"]).splitlines() == [
        "a",
        "b = x_vectors['x']",
        "b = y_vectors['y']",
        "MODALITYS",
    ]

    @for_modalities(lambda function: function)
    def counted(
        first: int,
        MODALITY: int,  # noqa: N803
    ) -> dict[str, int]:
        return {
            "first": first,
            "MODALITY": MODALITY,
        }

    made = counted(["face", "text"])
    assert list(inspect.signature(made).parameters) == ["first", "face", "text"] and "face" in inspect.getsource(made)
    assert json.dumps(made(1, 2, text=3)) == '{"first": 1, "face": 2, "text": 3}'
    assert counted(("face", "text")) is made


def test_names_with_another_meaning_are_refused() -> None:
    assert all(name_problem(name) for name in ("mixture", "run", "cross_modal", "audio", "x" * 33, "1x", "a+b", "", 3))
    assert not any(name_problem(name) for name in (*DEFAULT_MODALITIES, "face", "acoustic_2"))
