"""What large bundles need of their pods, from the sizes in their manifests, and deployments that cannot hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.identities import EncoderDescription
from mistere.artifacts.io import artifact_key
from mistere.artifacts.manifest import FileEntry
from mistere.artifacts.manifests import BaseEncoder, ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.quantities import GIB, quantity
from mistere.model.encoders.lookup.checkpoint_size import WeightSize
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.bundle_needs import BundleNeeds, amounts_for, bundle_needs, check_room
from mistere.serving.kserve.cluster_release import on_cluster
from mistere.serving.kserve.inference_service import inference_service
from pipelines.bundle_estimate import check_planned_room, hidden_options, planned_sizes
from pipelines.cli.commands.doctor import doctor
from pipelines.cli.commands.submit import submit
from pipelines.cli.doctor.groups import encoders
from pipelines.cli.doctor.plan import make_plan
from pipelines.cli.doctor.result import run_group
from pipelines.profiles import load_profile

LARGE = 30 * 10**9
HEADER = 1000
"""Bytes of a header of safetensors."""
DIGEST = "d" * 64
IMAGE = "registry.example/predictor"
SMALL = BundleNeeds(files=200 * 2**20, weights=(100 * 2**20, 80 * 2**20))
PAPER = BundleNeeds(files=32_100_000_000, weights=(33_600_000_000, 30_500_000_000))
"""Qwen2-Audio-7B (8.4 billion weights) and Qwen2.5-7B (7.6), stored in 16 bits."""
GPU = BundleNeeds(files=2_700_000_000, weights=(1_270_000_000, 1_420_000_000))
"""WavLM-large and RoBERTa-large, in 32 bits."""


def sparse(path: Path, size: int) -> None:
    """A safetensors file of a size, in 16 bits, that takes no room."""
    data = size - 8 - HEADER
    header = {"weight": {"dtype": "BF16", "shape": [data // 2], "data_offsets": [0, data]}}
    with path.open("wb") as file:
        file.write(HEADER.to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER))
        file.truncate(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stand-in for a model of 30 GB in 16 bits."""
    folder = tmp_path / "large"
    folder.mkdir()
    sparse(folder / "model.safetensors", LARGE)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "text_config": {"dtype": "bfloat16"}}))
    return folder


def large_bundle(tmp_path: Path, folder: Path) -> tuple[LocalStore, ModelBundle]:
    """A store with the base model of the folder, and a bundle that refers to it."""
    store = LocalStore(tmp_path / "store")
    files = {file.name: FileEntry(sha256="0" * 64, size=file.stat().st_size) for file in folder.iterdir()}
    base = BaseEncoder(family="decoder_text", source="path:large", files=files)
    base = base.model_copy(update={"digest": base.content_digest()})
    key = artifact_key("BaseEncoder", base.digest)
    store.local_path(key).parent.mkdir(parents=True)
    folder.rename(store.local_path(key))
    store.write(f"{key}/manifest.json", base.model_dump_json().encode())
    bundle = ModelBundle(
        name="large",
        labels=["joy", "anger"],
        experts=["text"],
        encoders={"text": EncoderDescription(family="decoder_text", base_digest=base.digest)},
        temperature=1.0,
        test_digest="",
        metrics={},
        dvc_digest="",
        files={"mixture.safetensors": FileEntry(sha256="0" * 64, size=10**6)},
    )
    return store, bundle


def service(config: DeploymentConfig, needs: BundleNeeds) -> dict[str, Any]:
    config = config.with_amounts(amounts_for(config, needs))
    manifest = inference_service(f"s3://models/artifacts/ModelBundle/{DIGEST}", DIGEST, config, IMAGE)
    predictor: dict[str, Any] = manifest["spec"]["predictor"]
    return predictor


