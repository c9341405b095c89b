"""``mistere robustness``: the model's own answers under each effect, the same bytes from the same seed, and bad input in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import DataError, MistereError, UsageError
from mistere.data.calls.catalogue import LEVELS, effects_named
from mistere.data.calls.effect import Surroundings
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset
from mistere.evaluation.call_report import CallReport, Figure
from mistere.evaluation.calls import CallMeasurement, CallSettings
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.dialogue_model import EmotionModel
from mistere.model.inference import load_bundle
from mistere.reports.calls.summary import comparison, model_name
from pipelines.cli.commands import robustness as command
from pipelines.cli.commands.robustness import Request, _verdict, folder_name, robustness
from pipelines.cli.commands.score import ChosenModel
from tests.serving.conftest import LABELS, clip, make_bundle, make_vectors_bundle
from tests.serving.test_scoring import WORDS

EFFECTS = ("clipping", "word_errors", "missing_turns")


def dialogues(count: int = 5, *, text: bool = True, **changes: Any) -> list[list[Utterance]]:
    """Dialogues of three to five turns, the second turn of each without a label."""
    return [
        [
            replace(
                Utterance(
                    dialogue_id=f"call-{number}",
                    turn=turn,
                    label=LABELS[(number + turn) % 4] if turn != 1 else None,
                    text=" ".join(WORDS[(number * 7 + turn + k) % len(WORDS)] for k in range(6)) if text else None,
                    audio=clip(0.6 + 0.2 * turn, pitch=150 + 31 * number + 7 * turn),
                    role="customer" if turn != 1 else "agent",
                ),
                **changes,
            )
            for turn in range(3 + number % 3)
        ]
        for number in range(count)
    ]


def dataset(folder: Path, conversations: list[list[Utterance]], **changes: Any) -> Path:
    values: dict[str, Any] = {
        "name": "calls", "labels": LABELS, "language": "en", "licence": "CC0-1.0", "splits": "By hand.",
        "speaker_disjoint": True, "description": "", "predict_roles": ["customer"],
    }  # fmt: skip
    rows = (("test", replace(one, label=one.label or LABELS[0])) for dialogue in conversations for one in dialogue)
    write_dataset(folder, DatasetInfo(**{**values, **changes}), rows)  # type: ignore[arg-type]
    return folder


def run(data: Path, to: Path, model: str | None, beside: str | None = "none", **changes: Any) -> CallReport:
    request = Request(str(data), effects=EFFECTS, resamples=200)
    code = robustness(replace(request, **changes), model, beside, to.parent, to)
    assert code == 0
    return CallReport.model_validate_json((to / "robustness.json").read_text())


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("text"), ("text",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("calls") / "data", dialogues())


@pytest.mark.long
def test_figures_are_those_of_the_models_answers(bundle: str, text_bundle: str, data: Path, tmp_path: Path) -> None:
    report = run(data, tmp_path / "out", bundle, text_bundle)
    assert report.turns == 14 and report.dialogues == 5 and report.beside is not None
    model, around = load_bundle(bundle), Surroundings.of(one for dialogue in dialogues() for one in dialogue)
    for name in ("clean", "clipping_20", "word_errors_30", "missing_turns_50"):
        changed = [dialogue if name == "clean" else LEVELS[name].apply(dialogue, around, 0) for dialogue in dialogues()]
        answers = [model.predict([dialogue])[0].probabilities.argmax(1) for dialogue in changed]
        pairs = [
            (LABELS.index(one.label), answer)
            for dialogue, row in zip(changed, answers, strict=True)
            for one, answer in zip(dialogue, row, strict=True)
            if one.label
        ]
        true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
        level = next(one for one in [report.clean, *report.levels()] if one.name == name)
        assert level.turns == len(true)
        assert level.model.weighted_f1.value == pytest.approx(weighted_f1(confusion(true, predicted, 4)), abs=1e-6)
        assert level.model.weighted_f1.low <= level.model.weighted_f1.value <= level.model.weighted_f1.high
    by_name = {level.name: level for level in report.levels()}
    assert by_name["clipping_5"].beside is None and by_name["clipping_5"].difference is None, "it does not hear"
    assert "3 levels cannot be compared, because bundle" in comparison(
        list(report.levels()), model_name(report, beside=True)
    )
    words = by_name["word_errors_20"]
    assert words.beside is not None and words.difference is not None
    assert words.difference.value == pytest.approx(
        words.model.weighted_f1.value - words.beside.weighted_f1.value, abs=2e-6
    )
    again = run(data, tmp_path / "again", bundle, text_bundle)
    assert (
        again == report
        and (tmp_path / "again" / "robustness.html").read_bytes() == (tmp_path / "out" / "robustness.html").read_bytes()
    )
    page = (tmp_path / "out" / "robustness.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == 6 and "Clipping" in page and "with its interval" in page


@pytest.mark.long
def test_a_model_of_one_modality_has_the_effects_that_it_notices(text_bundle: str, data: Path, tmp_path: Path) -> None:
    report = run(data, tmp_path / "out", text_bundle, dialogues=2)
    assert [effect.name for effect in report.effects] == ["word_errors", "missing_turns"] and report.dialogues == 2
    assert (
        report.without_beside == "none was asked for"
        and "none was asked for" in (tmp_path / "out" / "robustness.html").read_text()
    )


@pytest.mark.long
def test_what_happens_to_speech_happens_to_its_transcripts(tmp_path: Path) -> None:
    model = load_bundle(make_bundle(tmp_path / "bundle", ("text",), transcribes=True))
    assert model.transcribes
    silent = dialogues(2, text=False)
    settings = CallSettings(effects_named(["codec"]), resamples=100)
    figures = CallMeasurement(lambda: silent, LABELS, settings).measure(model)
    assert set(figures.levels) == {level.name for level in effects_named(["codec"])[0].levels}
    spoken = CallMeasurement(lambda: dialogues(2), LABELS, settings).measure(model)
    assert not spoken.levels, "every turn has a text, so that nothing is transcribed"
    assert figures.metrics()["test.calls.codec_gsm.weighted_f1"] >= 0


@pytest.mark.long
def test_a_recording_that_does_not_decode_is_missing(bundle: str, tmp_path: Path) -> None:
    conversations = dialogues(2)
    conversations[0][0] = replace(conversations[0][0], audio=b"RIFF no audio")
    assert run(dataset(tmp_path / "data", conversations), tmp_path / "out", bundle).turns == 5


def test_text_context_is_that_of_the_turns_that_are_left(text_bundle: str) -> None:
    model = load_bundle(text_bundle)
    embedder = model.embedders["text"]
    embedder.settings = embedder.settings.model_copy(update={"context_turns": 2})
    measured = CallMeasurement(dialogues, LABELS, CallSettings(effects_named(["missing_turns"]), 100)).measure(model)
    kept = [LEVELS["missing_turns_50"].apply(dialogue, Surroundings(), 0) for dialogue in dialogues()]
    answers = EmotionModel.predict(model, kept)
    pairs = [
        (LABELS.index(one.label), answer.probabilities[index].argmax())
        for dialogue, answer in zip(kept, answers, strict=True)
        for index, one in enumerate(dialogue)
        if one.label
    ]
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    expected = weighted_f1(confusion(true, predicted, 4))
    assert measured.levels["missing_turns_50"].model.weighted_f1.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.long
def test_a_shown_loss_ends_with_exit_code_3(bundle: str, data: Path, tmp_path: Path) -> None:
    report = run(data, tmp_path / "out", bundle, bundle)
    assert all(level.difference == Figure(value=0, low=0, high=0) for level in report.levels())
    assert _verdict(report, 0.0) == 0 and _verdict(report, None) == 0
    effect = report.effects[0]
    worse = effect.levels[0].model_copy(update={"difference": Figure(value=-0.1, low=-0.2, high=-0.03)})
    changed = report.model_copy(update={"effects": [effect.model_copy(update={"levels": [worse]})]})
    assert _verdict(changed, 0.02) == 3 and _verdict(changed, 0.03) == 0


@pytest.mark.long
def test_a_champion_that_does_not_fit_is_no_comparison_that_passes(
    bundle: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = ChosenModel(make_vectors_bundle(tmp_path, {"text": 8}, {}), "3")
    monkeypatch.setattr(command, "choose_model", lambda model, *_: champion if model is None else ChosenModel(model))
    request = Request(str(data), effects=EFFECTS, dialogues=1, resamples=100)
    with pytest.raises(UsageError, match=r"--max-loss .* does not fit, because .* takes vectors .*: name one with"):
        robustness(replace(request, max_loss=0.1), bundle, None, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = run(data, tmp_path / "out", bundle, None, dialogues=1)
    assert report.beside is None and "takes vectors and has no encoders" in report.without_beside


def test_another_request_has_another_folder() -> None:
    def name(beside: ChosenModel | str = "none was asked for", **changes: Any) -> str:
        return folder_name("a" * 64, "b" * 64, replace(Request("data"), **changes), beside)

    assert name() == name(effects=[]) == name(max_loss=0.1) == "aaaaaaaa-bbbbbbbb-test"
    assert name(effects=["babble", "codec"]) == name(effects=("codec", "babble", "codec"))
    others = [{"effects": ["babble"]}, {"dialogues": 3}, {"seed": 1}, {"resamples": 100}, {"split": "dev"}]
    models = [ChosenModel(f"store/artifacts/ModelBundle/{digit * 64}") for digit in "cd"]
    names = [name(), *(name(**one) for one in others), *(name(model) for model in models)]
    assert len(set(names)) == len(names) == 8


@pytest.mark.long
def test_a_page_never_lies_beside_figures_of_another_measurement(
    bundle: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "out", bundle, dialogues=1, effects=("missing_turns",))

    def killed(path: Path, text: str) -> None:
        if path.name == command.JSON_FILE:
            raise KeyboardInterrupt
        path.write_text(text)

    monkeypatch.setattr(command, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", bundle, dialogues=2, effects=("missing_turns",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [command.PAGE_FILE]


def test_bad_input_is_one_sentence(bundle: str, text_bundle: str, data: Path, tmp_path: Path) -> None:
    def refused(kind: type[MistereError], message: str, *, model: str | None = bundle, **changes: Any) -> None:
        beside = changes.pop("beside", "none")
        request = replace(Request(str(data), effects=EFFECTS), **{k: v for k, v in changes.items() if k != "to"})
        with pytest.raises(kind, match=message) as caught:
            robustness(request, model, beside, tmp_path / "output", changes.get("to", tmp_path / "refused"))
        assert "\n" not in str(caught.value) and not (tmp_path / "refused").exists()

    refused(UsageError, "there is no data at nowhere", data="nowhere")
    refused(UsageError, "there is no effect 'bable'; did you mean 'babble'", effects=("bable",))
    refused(UsageError, "there is no split 'tests'; did you mean 'test'", split="tests")
    refused(UsageError, "calls has no dev split: no file dev-", split="dev")
    refused(UsageError, "there is no bundle at", model=str(tmp_path))
    refused(
        UsageError, r"--max-loss compares with another model, and there is none \(none was asked for\)", max_loss=0.1
    )
    refused(UsageError, r"--max-loss .* \(there is no champion\): name one with --beside", max_loss=0.1, beside=None)
    refused(
        UsageError,
        "--max-loss .* the one beside reads nothing that the measured effects change: name another one with --beside",
        max_loss=0.1,
        beside=text_bundle,
        effects=("clipping",),
    )
    vectors = make_vectors_bundle(tmp_path, {"text": 8}, {})
    refused(UsageError, "takes vectors and has no encoders", model=vectors)
    other = dataset(tmp_path / "other", dialogues(2), labels=[*LABELS[::-1]])
    refused(UsageError, r"the labels of the model \(anger, joy.*\) are not those of calls", data=str(other))
    silent = dataset(tmp_path / "silent", dialogues(2, role="agent"))
    refused(DataError, "the test split of calls has no turn with a label", data=str(silent))
    (shard,) = data.glob("*.parquet")
    table = pq.read_table(shard)
    turns = table["turn"].to_pylist()
    position = table.schema.get_field_index("turn")

    def numbered(numbers: list[int | None]) -> pa.Table:
        return table.set_column(position, table.schema.field(position), pa.array(numbers, pa.int32()))

    for name, changed in (
        ("apart", table.take([*range(1, len(table)), 0])),
        ("null", numbered([None, *turns[1:]])),
        ("twice", numbered([turns[1], *turns[1:]])),
        ("wrong", table.set_column(table.schema.get_field_index("label"), "label", [["bored"] * len(table)])),
        ("unlabelled", table.drop_columns(["label"])),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dataset.yaml").write_text((data / "dataset.yaml").read_text())
        pq.write_table(changed, folder / shard.name)
    refused(DataError, "the label 'bored' is not one of anger, joy", data=str(tmp_path / "wrong"))
    refused(DataError, "lacks the column 'label'", data=str(tmp_path / "unlabelled"))
    # Beyond the dialogues that are measured, too: the first one would be incomplete.
    refused(DataError, "the turns of dialogue 'call-0' are apart: write", data=str(tmp_path / "apart"), dialogues=1)
    refused(DataError, "a row has dialogue_id 'call-0' and turn None: write a text, and a", data=str(tmp_path / "null"))
    refused(DataError, "dialogue 'call-0' has turn 1 twice: number", data=str(tmp_path / "twice"))
