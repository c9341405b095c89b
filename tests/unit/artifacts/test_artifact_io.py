"""Artifacts: published whole, opened verified, and every damage named."""

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
from mistere.artifacts.manifests import (
    BaseEncoder,
    EmbeddingSet,
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    MadeBy,
    Manifest,
    MoEModel,
    RuleResult,
    canonical_digest,
)
from mistere.artifacts.object_store import LocalStore, ObjectStore, S3Store
from mistere.common import file_digest
from mistere.common.errors import ArtifactError, MistereError


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


def material(tmp_path: Path) -> Path:
    folder = tmp_path / f"material-{os.urandom(4).hex()}"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    (folder / "deep" / "config.json").write_text("{}")
    return folder


def published(store: ObjectStore, tmp_path: Path) -> str:
    return publish(store, BaseEncoder(family="whisper", source="random:whisper"), material(tmp_path)).digest


def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"cache-{os.urandom(4).hex()}"))


def damage(store: ObjectStore, digest: str, change: Callable[[Path], None], file: str = "weights.bin") -> None:
    """Change a published file in the store, behind everybody's back."""
    key = f"{artifact_key('BaseEncoder', digest)}/{file}"
    if isinstance(store, LocalStore):
        change(store.local_path(key))
        return
    aside = Path(os.environ["MISTERE_CACHE"]) / "aside"
    store.download(key, aside)
    change(aside)
    if aside.exists():
        store.upload(aside, key)
    else:
        store.delete_object(key)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_opens_what_was_published(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = published(store, tmp_path)
    for _ in range(2):
        opened = open_artifact(store, BaseEncoder, digest)
        assert opened.manifest.digest == digest and opened.manifest.family == "whisper"
        assert opened.file("weights.bin").read_bytes() == b"weights" * 1000
        assert opened.file("deep/config.json").read_text() == "{}"
        another_machine(tmp_path, monkeypatch)


def test_an_artifact_needs_no_files(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    digest = publish(store, EncoderCheckpoint(modality="speech", absent=True), tmp_path / "nothing").digest
    assert open_artifact(store, EncoderCheckpoint, digest).manifest.absent


def test_the_digest_is_of_the_content_not_of_its_maker(store: ObjectStore, tmp_path: Path) -> None:
    digest = published(store, tmp_path)
    made_by = MadeBy(stage="finetune_encoder", key="k", code="c", run=RunIdentity(commit="1234"), config={"seed": 3})
    other = BaseEncoder(family="whisper", source="elsewhere", made_by=made_by, inputs={"utterances": "0" * 64})
    assert publish(store, other, material(tmp_path)).digest == digest
    changed = material(tmp_path)
    (changed / "weights.bin").write_bytes(b"other")
    assert publish(store, BaseEncoder(family="whisper", source=""), changed).digest != digest
    renamed = material(tmp_path)
    (renamed / "weights.bin").rename(renamed / "weights2.bin")
    assert publish(store, BaseEncoder(family="whisper", source=""), renamed).digest != digest
    assert publish(store, BaseEncoder(family="waveform", source=""), material(tmp_path)).digest != digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip_a_bit, r"weights\.bin has SHA-256 [0-9a-f]{12}…, its manifest says [0-9a-f]{12}…"),
        (truncate, r"weights\.bin has 6999 bytes, its manifest says 7000"),
        (Path.unlink, r"weights\.bin (is missing|does not exist)"),
    ],
)
def test_damage_names_the_file_what_was_expected_and_what_was_found(
    store: ObjectStore, change: Callable[[Path], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = published(store, tmp_path)
    if isinstance(store, LocalStore):
        open_artifact(store, BaseEncoder, digest)
    damage(store, digest, change)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=says) as caught:
            open_artifact(store, BaseEncoder, digest)
        message = str(caught.value)
        location = store.location(artifact_key("BaseEncoder", digest))
        assert f"; delete {location} and run the pipeline again" in message
        assert digest[:12] in message and message.endswith(".") and "\n" not in message
    publish(store, BaseEncoder(family="whisper", source=""), material(tmp_path))
    assert open_artifact(store, BaseEncoder, digest).file("weights.bin").read_bytes() == b"weights" * 1000


def test_a_damaged_copy_in_the_cache_is_fetched_again(s3_store: S3Store, tmp_path: Path) -> None:
    digest = published(s3_store, tmp_path)
    flip_a_bit(open_artifact(s3_store, BaseEncoder, digest).file("weights.bin"))
    assert open_artifact(s3_store, BaseEncoder, digest).file("weights.bin").read_bytes() == b"weights" * 1000


def test_a_missing_artifact_is_one_sentence(store: ObjectStore) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"BaseEncoder 000000000000 is not in the store \(.*\); .*run the pipeline again to make it\.$",
    ):
        open_artifact(store, BaseEncoder, "0" * 64)


def test_a_missing_manifest_means_incomplete(store: ObjectStore, tmp_path: Path) -> None:
    digest = published(store, tmp_path)
    damage(store, digest, Path.unlink, MANIFEST)
    with pytest.raises(ArtifactError, match=rf"BaseEncoder {digest[:12]} is (incomplete|not in the store)"):
        open_artifact(store, BaseEncoder, digest)


def test_an_edited_manifest_is_found_out(store: ObjectStore, tmp_path: Path) -> None:
    digest = published(store, tmp_path)

    def edit(path: Path) -> None:
        path.write_text(path.read_text().replace('"whisper"', '"waveform"'))

    damage(store, digest, edit, MANIFEST)
    with pytest.raises(ArtifactError, match=rf"{MANIFEST} does not match its own digest {digest[:12]}; delete "):
        open_artifact(store, BaseEncoder, digest)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "BaseEncoder"}', "\xff"])