def test_the_pods_of_a_bundle_of_30_gb_have_room_memory_and_time_for_it(tmp_path: Path, folder: Path) -> None:
    store, bundle = large_bundle(tmp_path, folder)
    needs = bundle_needs(store, bundle)
    assert needs.files - LARGE < 2 * 10**6 and needs.weights == (10**6, 2 * LARGE), "16 bits are 32 in memory"
    config = DeploymentConfig(mode="standard")
    predictor = service(config, needs)
    container = predictor["containers"][0]
    assert quantity(predictor["volumes"][0]["emptyDir"]["sizeLimit"]) > 1.04 * LARGE
    assert quantity(container["resources"]["requests"]["memory"]) > 2 * LARGE
    assert quantity(container["resources"]["limits"]["memory"]) >= quantity(
        container["resources"]["requests"]["memory"]
    )
    probe = container["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] > LARGE / (40 * 2**20)
    half = service(
        config.model_copy(update={"predictor": config.predictor.model_copy(update={"dtype": "bfloat16"})}), needs
    )
    assert quantity(half["containers"][0]["resources"]["requests"]["memory"]) < 1.4 * LARGE
    pointer = Deployment(service="mistere", bundle_location="s3://b/x", bundle_digest=DIGEST, model_version="1")
    recorded = on_cluster(pointer, config, IMAGE, needs)
    assert recorded.settings["cache"] == "auto", "the next bundle has its own size"
    assert quantity(recorded.amounts["cache"]) > LARGE and recorded.amounts["ready_timeout"] > 700


def test_each_encoder_holds_its_base_in_memory_and_the_cache_holds_it_once(tmp_path: Path, folder: Path) -> None:
    store, bundle = large_bundle(tmp_path, folder)
    twice = bundle.model_copy(update={"encoders": {**bundle.encoders, "notes": bundle.encoders["text"]}})
    one, two = bundle_needs(store, bundle), bundle_needs(store, twice)
    assert two.files == one.files and two.weights == (*one.weights, 2 * LARGE)


def test_a_gpu_that_the_predictor_does_not_use_saves_no_memory() -> None:
    def memory(**settings: Any) -> float:
        return PAPER.memory(DeploymentConfig.model_validate({"mode": "standard", **settings}))

    assert memory(gpus=1, predictor={"device": "cpu"}) == memory() > 1.5 * memory(gpus=1)
    assert memory(gpus=1, predictor={"device": "cpu", "dtype": "auto"}) == memory(predictor={"dtype": "auto"})


def test_small_bundles_get_the_smallest_amounts() -> None:
    config = DeploymentConfig(mode="standard")
    assert amounts_for(config, SMALL) == {"cache": "8Gi", "memory": "2Gi", "memory_limit": "4Gi"}
    assert service(config, SMALL) == service(
        DeploymentConfig(mode="standard", cache="8Gi", memory="2Gi", memory_limit="4Gi"), SMALL
    )


def test_given_amounts_stay_and_fit_each_other() -> None:
    amounts = amounts_for(DeploymentConfig(memory="20Gi", cache="9Gi"), SMALL)
    assert amounts == {"memory_limit": "20Gi"}
    assert amounts_for(DeploymentConfig(memory_limit="1800Mi"), SMALL)["memory"] == "1800Mi"
    assert "ready_timeout" not in amounts_for(DeploymentConfig(ready_timeout=5000), PAPER)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"cache": "8Gi"},
            r"deployment\.cache=8Gi is too small: the files of the bundle take 29\.9 GiB; .* at least 33Gi",
        ),
        (
            {"memory_limit": "16Gi"},
            r"deployment\.memory_limit=16Gi is too small: the bundle needs 70\.\d GiB; .* at least 71Gi",
        ),
        ({"memory_limit": "8Gi", "gpus": 1}, r"memory_limit=8Gi is too small: the bundle needs 39\.\d GiB"),
    ],
)
def test_amounts_that_cannot_hold_a_bundle_are_refused_with_both_numbers(
    settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        amounts_for(DeploymentConfig.model_validate({"mode": "standard", **settings}), PAPER)


def test_each_stream_adds_its_audio_to_the_memory() -> None:
    def memory(streams: int) -> float:
        return SMALL.memory(DeploymentConfig.model_validate({"predictor": {"max_streams": streams}}))

    assert memory(10) - memory(0) == 10 * 3 * 8 * 2**20


def test_a_claim_holds_the_cache_of_all_pods() -> None:
    predictor = service(DeploymentConfig(mode="standard", cache_claim="models", cache="1Gi"), PAPER)
    assert predictor["volumes"][0] == {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}


@pytest.mark.parametrize(("profile", "needs"), [("paper", PAPER), ("gpu", GPU), ("sample", SMALL), ("tiny", SMALL)])
def test_each_profile_holds_its_own_models(profile: str, needs: BundleNeeds) -> None:
    config = load_profile(profile).deployment
    check_room(config, needs)
    assert config.ready_timeout >= needs.seconds()


def test_doctor_and_submit_refuse_a_deployment_that_cannot_hold_its_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"text.source=path:{folder}", "deployment.mode=standard", "deployment.memory_limit=16Gi"]
    expected = r"deployment.memory_limit=16Gi is too small: a bundle with speech and text encoders needs 65.7 GiB"
    with pytest.raises(UsageError, match=expected) as error:
        submit("tiny", None, settings)
    assert error.value.exit_code == ExitCode.USAGE
    plan = make_plan("tiny", settings, None, "s3://models/store", None)
    group = encoders.group(plan)
    room = type(group)(group.name, [check for check in group.checks if check.name == "room"])
    monkeypatch.setattr("pipelines.cli.commands.doctor.run_checks", lambda _: iter([(room.name, run_group(room))]))
    assert doctor("tiny", settings, None, "s3://models/store", None) == ExitCode.USAGE
    assert "16Gi is too small" in capsys.readouterr().out


