"""A full disk is one sentence whichever library notices it: each writes to a file system of 1 MiB, or beyond a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mistere.common.errors import ExitCode
from mistere.common.os_errors import disk_error

WRITERS = {
    "safetensors": "from safetensors.numpy import save_file; save_file({'a': big}, f'{folder}/a')",
    "parquet": "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'a': big}), f'{folder}/a')",
    "numpy": "np.save(f'{folder}/a.npy', big)",
    "mapped array": "from mistere.common.os_errors import reserve_blocks; from pathlib import Path\n"
    "matrix = np.lib.format.open_memmap(f'{folder}/a.npy', mode='w+', dtype=np.float64, shape=big.shape)\n"
    "reserve_blocks(Path(folder) / 'a.npy'); matrix[:] = big",
    "PyTorch": "import torch; torch.save(torch.from_numpy(big), f'{folder}/a')",
    "SQLite": "import sqlite3\nwith sqlite3.connect(f'{folder}/a') as c:\n"
    " c.execute('create table t(a)')\n c.execute('insert into t values(?)', (big.tobytes(),))",
    "SQLite of MLflow": "from mistere.registry.mlflow.connection import connected\n"
    "with connected(f'sqlite:///{folder}/a') as client: client.search_experiments()",
    "DVC": "from mistere.data.versions import _snapshot; from pathlib import Path\n"
    "data = Path(folder) / 'data'; data.mkdir(); (data / 'dataset.yaml').write_text('a')\n"
    "(data / 'a').write_bytes(bytes(700_000)); _snapshot(data, f'{folder}/remote')",
    "object store": "from mistere.artifacts.object_store import LocalStore; from pathlib import Path\n"
    "LocalStore(Path(folder)).write('a', big.tobytes())",
}
"""What writes more than 1 MiB, by the library."""
_PROGRAM = """
import json, resource, sys
import numpy as np
from mistere.common.os_errors import disk_error
folder, limit, writers = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
big = np.random.default_rng(0).random(500_000)
import shutil, os
for name, code in writers.items():
    try:
        exec(code)
        print(json.dumps([name, "nothing was raised"]))
    except Exception as error:
        failure = error if type(error).__module__.startswith("mistere") else disk_error(error, folder)
        print(json.dumps([name, str(failure or repr(error)[:300])]))
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
"""


@pytest.mark.parametrize("library", [np.empty, torch.empty])
def test_a_failed_allocation_is_one_sentence(library: Callable[[int], object]) -> None:
    """More than any machine has: numpy and PyTorch refuse at once, as they do at a limit (`ulimit -v`)."""
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        library(1 << 56)
    assert str(disk_error(raised.value)).startswith("the process needs more memory than it may use: raise its limit")


def _sentences(arguments: list[str], before: str = "") -> dict[str, str]:
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    if before:
        command = ["unshare", "--mount", "sh", "-c", before + ' && exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if before and done.returncode and not done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.mark.long
def test_full_file_system_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = f"mount -t tmpfs -o size=1m tmpfs {folder}"
    for writer, sentence in _sentences([str(folder), "0", json.dumps(WRITERS)], mounted).items():
        expected = "the disk is full; free some space or choose another folder ("
        assert sentence.startswith(expected) and sentence.endswith(")."), f"{writer}: {sentence}"


@pytest.mark.long
def test_limit_on_the_size_of_files_is_one_sentence(tmp_path: Path) -> None:
    """Python and SQLite get EFBIG and EIO where a full disk gives ENOSPC, by the same paths."""
    chosen = {name: code for name, code in WRITERS.items() if name in {"safetensors", "parquet", "numpy", "SQLite"}}
    for writer, sentence in _sentences([str(tmp_path), "100000", json.dumps(chosen)]).items():
        assert any(part in sentence for part in ("ulimit -f", "the disk is full")), f"{writer}: {sentence}"


def test_errors_about_something_else_are_left_alone() -> None:
    for error in (ValueError("database is locked"), OSError("no number"), RuntimeError("(os error 2)"), KeyError("a")):
        assert disk_error(error) is None
    failure = disk_error(OSError(28, "No space left on device", "/data/a"))
    assert failure is not None and failure.exit_code == ExitCode.ERROR and str(failure).endswith("(/data/a).")
