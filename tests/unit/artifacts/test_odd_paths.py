"""Folders whose names mean something to a shell, a URL or a configuration file: paths arrive whole, and nothing is written beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from components.pull_data.run import describe
from mistere.artifacts.object_store import LocalStore, open_store
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import cache_directory, require_cache
from mistere.common.processes.command_line import command_line
from mistere.data.dvc_remote import RemoteData
from mistere.data.local_copies import use_local_copies
from mistere.data.versions import PinnedData, pin
from mistere.registry.lineage import Lineage
from pipelines.cli.commands.registry.replay import _pinned_data
from tests.local.workshop import make_dataset, rows

ODD_NAMES = (
    "C# code",
    "Müller, Anna",
    "what?",
    "100%",
    "50%41 of %(it)s",
    "a;b:c",
    'the "old" one',
    "it's",
    "[x] $HOME `ls` & ~",
    "日本語",
)
ODD = "".join(ODD_NAMES)
"""All of them in one name, which is shorter than a file system's limit."""


@pytest.fixture
def odd_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / f"cache {ODD}"))
    return tmp_path / f"cache {ODD}"


def test_a_shell_splits_a_printed_command_into_its_words() -> None:
    words = ["printf", r"%s\0", *ODD_NAMES, "", "two\nlines", "\x1b[31m\\'x", "plain", "a\u00a0b"]
    line = command_line(*words)
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0") == [*words[2:], ""]


def test_a_store_is_opened_by_its_path_and_by_its_url(tmp_path: Path) -> None:
    for folder in (tmp_path / ODD, tmp_path / "#token=abc"):
        for location in (str(folder), folder.as_uri()):
            store = open_store(location)
            assert isinstance(store, LocalStore) and store.root == folder


def project(folder: Path) -> Path:
    """A DVC project without Git, as an archive of a repository has it, that tracks a dataset; the remote beside it is empty."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    remote = here\n['remote \"here\"']\n    url = ../../remote\n")
    data = make_dataset(folder / "data", rows(audio=False))
    version = pin(str(data), str(folder.parent / "other"))
    (folder / "data.dvc").write_text(f"outs:\n- md5: {version.digest}\n  hash: md5\n  path: data\n")
    return folder


def test_data_and_remotes_are_read_in_odd_folders(odd_cache: Path, tmp_path: Path) -> None:
    """▶ The remote was pasted into .dvc/config, where `#` begins a comment and a comma a list."""
    folder = project(tmp_path / ODD / "clone")
    copied = pin(str(folder / "data"), str(tmp_path / ODD / "snapshots"))
    assert describe(copied.remote, copied.digest).rows["train"] == 40
    pinned = pin(str(folder / "data.dvc"), "")
    assert pinned == PinnedData(copied.digest, str(tmp_path / ODD / "remote"))
    shutil.copytree(tmp_path / ODD / "snapshots", pinned.remote)
    assert describe(pinned.remote, pinned.digest).rows["train"] == 40
    assert {path.name for path in tmp_path.iterdir()} == {ODD, odd_cache.name}


def test_a_replay_reads_the_recorded_remote_of_any_name(odd_cache: Path, tmp_path: Path) -> None:
    readable = ODD.replace("%(it)s", "")  # what DVC itself cannot read back from its configuration
    remote, digest = str(tmp_path / readable / "remote"), f"{'0' * 32}.dir"
    (tmp_path / readable).mkdir()
    recorded = Lineage.model_construct(data_remote=remote, data_endpoint="", dvc_digest=digest)
    assert pin(str(_pinned_data(recorded, tmp_path / readable)), "") == PinnedData(digest, remote)


def test_files_of_this_machine_replace_those_that_the_remote_lacks(tmp_path: Path, odd_cache: Path) -> None:
    """▶ Data that was never pushed ended a run with exit code 4."""
    folder = project(tmp_path / "clone")
    pinned = pin(str(folder / "data.dvc"), "")
    with pytest.raises(MistereError, match="is missing from the DVC remote") as missing:
        RemoteData(pinned.remote, pinned.digest).listing()
    assert missing.value.exit_code == 1
    assert use_local_copies(pinned)  # from the workspace
    reference = describe(pinned.remote, pinned.digest)
    assert reference.rows["train"] == 40

    shutil.rmtree(odd_cache)
    shutil.copytree(tmp_path / "other", folder / ".dvc" / "cache")
    (folder / "data" / "train-00000.parquet").write_bytes(b"another version")
    assert use_local_copies(pinned) and describe(pinned.remote, pinned.digest) == reference  # from DVC's cache

    shutil.rmtree(odd_cache)
    shutil.rmtree(folder / ".dvc" / "cache")
    assert not use_local_copies(pinned)  # the digest of the changed folder does not fit
    assert not use_local_copies(PinnedData(pinned.digest, pinned.remote))


def test_a_cache_that_cannot_be_written_to_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTERE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # fails for root too, who may write to any folder
    with pytest.raises(
        MistereError, match=r"file/\.cache/mistere cannot be written to .*: set MISTERE_CACHE to a folder"
    ):
        pin(str(make_dataset(tmp_path / "data", rows(audio=False))), str(tmp_path / "remote"))
    assert not (tmp_path / "remote").exists()
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"the home directory .*file cannot be read .*: set HOME to a folder"):
        require_cache()
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    require_cache()
    monkeypatch.delenv("MISTERE_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user of no name without HOME
    with pytest.raises(UsageError, match="this user has no home directory to keep the cache in"):
        cache_directory()