def test_an_invalid_manifest_is_refused(store: ObjectStore, text: str, tmp_path: Path) -> None:
    digest = published(store, tmp_path)
    damage(store, digest, lambda path: path.write_bytes(text.encode("latin-1")) and None, MANIFEST)
    with pytest.raises(
        ArtifactError, match=rf"{MANIFEST} (does not hold a|holds no) valid manifest; delete .* run the pipeline again"
    ):
        open_artifact(store, BaseEncoder, digest)


def test_one_artifact_in_the_place_of_another_is_found_out(store: ObjectStore, tmp_path: Path) -> None:
    digest = published(store, tmp_path)
    wrong = artifact_key("BaseEncoder", "1" * 64)
    for key in list(store.keys(artifact_key("BaseEncoder", digest))):
        store.write(f"{wrong}/{key.split(digest)[1][1:]}", store.read(key)[0])
    with pytest.raises(ArtifactError, match=rf"holds {digest[:12]}, expected 111111111111"):
        open_artifact(store, BaseEncoder, "1" * 64)


def test_another_kind_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = published(store, tmp_path)
    with pytest.raises(ArtifactError, match="is a BaseEncoder, not a GateVerdict"):
        verify_directory(store.local_path(artifact_key("BaseEncoder", digest)), GateVerdict)


def test_a_file_is_hashed_once_and_again_after_any_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    digest = published(store, tmp_path)
    hashed: list[str] = []

    def counting(path: Path, algorithm: str = "sha256") -> str:
        hashed.append(path.name)
        return real(path, algorithm)  # type: ignore[arg-type]

    real = file_digest.digest_of
    monkeypatch.setattr(file_digest, "digest_of", counting)
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


def test_a_digest_cache_that_cannot_be_read_or_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("x")
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "a file"))
    assert file_digest.digest_once(tmp_path / "a file") == file_digest.digest_of(tmp_path / "a file")
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    file_digest.digest_once(tmp_path / "a file")
    (note,) = (tmp_path / "cache" / "digests").rglob("*.json")
    note.write_text("[]")
    assert file_digest.digest_once(tmp_path / "a file") == file_digest.digest_of(tmp_path / "a file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_json_cannot_represent_are_refused_by_name(
    store: ObjectStore, value: float, tmp_path: Path
) -> None:
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
            publish(store, manifest, material(tmp_path))
        assert str(caught.value).endswith(".")
    assert list(store.keys("artifacts")) == []


def test_figures_come_back_as_they_were(store: ObjectStore, tmp_path: Path) -> None:
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
    digest = publish(store, report, material(tmp_path)).digest
    found = open_artifact(store, EvaluationReport, digest).manifest
    assert found.metrics == metrics and found.labels == ["é", "🙂"]


def test_publishing_and_opening_at_once_never_shows_half_an_artifact(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = published(store, tmp_path)
    folders = [material(tmp_path) for _ in range(40)]
    failures: list[BaseException] = []

    def work(mine: list[Path]) -> None:
        try:
            for folder in mine:
                publish(store, BaseEncoder(family="whisper", source=""), folder)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(folders[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        open_artifact(store, BaseEncoder, digest)
    assert failures == []
    left = [path.name for path in store.local_path("artifacts/BaseEncoder").iterdir()]
    assert left == [digest]


def test_publishing_again_renews_who_made_it(store: ObjectStore, tmp_path: Path) -> None:
    published(store, tmp_path)
    again = BaseEncoder(family="whisper", source="elsewhere", inputs={"a": "b"})
    digest = publish(store, again, material(tmp_path)).digest
    found = open_artifact(store, BaseEncoder, digest).manifest
    assert found.source == "elsewhere" and found.inputs == {"a": "b"}


def test_manifests_are_readable_json(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = published(store, tmp_path)
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


def written_by_an_earlier_release(store: LocalStore, kind: type[Manifest], fields: dict[str, object]) -> str:
    manifest = {"kind": kind.__name__, **FLAT, **fields}
    outside = {"made_by", "inputs"}
    digest = canonical_digest({name: value for name, value in manifest.items() if name not in outside})
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
    digest = written_by_an_earlier_release(store, kind, fields)
    manifest = open_artifact(store, kind, digest).manifest
    assert {name: getattr(manifest, name) for name in expected} == expected
    assert manifest.digest == digest and manifest.made_by is not None
    assert manifest.made_by.run == RunIdentity(commit="1234", dirty=True)


def test_an_edited_manifest_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = written_by_an_earlier_release(store, EmbeddingSet, EMBEDDINGS)
    key = f"{artifact_key('EmbeddingSet', digest)}/{MANIFEST}"
    store.write(key, store.read(key)[0].replace(b"bfloat16", b"float32"))
    with pytest.raises(ArtifactError, match=f"does not match its own digest {digest[:12]}"):
        open_artifact(store, EmbeddingSet, digest)


@pytest.mark.parametrize(
    "flat", [{"encoder_digests": 3}, {"encoder_digests": {"text": 3}}, {"encoder_digests": {}, "precisions": []}]
)
def test_malformed_fields_of_an_earlier_release_are_damage(flat: dict[str, object], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = written_by_an_earlier_release(store, MoEModel, {**MIXTURE, **flat})
    with pytest.raises(ArtifactError, match="does not hold a valid manifest"):
        open_artifact(store, MoEModel, digest)


def test_a_manifest_of_a_later_release_is_refused_with_its_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    digest = written_by_an_earlier_release(store, EmbeddingSet, {**EMBEDDINGS, "schema_version": 9})
    with pytest.raises(ArtifactError, match="has schema version 9, this release of mistere reads versions up to 2"):
        open_artifact(store, EmbeddingSet, digest)
