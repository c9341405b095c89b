"""A bundle as ONNX graphs: exported, served without PyTorch, and read by the example of the guide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistere.artifacts.io import MANIFEST, open_artifact, with_files
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.artifacts.onnx_manifest import GRAPH_INPUTS, OnnxModel
from mistere.artifacts.signing import VERIFYING_KEY_VARIABLE
from mistere.common.errors import ArtifactError, MissingPackageError, UsageError
from mistere.common.processes.child_environment import child_environment
from mistere.config.predictor import PredictorConfig
from mistere.data.dataset import Utterance as DatasetUtterance
from mistere.model.dialogue_model import UtteranceInput
from mistere.model.inference import load_bundle
from mistere.model.onnx.comparison import largest_difference, quality_difference
from mistere.model.onnx.encoders import OUTPUT
from mistere.model.onnx.export import QualityError, export_model
from mistere.model.onnx.loading import load_onnx
from mistere.model.onnx.session import GraphSession
from mistere.model.readable_dialogues import readable
from mistere.predictor.server import _load_verified, check_onnx_options
from pipelines.cli.commands.export import deciding_margin, examples
from pipelines.cli.commands.export import export as export_command
from tests.local.workshop import mistere
from tests.serving.conftest import LABELS, ROOT, Server, Utterance, clip, launch

EXAMPLE = ROOT / "docs" / "examples" / "onnx_predict.py"


def export(location: str, target: Path, **options: object) -> OnnxModel:
    model = load_bundle(location, device="cpu")
    root, digest = split_bundle_location(location)
    opened = open_artifact(open_store(root), ModelBundle, digest)
    return export_model(model, opened, target, examples(opened.path, model), **options).manifest  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("onnx") / "model"
    export(bundle, target)
    return target


@pytest.fixture(scope="module")
def onnx_server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = launch(
        ["-m", "mistere.predictor"], str(exported), tmp_path_factory.mktemp("log") / "log", "--threads", "1"
    )
    server.client.wait_ready(300)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.mark.long
def test_the_manifest_says_what_a_program_needs(exported: Path, bundle: str) -> None:
    content = json.loads((exported / MANIFEST).read_text())
    assert content["labels"] == LABELS and content["bundle_digest"] == Path(bundle).name
    assert content["difference"] < 1e-4 and content["versions"]["onnxruntime"]
    assert content["encoders"]["speech"]["audio"] == {"sampling_rate": 16000, "min_seconds": 0.5, "max_seconds": 30.0}
    assert content["encoders"]["text"]["text"]["max_tokens"] == 32
    assert set(content["files"]) == {"mixture.onnx", "speech/encoder.onnx", "text/encoder.onnx", "text/tokenizer.json"}


def test_the_server_answers_as_the_bundle_and_never_loads_torch(
    onnx_server: Server, bundle: str, dialogue: list[Utterance]
) -> None:
    (expected,) = load_bundle(bundle).predict([[UtteranceInput(one.text, one.audio) for one in dialogue]])
    for answer in (onnx_server.client.predict_rest(dialogue), onnx_server.client.predict_grpc(dialogue)):
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-3)
        np.testing.assert_allclose(answer.expert_weights, expected.expert_weights, atol=1e-3)
        assert answer.parameters["bundle_digest"] == Path(bundle).name
    long = [Utterance(f"This is turn {turn}.", clip(0.6, pitch=100 + turn)) for turn in range(12)]
    assert len(onnx_server.client.predict_rest(long).probabilities) == 12  # prepared in threads
    maps = Path(f"/proc/{onnx_server.process.pid}/maps").read_text()
    assert "onnxruntime" in maps and "libtorch" not in maps


def test_the_example_of_the_guide_needs_no_torch(exported: Path, bundle: str, tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    wrong = subprocess.run(
        [sys.executable, str(EXAMPLE), "nowhere", "none"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1 and wrong.stderr.startswith("usage: ") and wrong.stderr.count("\n") == 1
    with wave.open(str(tmp_path / "0.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((3000 * np.sin(np.arange(16000) / 20)).astype("<i2").tobytes())
    turns = [{"text": "Where have you been?", "audio": "0.wav"}, {"text": "At home, why? " * 20}, {}]
    (tmp_path / "dialogue.json").write_text(json.dumps(turns))
    without = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['transformers'] = None; runpy.run_path(sys.argv.pop(1))"
    )
    command = [sys.executable, "-c", without, str(EXAMPLE), str(exported), str(tmp_path / "dialogue.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    audio = (tmp_path / "0.wav").read_bytes()
    inputs = [UtteranceInput(turn.get("text"), audio if "audio" in turn else None) for turn in turns]
    (expected,) = load_bundle(bundle).predict([inputs])
    for line, row in zip(done.stdout.splitlines(), expected.probabilities, strict=True):
        assert line.startswith(LABELS[row.argmax()]) and abs(float(line.split()[1]) - row.max()) < 2e-3


@pytest.mark.long
def test_the_python_api_opens_an_export_without_torch(exported: Path, bundle: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; import mistere; "
        "answer = mistere.load(sys.argv[1]).predict(['Where have you been?', 'At home, why?']); "
        "print(answer.parameters['bundle_digest'], *(f'{value:.6f}' for value in answer.probabilities.ravel()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)],
        env=child_environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    digest, *values = done.stdout.split()
    (expected,) = load_bundle(bundle).predict(
        [[UtteranceInput("Where have you been?"), UtteranceInput("At home, why?")]]
    )
    assert digest == bundle.rpartition("/")[2]
    np.testing.assert_allclose([float(value) for value in values], expected.probabilities.ravel(), atol=2e-3)


@pytest.mark.long
def test_int8_computes_in_integers_and_is_compared_on_a_dataset(bundle: str, tmp_path: Path) -> None:
    model = load_bundle(bundle)
    texts = [[f"I said {word} {turn}." for turn in range(5)] for word in ("so", "that", "no", "why", "well")]
    answers = model.predict([[UtteranceInput(text) for text in dialogue] for dialogue in texts])
    labelled = [
        [
            DatasetUtterance(f"d{number}", turn, LABELS[row.argmax()], text=text)
            for turn, (text, row) in enumerate(zip(dialogue, answer.probabilities, strict=True))
        ]
        for number, (dialogue, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    manifest = export(bundle, tmp_path / "int8", int8=True, dialogues=lambda: labelled, margin=1.0)
    assert manifest.precision == "int8" and manifest.figures["bundle.weighted_f1"] == 1.0
    written = json.loads((tmp_path / "int8" / MANIFEST).read_text())
    assert 0 < written["difference"] < 1e-4 < written["int8_difference"] < 1, "of the graphs before and after"
    assert manifest.figures["turns"] == 25 and manifest.figures["difference.weighted_f1.low"] <= 0
    for name in ("mixture.onnx", "text/encoder.onnx", "speech/encoder.onnx"):
        assert b"MatMulInteger" in (tmp_path / "int8" / name).read_bytes()
    assert load_onnx(tmp_path / "int8").labels == LABELS
    wrong = [[DatasetUtterance(d.dialogue_id, d.turn, LABELS[0], text=d.text) for d in one] for one in labelled]
    wrong[0][0] = DatasetUtterance("d0", 0, "bored", text="so")
    with pytest.raises(Exception, match="has the label 'bored', which the model lacks"):
        export(bundle, tmp_path / "no", dialogues=lambda: wrong)
    assert not (tmp_path / "no").exists() and [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_a_recording_that_does_not_decode_is_left_out_of_the_comparison(bundle: str) -> None:
    """The dialogues come as a stream, which is read once."""
    model = load_bundle(bundle)
    said = [
        [
            DatasetUtterance(f"d{number}", turn, LABELS[turn], "so", clip(0.6) if turn else b"RIFF no")
            for turn in range(2)
        ]
        for number in range(2)
    ]
    found = quality_difference(model, model, iter(said), LABELS)
    assert found.turns == 4 and found.difference.value == 0
    assert [one.partition(": ")[0] for one in found.undecodable] == ["dialogue 'd0', turn 0", "dialogue 'd1', turn 0"]
    assert largest_difference(model, model, said) < 1e-5
    turns, left_out = readable(model, said[0])
    assert [turn.audio is None for turn in turns] == [True, False] and len(left_out) == 1
    assert len(model.predict([turns])[0].probabilities) == 2


@pytest.mark.long
def test_too_large_a_loss_writes_nothing(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistere.metrics.classification import Interval
    from mistere.model.onnx import export as module
    from mistere.model.onnx.comparison import QualityDifference

    lost = QualityDifference(Interval(0.8, 0.7, 0.9), Interval(0.75, 0.7, 0.8), Interval(-0.05, -0.08, -0.01), 40)
    monkeypatch.setattr(module, "quality_difference", lambda *_: lost)
    said = [[DatasetUtterance("d", 0, LABELS[0], text="so")]]
    with pytest.raises(QualityError, match=r"-0.050 \(-0.080 to -0.010, 40 turns\) may exceed the margin of 0.020"):
        export(bundle, tmp_path / "model", dialogues=lambda: said)
    assert list(tmp_path.iterdir()) == []
    assert deciding_margin("dev", 0.02) == 0.02 and deciding_margin("test", 0.02) is None
    told = export(bundle, tmp_path / "told", dialogues=lambda: said, margin=None)
    assert told.figures["difference.weighted_f1.low"] == -0.08


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_before_anything_is_written(
    bundle: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPackageError, match=f"an export needs {missing}, which is not installed: pip install"):
        export(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mixture.onnx", "text/tokenizer.json"])
def test_damaged_missing_and_added_files_are_named(exported: Path, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} has SHA-256"):
        load_onnx(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        load_onnx(folder)
    (folder / name).symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="leads out of"):
        load_onnx(folder)
    (folder / name).unlink()
    shutil.copyfile(exported / name, folder / name)
    (folder / "weights.bin").write_bytes(b"1")
    with pytest.raises(ArtifactError, match=r"weights.bin is not in its manifest"):
        load_onnx(folder)


@pytest.mark.long
def test_wrong_uses_are_one_sentence(exported: Path, bundle: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no exported model in"):
        load_onnx(tmp_path)
    for changes, words in (
        ({"int8": True}, "quantised when it is written"),
        ({"device": "cuda"}, "computed on the CPU"),
        ({"traffic_store": "bundle"}, "name one with --traffic-store"),
        ({"sample_share": 0.1}, "name one with --sample-store"),
        ({"request_log_share": 0.1}, "name one with --request-log-store"),
    ):
        with pytest.raises(UsageError, match=words):
            check_onnx_options(PredictorConfig.model_validate(changes))
    both = mistere("serve", bundle, "--onnx", str(exported))
    assert both.returncode == 2 and "name either a bundle or --onnx DIR" in both.stderr
    there = mistere("export", str(tmp_path), "--model", bundle)
    assert there.returncode == 2 and "exists already" in there.stderr


def altered(source: Path, target: Path, alter: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of an exported model whose manifest is changed, with the digests of its files."""
    shutil.copytree(source, target)
    content = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).unlink()
    alter(content)
    model = OnnxModel.model_validate(content)
    (target / MANIFEST).write_text(with_files(model, target).model_dump_json())
    return target


