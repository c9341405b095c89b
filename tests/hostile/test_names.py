"""Names from outside stay below their folder: every entrance refuses every hostile name with one sentence and its exit code.

The table of entrances is printed in docs/operations/what-we-tried-to-break.md.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import artifact_key, open_artifact, publish
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import BaseEncoder, DatasetShard, EvaluationReport, ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, DataError, ExitCode, MistereError, UsageError
from mistere.common.names import path_below
from mistere.common.paths import PROJECT_ROOT, cache_directory
from mistere.common.progress import Progress
from mistere.data.dvc_remote import RemoteData, shard_paths
from mistere.engine.run_settings import run_context
from mistere.model.encoders import sources
from mistere.model.vector_cache import VectorCache
from mistere.registry.lineage import lineage_key, read_lineage
from mistere.registry.release.champion import CHAMPION_KEY, read_champion
from mistere.runs.outcome import read_outcome
from mistere.serving.deployment import deployment_key, read_deployment
from mistere.serving.example_dialogue import DIALOGUE, EXPECTED, FOLDER, read_example
from pipelines.cli.app import main
from pipelines.kubeflow.schedules.schedule_file import read_schedules
from tests.hostile.faults import NAMES
from tests.unit.data.corpus_files import wav

DIGEST = "0" * 64


def _names(canary: Path) -> dict[str, str]:
    """The hostile names; ``{canary}`` becomes the path of a file outside every folder."""
    return {kind: name.format(canary=canary) for kind, name in NAMES.items()}


class ListedStore(LocalStore):
    """A store whose listing holds one key as it is. A key of S3 is any text, so a real bucket can list it."""

    def __init__(self, root: Path, keys: list[str]) -> None:
        super().__init__(root)
        self._listed = keys

    def versions(self, _prefix: str) -> Iterator[tuple[str, str]]:
        return ((key, "1") for key in self._listed)

    def local_path(self, key: str) -> Path | None:  # type: ignore[override]
        return None

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("overwritten")


def _remote_with(folder: Path, entries: list[dict[str, object]]) -> tuple[str, str]:
    """A DVC remote with one listing; its location and the listing's digest."""
    content = json.dumps(entries).encode()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = folder / "remote" / "files" / "md5" / digest[:2] / f"{digest[2:]}.dir"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(folder / "remote"), f"{digest}.dir"


def _describe(folder: Path, entries: list[dict[str, object]]) -> None:
    """``pull_data`` of a listing that an earlier run has fetched, so that DVC need not start for each name."""
    remote, digest = _remote_with(folder, entries)
    cached = RemoteData(remote, digest)._cached(digest)
    cached.parent.mkdir(parents=True)
    shutil.copyfile(next((folder / "remote").rglob("*.dir")), cached)
    describe(remote, digest)


def dvc_listing_name(name: str, folder: Path) -> None:
    _describe(folder, [{"relpath": name, "md5": "0" * 32}, {"relpath": "dataset.yaml", "md5": "1" * 32}])


def dvc_listing_digest(name: str, folder: Path) -> None:
    """``xx`` before an absolute path: DVC's cache joins the first two characters and the rest as two segments."""
    _describe(folder, [{"relpath": "dataset.yaml", "md5": f"xx{name}"}])


def dvc_remote_digest(name: str, folder: Path) -> None:
    RemoteData(str(folder), name)


def dataset_reference(name: str, folder: Path) -> None:
    """A manifest of ``pull_data`` that someone wrote by hand."""
    shard = DatasetShard.model_construct(name="train-0.parquet", md5=name, size=1, split="train", rows=1)

    class Reference:
        shards, remote, dvc_digest = [shard], str(folder), f"{'0' * 32}.dir"

    shard_paths(Reference())  # type: ignore[arg-type]


def _table(folder: Path, name: str, kind: str) -> None:
    rows = [
        {"dialogue_id": f"d{index}", "turn": 0, "text": "hello", "label": label, "audio": name}
        for index, label in enumerate("aabb")
    ]
    table = folder / f"table.{kind}"
    (folder / "clips").mkdir(exist_ok=True)
    if kind == "parquet":
        audio = [{"bytes": None, "path": name} for _ in rows]
        pq.write_table(
            pa.Table.from_pylist([{**row, "audio": clip} for row, clip in zip(rows, audio, strict=True)]), table
        )
    else:
        table.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["--audio", str(folder / "clips"), "--labels", "a,b", "--missing-audio", "missing"]
    _command("data", "import", "table", str(table), str(folder / "made"), *arguments)


def table_audio_path(name: str, folder: Path) -> None:
    _table(folder, name, "jsonl")


