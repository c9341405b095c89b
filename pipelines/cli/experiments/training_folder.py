"""The output folder of ``mistere train``: a new one for each training, resumed after an interruption, never another's."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from mistere.artifacts.locations import TRAINING_RECORD
from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.engine.stage import new_run_id

if TYPE_CHECKING:
    from mistere.artifacts.checkpoints import Checkpoints

TRAININGS: Final = Path("output/train")
"""Where a training without ``--output`` gets its own folder."""
RECORD: Final = TRAINING_RECORD
"""What a finished training was made of."""
_ORIGIN: Final = "origin"
"""The part of the record that does not identify the training: where and how it was started."""

_CHECKPOINTS, _MADE_OF, _LOCK = "checkpoints", "made_of.json", ".lock"
_OTHER: Final = "name another folder, or omit --output for a new one"


class TrainingFolder:
    """The folder of one training, locked while this process trains in it.

    Args:
        output: the folder; None for a new one below :data:`TRAININGS`, or the one there in which the same training was interrupted.
        made_of: identifies the embeddings and the mixture's settings, which the checkpoints belong to.
        scope: what else determines the results: seeds, ablations, evaluation.
        origin: how the training was started; it may differ if the same training is repeated.

    Attributes:
        path: the folder.

    Raises:
        UsageError: the folder holds another training or anything else; nothing is written.
    """

    def __init__(
        self,
        output: Path | None,
        made_of: Mapping[str, Any],
        scope: Mapping[str, Any],
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self._made_of, self._record, self._origin = dict(made_of), {**made_of, **scope}, dict(origin or {})
        self._lock: IO[bytes] | None = None
        if output is not None:
            self._check(output)
            self.path = output
            return
        interrupted = (folder.parent.parent for folder in sorted(TRAININGS.glob(f"*/{_CHECKPOINTS}/{_MADE_OF}")))
        self.path = next(filter(self._is_mine, interrupted), TRAININGS / new_run_id())

    def begin(self) -> None:
        """Create the folder, and record the embeddings and settings that its checkpoints belong to.

        Raises:
            UsageError: another process trains in it.
        """
        folder = self.path / _CHECKPOINTS
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.path)
        if self._lock is None:
            raise UsageError(f"--output {self.path}: another process trains in it; wait for it, or {_OTHER}.")
        _write(folder / _MADE_OF, self._made_of)

    def checkpoints(self, name: str, seed: int) -> Checkpoints:
        """The checkpoints of one trial."""
        from mistere.artifacts.checkpoints import Checkpoints
        from mistere.artifacts.object_store import LocalStore

        return Checkpoints(LocalStore(self.path), name, f"seed-{seed}")

    def record(self) -> None:
        """Record what the results are made of."""
        _write(self.path / RECORD, {**self._record, **({_ORIGIN: self._origin} if self._origin else {})})

    def end(self) -> None:
        """Delete the checkpoints, after all outputs are written."""
        shutil.rmtree(self.path / _CHECKPOINTS, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _check(self, output: Path) -> None:
        if output.exists() and not output.is_dir():
            raise UsageError(f"--output {output}: it is a file; name a folder.")
        names = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
        recorded = _read(output / RECORD)
        if isinstance(recorded, dict):
            recorded.pop(_ORIGIN, None)
        if recorded not in (None, self._record):
            raise UsageError(f"--output {output}: it contains another training; {_OTHER}.")
        made_of = _read(output / _CHECKPOINTS / _MADE_OF)
        if made_of not in (None, self._made_of):
            other = "settings" if made_of.get("embeddings") == self._made_of["embeddings"] else "embeddings"
            raise UsageError(
                f"--output {output}: it contains checkpoints of an unfinished training with other {other}; finish that one, delete "
                f"{output / _CHECKPOINTS}, or {_OTHER}."
            )
        if names - {_CHECKPOINTS} and recorded is None and made_of is None:
            content = "another training" if "metrics.json" in names else f"other files ({min(names - {_CHECKPOINTS})})"
            raise UsageError(f"--output {output}: it contains {content}; {_OTHER}.")

    def _is_mine(self, folder: Path) -> bool:
        """Whether this training was interrupted in a folder, and no process continues it."""
        try:
            self._check(folder)
        except UsageError:
            return False
        lock = _locked(folder)
        if lock is not None:
            lock.close()
        return lock is not None


def _locked(folder: Path) -> IO[bytes] | None:
    """The lock of a training; None if another process holds it."""
    file = (folder / _CHECKPOINTS / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _read(file: Path) -> Any:
    """The content of a JSON file; None if it does not exist, and nothing that any training records if it is damaged."""
    try:
        return read_json(file) if file.is_file() else None
    except ParseError:
        return {}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    aside = file.with_name(f".{file.name}")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(file)