def serve_until_loaded(folder: Path) -> None:
    _load_verified(PredictorConfig(), str(folder))


def test_an_export_is_refused_where_signatures_are_required(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERIFYING_KEY_VARIABLE, "bundle.pub")
    with pytest.raises(ArtifactError, match="is not signed, as no export is, and MISTERE_VERIFYING_KEY requires a sig"):
        serve_until_loaded(exported)
    done = mistere("serve", "--onnx", str(exported))
    assert done.returncode == 1 and "is not signed" in done.stderr and "Traceback" not in done.stderr


def test_a_tokenizer_of_another_name_is_refused_unread(exported: Path, tmp_path: Path) -> None:
    """A tokenizer that lengthens texts is refused, and cannot escape its check under another name."""

    def rename(content: dict[str, Any]) -> None:
        content["encoders"]["text"]["text"]["tokenizer"] = "text/words.json"
        (tmp_path / "model/text/tokenizer.json").rename(tmp_path / "model/text/words.json")

    with pytest.raises(ArtifactError, match=r"the tokenizer of text is not named tokenizer\.json"):
        serve_until_loaded(altered(exported, tmp_path / "model", rename))

    def lengthen(_: dict[str, Any]) -> None:
        file = tmp_path / "long/text/tokenizer.json"
        step = {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 2000}
        file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": step}))

    with pytest.raises(UsageError, match="lengthens a text by more than 1000 times"):
        serve_until_loaded(altered(exported, tmp_path / "long", lengthen))