def parquet_audio_path(name: str, folder: Path) -> None:
    _table(folder, name, "parquet")


def bundle_file(name: str, folder: Path) -> None:
    """A manifest with a correct digest of its own, as an attacker would write it."""
    store = LocalStore(folder / "store")
    content = {
        "kind": "BaseEncoder",
        "schema_version": 1,
        "family": "f",
        "files": {name: {"sha256": DIGEST, "size": 1}},
    }
    digest = DIGEST if not name.isascii() else canonical_digest(content)  # half of a surrogate pair has no digest
    store.write(
        f"{artifact_key('BaseEncoder', digest)}/manifest.json",
        json.dumps({**content, "source": "s", "digest": digest}).encode(),
    )
    open_artifact(store, BaseEncoder, digest)


def encoder_of_a_bundle(name: str, folder: Path) -> None:
    """The name of an encoder is the name of its file in the bundle."""
    try:
        ModelBundle.model_validate(
            {
                "name": "n",
                "labels": [],
                "experts": [],
                "encoders": {name: {}},
                "temperature": 1,
                "test_digest": "",
                "metrics": {},
                "dvc_digest": "",
            }
        )
    except ValidationError as error:  # parse_manifest turns it into this error
        raise ArtifactError(error.errors()[0]["msg"] + ".") from error


def artifact_digest(name: str, folder: Path) -> None:
    open_artifact(ListedStore(folder / "store", []), EvaluationReport, name)


def champion_record(name: str, folder: Path) -> None:
    store = LocalStore(folder / "store")
    fields = {"evaluation_digest": "e", "model_name": "m", "model_version": "1", "run_id": "r", "moved_at": 1.0}
    store.write(CHAMPION_KEY, json.dumps({"bundle_digest": name, **fields}).encode())
    read_champion(store)


def deployment_record(name: str, folder: Path) -> None:
    store = LocalStore(folder / "store")
    fields = {"service": "s", "bundle_location": "l", "model_version": "1"}
    store.write(deployment_key("s"), json.dumps({"bundle_digest": name, **fields}).encode())
    read_deployment(store, "s")


def lineage_record(name: str, folder: Path) -> None:
    """``mistere replay`` makes a folder of the digest and passes the commit to Git."""
    store = LocalStore(folder / "store")
    fields = dict.fromkeys(
        ("model_name", "bundle_location", "evaluation_digest", "test_digest", "verdict", "dataset"), "x"
    )
    record = {**fields, "run": {}, "dvc_digest": "d", "data_remote": "r", "bundle_digest": name}
    store.write(lineage_key("x"), json.dumps(record).encode())
    read_lineage(store, "x")


def example_dialogue(name: str, folder: Path) -> None:
    (folder / FOLDER).mkdir()
    (folder / DIALOGUE).write_text(json.dumps([{"text": "hello", "audio": name}]))
    (folder / EXPECTED).write_text(json.dumps({"probabilities": [[1.0]]}))
    read_example(folder)


def run_id(name: str, folder: Path) -> None:
    run_context({"run_id": name, "store": str(folder), "tracking_uri": "sqlite://"}, "job")


def run_id_on_the_command_line(name: str, folder: Path) -> None:
    _command("gate-table", name, "--store", str(folder / "store"))


def job_of_a_schedule(name: str, folder: Path) -> None:
    run_context({"run_id": "weekly", "schedule": "weekly/1", "store": str(folder), "tracking_uri": "sqlite://"}, name)


def schedule_name(name: str, folder: Path) -> None:
    file = folder / "schedules.yaml"
    file.write_text(yaml.safe_dump({"schedules": [{"name": name, "cron": "0 0 0 * * *"}]}))
    read_schedules(file)


def store_key(name: str, folder: Path) -> None:
    LocalStore(folder / "store").write(name, b"x")


def cache_part(name: str, folder: Path) -> None:
    cache_directory(name)


def checkpoint_key(name: str, folder: Path) -> None:
    store = ListedStore(folder / "store", [f"checkpoints/s/k/{name}", f"checkpoints/s/k/{name.split('/')[0]}.complete"])
    Checkpoints(store, "s", "k").restore()


def encoder_in_s3(name: str, folder: Path) -> None:
    bucket = ListedStore(folder / "store", [f"leaf/{name}"])
    original = sources.model_folder
    sources.model_folder = lambda _uri: (bucket, "leaf")  # type: ignore[assignment]
    try:
        sources._from_s3("s3://bucket/leaf", "text", LocalStore(folder / "own"))
    finally:
        sources.model_folder = original


