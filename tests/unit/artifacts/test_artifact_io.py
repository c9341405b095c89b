"""Artifacts are published completely and verified when opened; each kind of damage is named."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mistere.artifacts import io as artifact_io
from mistere.artifacts.identities import EncoderDescription, EncoderIdentity, RunIdentity
from mistere.artifacts.io import MANIFEST, artifact_key, open_artifact, publish, verify_directory
from mistere.artifacts.manifest import MadeBy, Manifest, canonical_digest
from mistere.artifacts.manifests import (
    BaseEncoder,
    EmbeddingSet,
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    MoEModel,
    RuleResult,
)
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.digests import files as file_digests
from mistere.common.errors import ArtifactError, MistereError


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


def make_files(tmp_path: Path) -> Path:
    folder = tmp_path / f"material-{os.urandom(4).hex()}"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    (folder / "deep" / "config.json").write_text("{}")
    return folder


def publish_encoder(store: ObjectStore, tmp_path: Path) -> str:
    return publish(store, BaseEncoder(family="whisper", source="random:whisper"), make_files(tmp_path)).digest


def use_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"cache-{os.urandom(4).hex()}"))


def change_in_store(store: ObjectStore, digest: str, change: Callable[[Path], None], file: str = "weights.bin") -> None:
    """Change a published file directly in the store."""
    key = f"{artifact_key('BaseEncoder', digest)}/{file}"
    if isinstance(store, LocalStore):
        change(store.local_path(key))
        return
    copy = Path(os.environ["MISTERE_CACHE"]) / "aside"
    store.download(key, copy)
    change(copy)
    if copy.exists():
        store.upload(copy, key)
    else:
        store.delete_object(key)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_open_returns_the_published_files(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish_encoder(store, tmp_path)
    for _ in range(2):
        opened = open_artifact(store, BaseEncoder, digest)
        assert opened.manifest.digest == digest and opened.manifest.family == "whisper"
        assert opened.file("weights.bin").read_bytes() == b"weights" * 1000
        assert opened.file("deep/config.json").read_text() == "{}"
        use_empty_cache(tmp_path, monkeypatch)


def test_artifact_without_files_is_published(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    digest = publish(store, EncoderCheckpoint(modality="speech", absent=True), tmp_path / "nothing").digest
    assert open_artifact(store, EncoderCheckpoint, digest).manifest.absent


def test_digest_depends_on_the_content_only(store: ObjectStore, tmp_path: Path) -> None:
    digest = publish_encoder(store, tmp_path)
    made_by = MadeBy(stage="finetune_encoder", key="k", code="c", run=RunIdentity(commit="1234"), config={"seed": 3})
    other = BaseEncoder(family="whisper", source="elsewhere", made_by=made_by, inputs={"utterances": "0" * 64})
    assert publish(store, other, make_files(tmp_path)).digest == digest
    changed = make_files(tmp_path)
    (changed / "weights.bin").write_bytes(b"other")
    assert publish(store, BaseEncoder(family="whisper", source=""), changed).digest != digest
    renamed = make_files(tmp_path)
    (renamed / "weights.bin").rename(renamed / "weights2.bin")
    assert publish(store, BaseEncoder(family="whisper", source=""), renamed).digest != digest
    assert publish(store, BaseEncoder(family="waveform", source=""), make_files(tmp_path)).digest != digest


@pytest.mark.parametrize(
    ("change", "message_pattern"),
    [
        (flip_a_bit, r"weights\.bin has SHA-256 [0-9a-f]{12}…, its manifest says [0-9a-f]{12}…"),
        (truncate, r"weights\.bin has 6999 bytes, its manifest says 7000"),
        (Path.unlink, r"weights\.bin (is missing|does not exist)"),
    ],
)
def test_damage_error_names_file_expectation_and_fix(
    store: ObjectStore,
    change: Callable[[Path], None],
    message_pattern: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = publish_encoder(store, tmp_path)
    if isinstance(store, LocalStore):
        open_artifact(store, BaseEncoder, digest)
    change_in_store(store, digest, change)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=message_pattern) as caught:
            open_artifact(store, BaseEncoder, digest)
        message = str(caught.value)
        location = store.location(artifact_key("BaseEncoder", digest))
        assert f"; delete {location} and run the pipeline again" in message
        assert digest[:12] in message and message.endswith(".") and "\n" not in message
    publish(store, BaseEncoder(family="whisper", source=""), make_files(tmp_path))
    assert open_artifact(store, BaseEncoder, digest).file("weights.bin").read_bytes() == b"weights" * 1000


def test_damaged_cached_copy_is_downloaded_again(s3_store: S3Store, tmp_path: Path) -> None:
    digest = publish_encoder(s3_store, tmp_path)
    flip_a_bit(open_artifact(s3_store, BaseEncoder, digest).file("weights.bin"))
    assert open_artifact(s3_store, BaseEncoder, digest).file("weights.bin").read_bytes() == b"weights" * 1000


def test_missing_artifact_is_reported(store: ObjectStore) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"BaseEncoder 000000000000 is not in the store \(.*\); .*run the pipeline again to make it\.$",
    ):
        open_artifact(store, BaseEncoder, "0" * 64)


def test_artifact_without_manifest_is_incomplete(store: ObjectStore, tmp_path: Path) -> None:
    digest = publish_encoder(store, tmp_path)
    change_in_store(store, digest, Path.unlink, MANIFEST)
    with pytest.raises(ArtifactError, match=rf"BaseEncoder {digest[:12]} is (incomplete|not in the store)"):
        open_artifact(store, BaseEncoder, digest)


def test_edited_manifest_is_rejected(store: ObjectStore, tmp_path: Path) -> None:
    digest = publish_encoder(store, tmp_path)

    def edit(path: Path) -> None:
        path.write_text(path.read_text().replace('"whisper"', '"waveform"'))

    change_in_store(store, digest, edit, MANIFEST)
    with pytest.raises(ArtifactError, match=rf"{MANIFEST} does not match its own digest {digest[:12]}; delete "):
        open_artifact(store, BaseEncoder, digest)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "BaseEncoder"}', "\xff"])
def test_invalid_manifest_is_rejected(store: ObjectStore, text: str, tmp_path: Path) -> None:
    digest = publish_encoder(store, tmp_path)
    change_in_store(store, digest, lambda path: path.write_bytes(text.encode("latin-1")) and None, MANIFEST)
    with pytest.raises(
        ArtifactError, match=rf"{MANIFEST} (does not hold a|holds no) valid manifest; delete .* run the pipeline again"
    ):
        open_artifact(store, BaseEncoder, digest)


def test_artifact_under_another_digest_is_rejected(store: ObjectStore, tmp_path: Path) -> None:
    digest = publish_encoder(store, tmp_path)
    wrong_key = artifact_key("BaseEncoder", "1" * 64)
    for key in list(store.keys(artifact_key("BaseEncoder", digest))):
        store.write(f"{wrong_key}/{key.split(digest)[1][1:]}", store.read(key)[0])
    with pytest.raises(ArtifactError, match=rf"holds {digest[:12]}, expected 111111111111"):
        open_artifact(store, BaseEncoder, "1" * 64)


def test_artifact_of_another_kind_is_rejected(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = publish_encoder(store, tmp_path)
    with pytest.raises(ArtifactError, match="is a BaseEncoder, not a GateVerdict"):
        verify_directory(store.local_path(artifact_key("BaseEncoder", digest)), GateVerdict)


def test_file_is_hashed_again_only_after_an_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    digest = publish_encoder(store, tmp_path)
    hashed: list[str] = []

    def counting(path: Path, algorithm: str = "sha256") -> str:
        hashed.append(path.name)
        return real(path, algorithm)  # type: ignore[arg-type]

    real = file_digests.digest_of
    monkeypatch.setattr(file_digests, "digest_of", counting)
    for _ in range(3):
        opened = open_artifact(store, BaseEncoder, digest)
    assert sorted(hashed) == ["config.json", "weights.bin"]
    weights = opened.file("weights.bin")
    before = weights.stat()
    weights.touch()
    open_artifact(store, BaseEncoder, digest)
    assert hashed[2:] == ["weights.bin"]
    flip_a_bit(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="SHA-256"):
        open_artifact(store, BaseEncoder, digest)


def test_unusable_digest_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").write_text("x")
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "a file"))
    assert file_digests.digest_once(tmp_path / "a file") == file_digests.digest_of(tmp_path / "a file")
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    file_digests.digest_once(tmp_path / "a file")
    (cached_digest,) = (tmp_path / "cache" / "digests").rglob("*.json")
    cached_digest.write_text("[]")
    assert file_digests.digest_once(tmp_path / "a file") == file_digests.digest_of(tmp_path / "a file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_rejected_by_field(store: ObjectStore, value: float, tmp_path: Path) -> None:
    manifests = {
        "EncoderCheckpoint.metrics.dev.weighted_f1": EncoderCheckpoint(
            modality="text", metrics={"dev.weighted_f1": value}
        ),
        "EncoderCheckpoint.history.1.loss": EncoderCheckpoint(
            modality="text", history=[{"loss": 1.0}, {"loss": value}]
        ),
        "GateVerdict.rules.0.measured": GateVerdict(
            verdict="hold",
            rules=[RuleResult(rule="r", outcome="hold", measured=value, bound=None, sentence="s")],
        ),
    }
    for field, manifest in manifests.items():
        with pytest.raises(MistereError, match=rf"{field} is -?(nan|inf)") as caught:
            publish(store, manifest, make_files(tmp_path))
        assert str(caught.value).endswith(".")
    assert list(store.keys("artifacts")) == []


def test_manifest_keeps_exact_floats_and_unicode(store: ObjectStore, tmp_path: Path) -> None:
    metrics = {"test.weighted_f1": 0.1 + 0.2, "test.tiny": 5e-324, "test.huge": 1.7976931348623157e308, "zero": -0.0}
    report = EvaluationReport(
        labels=["é", "🙂"],
        experts=[],
        test_digest="",
        utterances=1,
        dialogues=1,
        metrics=metrics,
        confusion=[[1, 0], [0, 0]],
    )
    digest = publish(store, report, make_files(tmp_path)).digest
    manifest = open_artifact(store, EvaluationReport, digest).manifest
    assert manifest.metrics == metrics and manifest.labels == ["é", "🙂"]


def test_concurrent_publishing_never_exposes_an_incomplete_artifact(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = publish_encoder(store, tmp_path)
    folders = [make_files(tmp_path) for _ in range(40)]
    failures: list[BaseException] = []

    def publish_all(assigned: list[Path]) -> None:
        try:
            for folder in assigned:
                publish(store, BaseEncoder(family="whisper", source=""), folder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish_all, args=(folders[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        open_artifact(store, BaseEncoder, digest)
    assert failures == []
    names = [path.name for path in store.local_path("artifacts/BaseEncoder").iterdir()]
    assert names == [digest]


def test_republishing_updates_the_provenance(store: ObjectStore, tmp_path: Path) -> None:
    publish_encoder(store, tmp_path)
    republished = BaseEncoder(family="whisper", source="elsewhere", inputs={"a": "b"})
    digest = publish(store, republished, make_files(tmp_path)).digest
    manifest = open_artifact(store, BaseEncoder, digest).manifest
    assert manifest.source == "elsewhere" and manifest.inputs == {"a": "b"}


def test_manifest_is_indented_json(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = publish_encoder(store, tmp_path)
    text = (store.local_path(artifact_key("BaseEncoder", digest)) / artifact_io.MANIFEST).read_text()
    assert json.loads(text)["kind"] == "BaseEncoder" and "\n" in text


FLAT = {
    "schema_version": 1,
    "made_by": {"stage": "s", "key": "k", "code": "c", "commit": "1234", "dirty": True, "config": {}},
    "inputs": {},
    "files": {},
}
CHECKPOINT = {
    "modality": "text",
    "absent": False,
    "labels": ["joy"],
    "family": "text",
    "dimension": 8,
    "base_digest": "b" * 64,
    "source": "hub:model",
    "encoder_digest": "e" * 64,
    "settings": {"projection": 8},
    "undecodable": 0,
    "metrics": {"dev.weighted_f1": 1e-07},
    "history": [],
}
EMBEDDINGS = {
    "modality": "text",
    "absent": False,
    "dimension": 8,
    "labels": ["joy"],
    "rows": {"test": 3},
    "missing": 0,
    "undecodable": 0,
    "encoder_digest": "e" * 64,
    "encoder_source": "hub:model",
    "precision": "bfloat16",
    "test_digest": "t" * 64,
}
MIXTURE = {
    "labels": ["joy"],
    "dimensions": {"text": 8},
    "experts": ["text"],
    "parameters": 1,
    "temperature": 1.0,
    "encoder_digests": {"text": "e" * 64},
    "encoder_sources": {"text": "hub:model"},
    "precisions": {"text": "bfloat16"},
    "test_digest": "t" * 64,
    "metrics": {},
    "history": [],
}
EMBEDDED = EncoderIdentity(source="hub:model", digest="e" * 64, precision="bfloat16", test_digest="t" * 64)


def write_flat_manifest(store: LocalStore, kind: type[Manifest], fields: dict[str, object]) -> str:
    manifest = {"kind": kind.__name__, **FLAT, **fields}
    excluded = {"made_by", "inputs"}
    digest = canonical_digest({name: value for name, value in manifest.items() if name not in excluded})
    store.write(
        f"{artifact_key(kind.__name__, digest)}/{MANIFEST}", json.dumps({**manifest, "digest": digest}).encode()
    )
    return digest


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (
            EncoderCheckpoint,
            CHECKPOINT,
            {
                "encoder": EncoderDescription(
                    identity=EncoderIdentity(source="hub:model", digest="e" * 64),
                    family="text",
                    base_digest="b" * 64,
                    dimension=8,
                    settings={"projection": 8},
                )
            },
        ),
        (EmbeddingSet, EMBEDDINGS, {"encoder": EMBEDDED}),
        (MoEModel, MIXTURE, {"encoders": {"text": EMBEDDED}, "test_digest": "t" * 64}),
    ],
)
def test_manifests_of_earlier_releases_are_read(
    kind: type[Manifest], fields: dict[str, object], expected: dict[str, object], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    digest = write_flat_manifest(store, kind, fields)
    manifest = open_artifact(store, kind, digest).manifest
    assert {name: getattr(manifest, name) for name in expected} == expected
    assert manifest.digest == digest and manifest.made_by is not None
    assert manifest.made_by.run == RunIdentity(commit="1234", dirty=True)


def test_edited_manifest_of_an_earlier_release_is_rejected(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = write_flat_manifest(store, EmbeddingSet, EMBEDDINGS)
    key = f"{artifact_key('EmbeddingSet', digest)}/{MANIFEST}"
    store.write(key, store.read(key)[0].replace(b"bfloat16", b"float32"))
    with pytest.raises(ArtifactError, match=f"does not match its own digest {digest[:12]}"):
        open_artifact(store, EmbeddingSet, digest)


@pytest.mark.parametrize(
    "flat", [{"encoder_digests": 3}, {"encoder_digests": {"text": 3}}, {"encoder_digests": {}, "precisions": []}]
)
def test_malformed_fields_of_an_earlier_release_are_rejected(flat: dict[str, object], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = write_flat_manifest(store, MoEModel, {**MIXTURE, **flat})
    with pytest.raises(ArtifactError, match="does not hold a valid manifest"):
        open_artifact(store, MoEModel, digest)


def test_manifest_of_a_later_release_is_rejected_with_its_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = write_flat_manifest(store, EmbeddingSet, {**EMBEDDINGS, "schema_version": 9})
    with pytest.raises(ArtifactError, match="has schema version 9, this release of mistere reads versions up to 2"):
        open_artifact(store, EmbeddingSet, digest)