def test_a_graph_of_another_format_is_refused_unread(exported: Path, tmp_path: Path) -> None:
    """By its name, ONNX Runtime would take a file for its own format, which nothing checks."""

    def rename(content: dict[str, Any]) -> None:
        content["encoders"]["text"]["graph"] = "text/encoder.ort"
        (tmp_path / "model/text/encoder.onnx").rename(tmp_path / "model/text/encoder.ort")

    folder = altered(exported, tmp_path / "model", rename)
    with pytest.raises(ArtifactError, match=r"the graph of text is not named \*\.onnx"):
        serve_until_loaded(folder)
    graph = folder / "text/encoder.ort"
    session = GraphSession(graph, 1, GRAPH_INPUTS["text"], [OUTPUT])
    assert session.run(
        {"input_ids": np.ones((1, 2), np.int64), **dict.fromkeys(("mask", "pooled"), np.ones((1, 2), bool))}
    )


def test_an_export_without_its_mixture_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = altered(exported, tmp_path / "model", lambda _: (tmp_path / "model/mixture.onnx").unlink())
    with pytest.raises(ArtifactError, match=r"is of no usable model: mixture\.onnx is not in it"):
        serve_until_loaded(folder)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda content: content["encoders"]["text"].update(inputs=["input_ids"]), "other inputs than input_ids, mask"),
        (lambda content: content["encoders"]["speech"].update(inputs=[]), "has other inputs than samples"),
        (
            lambda content: content["encoders"]["text"].update(dimension=9) or content["dimensions"].update(text=9),
            "cannot predict an utterance",
        ),
        (lambda content: content["labels"].append("bored"), "it describes another bundle than it names"),
        (
            lambda content: content["labels"].append("bored") or content["bundle"]["labels"].append("bored"),
            "cannot predict an utterance",
        ),
    ],
)
def test_a_hostile_manifest_is_one_sentence(
    exported: Path, alter: Callable[[dict[str, Any]], object], words: str, tmp_path: Path
) -> None:
    folder = altered(exported, tmp_path / "model", alter)
    with pytest.raises(ArtifactError, match=words) as refusal:
        serve_until_loaded(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("where", ["dimension", "pad_id", "dimensions"])
def test_unbounded_numbers_of_a_manifest_are_one_sentence(exported: Path, where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    content = json.loads((folder / MANIFEST).read_text())
    text = content["encoders"]["text"]
    owner, key = {
        "dimension": (text, "dimension"),
        "pad_id": (text["text"], "pad_id"),
        "dimensions": (content["dimensions"], "text"),
    }[where]
    owner[key] = 10**12
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="does not hold a valid manifest") as refusal:
        serve_until_loaded(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.long
def test_a_panic_of_a_library_is_one_sentence(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As PyO3 raises it."""

    def fail(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr("mistere.predictor.warm_up.predict_once", fail)
    with pytest.raises(ArtifactError, match=r"cannot predict an utterance \(index out of bounds\); export"):
        serve_until_loaded(exported)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"int8": True},
            "--int8 changes the model's answers: name a labelled dataset with --data.* or .* with --unchecked",
        ),
        (
            {"int8": True, "unchecked": True, "data": "data/sample"},
            "--unchecked is for --int8 without --data: leave it out",
        ),
        ({"unchecked": True}, "--unchecked is for --int8 without --data: leave it out"),
    ],
)
def test_int8_is_measured_or_its_lack_is_asked_for(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        export_command(tmp_path / "model", "no such bundle", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_unmeasured_model_in_int8_comes_with_a_warning(bundle: str, tmp_path: Path) -> None:
    done = mistere("export", str(tmp_path / "model"), "--model", bundle, "--int8", "--unchecked")
    assert done.returncode == 0, done.stderr
    assert "WARNING: nothing shows that this model in int8 is as good as the bundle" in done.stdout
    assert re.search(r"probabilities in int8 differ by up to \d", done.stdout)


@pytest.mark.long
def test_the_command_exports_and_says_what_it_wrote(bundle: str, tmp_path: Path) -> None:
    done = mistere("export", str(tmp_path / "model"), "--model", bundle)
    assert done.returncode == 0, done.stderr
    assert "MB in float32, from bundle" in done.stdout and "mistere serve --onnx" in done.stdout