def test_doctor_looks_for_a_node_that_holds_the_model_of_the_run(folder: Path) -> None:
    def memory(*settings: str) -> float:
        plan = make_plan("tiny", ["deployment.mode=standard", *settings], None, "s3://models/store", None)
        (pods,) = plan.predictors()
        return float(quantity(pods.pod.memory))

    automatic = ["deployment.memory=auto", "deployment.memory_limit=auto", "deployment.cache=auto"]
    large = [f"text.source=path:{folder}", *automatic]
    assert memory(*automatic) == 2 * GIB < 2 * LARGE < memory(*large) < 2.5 * LARGE
    assert memory(*large, "deployment.memory=3Gi") == 3 * GIB
    assert memory(*large, "deployment.memory_limit=16Gi") == 2 * GIB, "the check of the room names this"


def test_sizes_that_are_not_known_here_are_left_to_the_deployment(folder: Path) -> None:
    config = load_profile(
        "tiny", [f"text.source=path:{folder}", "speech.source=s3://models/wavlm", "deployment.memory_limit=auto"]
    )
    weights = LARGE - 8 - HEADER
    assert planned_sizes(config) == {"speech": None, "text": WeightSize(stored=weights, float32=2 * weights)}
    assert (
        check_planned_room(config) == "the models of text (27.9 GiB) fit; that of speech is known when it is deployed."
    )
    assert round(LARGE / GIB, 1) == 27.9


def test_options_that_only_the_pod_knows_are_named() -> None:
    cluster = "deployment.mode=standard"
    known = ["deployment.env={MISTERE_PREDICTOR_DTYPE: bfloat16, LEVEL: {secret: s, key: k}}", cluster]
    assert hidden_options(load_profile("tiny", known).deployment) == ""
    one = "deployment.env.MISTERE_PREDICTOR_DTYPE={config_map: options, key: dtype}"
    assert hidden_options(load_profile("tiny", [one, "deployment.mode=local"]).deployment) == ""
    sentence = hidden_options(load_profile("tiny", [one, cluster]).deployment)
    assert sentence.startswith(
        "deployment.env takes MISTERE_PREDICTOR_DTYPE from a secret or ConfigMap, so only the pod knows it: "
    )
    two = "deployment.env.MISTERE_PREDICTOR_MAX_UTTERANCES={secret: options, key: batch}"
    many = hidden_options(load_profile("tiny", [one, two, cluster]).deployment)
    assert "MISTERE_PREDICTOR_DTYPE, MISTERE_PREDICTOR_MAX_UTTERANCES from" in many and "knows them" in many

    plan = make_plan("tiny", [one, cluster], None, "s3://models/store", None)
    (room,) = [check.run() for check in encoders.group(plan).checks if check.name == "room"]
    assert room.status == "note" and room.sentence.endswith(sentence)