ENTRANCES: dict[str, tuple[Callable[[str, Path], None], type[MistereError]]] = {
    "name in a DVC listing": (dvc_listing_name, DataError),
    "MD5 in a DVC listing": (dvc_listing_digest, DataError),
    "DVC digest that a run is given": (dvc_remote_digest, UsageError),
    "MD5 in a dataset's manifest": (dataset_reference, DataError),
    "audio path in a table, `mistere data import`": (table_audio_path, DataError),
    "audio path in parquet, `mistere data import`": (parquet_audio_path, DataError),
    "file in an artifact's manifest": (bundle_file, ArtifactError),
    "encoder's name in a bundle": (encoder_of_a_bundle, ArtifactError),
    "artifact's digest": (artifact_digest, ArtifactError),
    "champion pointer": (champion_record, ArtifactError),
    "deployment record": (deployment_record, ArtifactError),
    "lineage": (lineage_record, ArtifactError),
    "recording of a bundle's example dialogue": (example_dialogue, ArtifactError),
    "run id in a run's context": (run_id, UsageError),
    "run id, `mistere gate-table`": (run_id_on_the_command_line, UsageError),
    "id that Kubeflow Pipelines gives a run": (job_of_a_schedule, UsageError),
    "schedule's name": (schedule_name, UsageError),
    "key of the store": (store_key, UsageError),
    "part of a cache path": (cache_part, UsageError),
    "checkpoint's key in S3": (checkpoint_key, ArtifactError),
    "encoder's file in S3": (encoder_in_s3, UsageError),
}
"""Every entrance of a name: what feeds it, and the class of the error, which decides the exit code."""

OWN_VALUES = {
    ("mistere/serving/example_dialogue.py", "row['audio']"): "written under a name of its own",
    ("components/validate_data/facts/dataset_facts.py", "table['seconds']"): "a division of numbers",
}
"""Subscripts that are no parsed name, although they look like one, and why."""

HARMLESS = {
    ("encoder's file in S3", "parent"): "objects in deeper folders are ignored",
}
"""Combinations where the name is no name of that kind, and why; the canary must be untouched there too."""


def _command(*arguments: str) -> None:
    """Run the command in this process; raise its error again by its exit code.

    Raises:
        MistereError: the command printed one sentence and ended with an exit code.
    """
    import contextlib
    import io
    import sys

    before, errors = sys.argv, io.StringIO()
    sys.argv = ["mistere", *arguments]
    try:
        with (
            contextlib.redirect_stderr(errors),
            contextlib.redirect_stdout(io.StringIO()),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    finally:
        sys.argv = before
    classes = {ExitCode.DATA_REJECTED: DataError, ExitCode.USAGE: UsageError, ExitCode.ERROR: MistereError}
    if ended.value.code:
        raise classes[ExitCode(ended.value.code)](errors.getvalue().removeprefix("mistere: ").rstrip("\n"))


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside the folders that are read, and a cache of its own."""
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "inside" / "cache"))
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "canary"
    path.write_text("alive")
    return path


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_hostile_names_are_refused(entrance: str, canary: Path) -> None:
    feed, expected = ENTRANCES[entrance]
    listing = set(canary.parent.iterdir())
    for kind, name in _names(canary).items():
        if (entrance, kind) == ("audio path in parquet, `mistere data import`", "surrogate"):
            continue  # parquet holds UTF-8
        folder = canary.parent / "inside" / kind
        folder.mkdir()
        error: MistereError | None = None
        try:
            feed(name, folder)
        except MistereError as refused:
            error = refused
        where = f"{entrance}, {kind}"
        assert canary.read_text() == "alive" and set(canary.parent.iterdir()) == listing, where
        if error is None:
            assert (entrance, kind) in HARMLESS, f"{where}: accepted"
            continue
        message = str(error)
        assert error.exit_code == expected.exit_code, f"{where}: {message}"
        assert "\n" not in message and message.endswith(".") and "Traceback" not in message, f"{where}: {message}"
        assert len(message) < 1000, f"{where}: {message}"


def _lead_out(folder: Path, canary: Path) -> dict[str, Path]:
    """Links that lead out of a folder: to a file, to a folder, and through a second link."""
    links = {"file": folder / "to-file", "folder": folder / "to-folder", "chain": folder / "chain"}
    links["file"].symlink_to(canary)
    links["folder"].symlink_to(canary.parent)
    links["chain"].symlink_to(links["folder"])
    return links


def test_listing_that_names_a_file_outside_deletes_nothing(canary: Path, tmp_path: Path) -> None:
    """The whole way: DVC fetches the listing, and the command ends with one sentence."""
    folder = tmp_path / "inside"
    remote, digest = _remote_with(folder, [{"relpath": "dataset.yaml", "md5": f"xx{canary}"}])
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = True\n    remote = it\n['remote \"it\"']\n    url = {remote}\n"
    )
    (folder / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": digest, "hash": "md5", "path": "data"}]}))
    with pytest.raises(DataError, match=r"has the MD5 'xx.*not 32 hexadecimal digits: track the data again"):
        _command("data", "diff", str(folder / "data.dvc"), str(folder / "data.dvc"))
    assert canary.read_text() == "alive"


def test_links_that_lead_out_are_refused(canary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inside" / "links"
    folder.mkdir()
    _lead_out(folder, canary)
    for name in ("to-file", "to-folder/canary", "chain/canary"):
        with pytest.raises(DataError, match="is a link that leads out of"):
            path_below(folder, name, "the table", DataError)
    (folder / "within").symlink_to(folder / "real")
    assert path_below(folder, "within", "the table", DataError) == folder / "within"
    store = LocalStore(folder)
    for delete in (store.delete, store.delete_object):
        with pytest.raises(MistereError, match="is a link that leads out of"):
            delete("to-folder/canary")
    assert canary.read_text() == "alive"


def test_artifact_with_a_link_that_leads_out_is_refused(canary: Path, tmp_path: Path) -> None:
    """The link's target has the content that the manifest promises: a bundle could read any file of this machine."""
    store = LocalStore(tmp_path / "inside" / "store")
    made = tmp_path / "inside" / "made"
    made.mkdir()
    shutil.copyfile(canary, made / "model.safetensors")
    manifest = publish(store, BaseEncoder(family="f", source="s"), made)
    path = store.root / artifact_key("BaseEncoder", manifest.digest) / "model.safetensors"
    path.unlink()
    path.symlink_to(canary)
    with pytest.raises(ArtifactError, match=r"names 'model.safetensors', which is a link that leads out of") as refused:
        open_artifact(store, BaseEncoder, manifest.digest)
    assert refused.value.exit_code == ExitCode.ERROR


def test_table_with_a_link_that_leads_out_is_refused(canary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inside" / "table"
    (folder / "clips").mkdir(parents=True)
    canary.write_bytes(wav())
    (folder / "clips" / "a.wav").symlink_to(canary)
    with pytest.raises(DataError, match="is a link that leads out of"):
        _table(folder, "a.wav", "jsonl")


def test_foreign_object_among_cached_vectors_is_ignored(canary: Path, tmp_path: Path) -> None:
    store = ListedStore(tmp_path / "inside" / "store", ["vectors/identity/..", "vectors/identity/.safetensors"])
    assert VectorCache(store, "identity", Progress("task")).find([b"k" * 16]) == {}
    assert canary.read_text() == "alive"


def test_stage_record_under_a_hostile_key_is_reported(canary: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "inside" / "store")
    store.write(
        "runs/r/stages/evaluate_model.json", b'{"task": "../../..", "stage": "s", "status": "done", "started": 1}'
    )
    assert read_outcome(store, "r").unreadable


def test_nothing_unpacks_archives(code_modules: dict[Path, str]) -> None:
    """No entrance writes an archive's members to disk, so their names cannot lead out. One reads arrays from a zip file, in memory."""
    for path, text in code_modules.items():
        text = text.replace("propagator.extract(", "")  # OpenTelemetry's, which reads a header
        words = ("zipfile", "tarfile", "unpack_archive", "extractall", ".extract(")
        for word in words[1:] if path.as_posix().endswith("corpora/features/npz_file.py") else words:
            assert word not in text, f"{path} unpacks an archive: check its members by path_below, and test it here."


def _joins(tree: ast.AST) -> Iterator[ast.expr]:
    """What is joined to a path, or becomes one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield node.right
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"Path", "joinpath", "cache_directory"}:
                yield from node.args


def test_parsed_names_become_paths_only_by_the_checked_function(code_modules: dict[Path, str]) -> None:
    """A value of parsed data is joined to no path.

    It cannot follow a name through variables; fields of models are checked by their types.
    """
    for path, text in code_modules.items():
        for joined in _joins(ast.parse(text)):
            raw = isinstance(joined, ast.Subscript) and isinstance(getattr(joined.slice, "value", None), str)
            assert not raw or (path.relative_to(PROJECT_ROOT).as_posix(), ast.unparse(joined)) in OWN_VALUES, (
                f"{path}, line {joined.lineno}: {ast.unparse(joined)} becomes a path; use path_below of mistere.common.names."
            )
