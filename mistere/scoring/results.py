"""A folder of results: what is scored is written first, a file for each shard, and the summary last, so that a killed scoring resumes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistere.common.digests.files import digest_of
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.common.parsing.documents import read_json

PLAN_FILE: Final = "plan.json"
SUMMARY_FILE: Final = "scores.json"
CALLS_FILE: Final = "calls.parquet"
PAGE_FILE: Final = "scores.html"
TURNS_FOLDER: Final = "turns"
_PARTS_FOLDER: Final = ".calls"
LOCK_FILE: Final = ".lock"


class ScoringPlan(BaseModel):
    """What a folder holds the results of.

    Attributes:
        dataset: the dataset's name.
        dataset_digest: identifies its content.
        bundle_digest: the model.
        model_version: its version in the registry; empty if unknown.
        by: group columns.
        time: column of the time.
        undecodable: what happens to values that do not decode.
        int8: whether the encoders were computed in 8-bit integers.
        exported: digest of the exported model that computed the scores; empty for the bundle itself.
        code: digest of the code that scores.
        shards: names of the shards, in order.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    dataset: str
    dataset_digest: str
    bundle_digest: str
    model_version: str = ""
    by: list[str] = Field(default_factory=list)
    time: str = ""
    undecodable: str = "missing"
    int8: bool = False
    exported: str = ""
    code: str
    shards: list[str]

    def difference(self, other: ScoringPlan) -> str:
        """What an earlier plan was made for instead, as a phrase; empty for the same."""
        if self.dataset_digest != other.dataset_digest:
            return f"another dataset ({other.dataset}, {other.dataset_digest[:12]})"
        if self.bundle_digest != other.bundle_digest:
            return f"another model (bundle {other.bundle_digest[:12]})"
        if (self.by, self.time, self.undecodable) != (other.by, other.time, other.undecodable):
            columns = ", ".join([*other.by, *([other.time] if other.time else [])]) or "no columns"
            return f"other settings (columns: {columns}; undecodable={other.undecodable})"
        if self.exported != other.exported:
            return (
                f"the exported model {other.exported[:12]}"
                if other.exported
                else "the bundle itself, not an exported model"
            )
        if self.int8 != other.int8:
            return "encoders in 8-bit integers (--int8)" if other.int8 else "encoders in float32 (without --int8)"
        return "another version of mistere" if self.code != other.code else ""


class ShardSummary(BaseModel):
    """The results of one shard."""

    model_config = ConfigDict(extra="forbid")

    shard: str
    turns: int
    calls: int
    undecodable: int = 0
    named: list[str] = Field(default_factory=list, description="Sentences about the first values that do not decode.")


class ScoresSummary(BaseModel):
    """``scores.json``, written last.

    Attributes:
        plan: what was scored.
        shards: the results by shard.
        labels: the emotions, in the order of the probabilities.
        files: SHA-256 of each file of results.
    """

    model_config = ConfigDict(extra="forbid")

    plan: ScoringPlan
    shards: list[ShardSummary]
    labels: list[str]
    files: dict[str, str]


class ResultFolder:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def turns_file(self, shard: str) -> Path:
        """The file of a shard's turns."""
        return self.folder / TURNS_FOLDER / shard

    def calls_part(self, shard: str) -> Path:
        """The file of a shard's calls, until ``calls.parquet`` is complete."""
        return self.folder / _PARTS_FOLDER / shard

    @property
    def calls(self) -> Path:
        """``calls.parquet``."""
        return self.folder / CALLS_FILE

    @property
    def page(self) -> Path:
        """``scores.html``."""
        return self.folder / PAGE_FILE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from writing into the folder.

        Raises:
            MistereError: another one does.
        """
        with (self.folder / LOCK_FILE).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise MistereError(
                    f"another scoring writes into {self.folder}: wait for it, or choose another folder with --to."
                ) from error
            yield

    def begin(self, plan: ScoringPlan) -> ScoringPlan:
        """Write the plan, or find the same one.

        A plan by which nothing was scored is replaced: a refused column must not block the folder.

        Returns:
            The plan of the folder, with the model's version as the tables that are there state it.

        Raises:
            UsageError: the folder holds something else.
        """
        file = self.folder / PLAN_FILE
        if file.is_file():
            try:
                before = ScoringPlan.model_validate(read_json(file))
            except (ValueError, ValidationError) as error:
                raise UsageError(
                    f"{file} is damaged: delete {self.folder}, or choose another folder with --to."
                ) from error
            if any((self.folder / TURNS_FOLDER).glob("*.parquet")):
                if difference := plan.difference(before):
                    raise UsageError(
                        f"{self.folder} holds the scores of {difference}: choose another folder with --to, or delete it first."
                    )
                return before
        elif others := sorted({path.name for path in self.folder.iterdir()} - {LOCK_FILE, _partial(file).name}):
            raise UsageError(f"{self.folder} is not empty ({others[0]}): choose another folder with --to.")
        _write(file, plan.model_dump_json(indent=1))
        return plan

    def summary_of(self, shard: str) -> ShardSummary | None:
        """The record of a complete shard, written after its files; None if there is none."""
        if not (self.turns_file(shard).is_file() and self.calls_part(shard).is_file()):
            return None
        try:
            return ShardSummary.model_validate(read_json(self._record(shard)))
        except (OSError, ValueError):
            return None

    def remember(self, summary: ShardSummary) -> None:
        """Record the results of a shard."""
        _write(self._record(summary.shard), summary.model_dump_json())

    def finish(self, plan: ScoringPlan, shards: Sequence[ShardSummary], labels: Sequence[str]) -> ScoresSummary:
        """Write ``scores.json`` and delete what only a scoring in progress needs."""
        files = [*(self.turns_file(shard.shard) for shard in shards), self.calls, self.page]
        digests = {path.relative_to(self.folder).as_posix(): digest_of(path) for path in files}
        summary = ScoresSummary(plan=plan, shards=list(shards), labels=list(labels), files=digests)
        _write(self.folder / SUMMARY_FILE, summary.model_dump_json(indent=1))
        shutil.rmtree(self.folder / _PARTS_FOLDER, ignore_errors=True)
        return summary

    def finished(self) -> ScoresSummary | None:
        """The summary of a scoring that has finished and whose tables are there; None otherwise.

        Raises:
            ArtifactError: a table is not as it was written.
        """
        try:
            summary = ScoresSummary.model_validate(read_json(self.folder / SUMMARY_FILE))
        except (OSError, ValueError):
            return None
        tables = [*(self.turns_file(shard.shard) for shard in summary.shards), self.calls]
        if not all(path.is_file() for path in tables):
            return None
        for path in tables:
            if digest_of(path) != summary.files.get(path.relative_to(self.folder).as_posix()):
                raise ArtifactError(
                    f"{path} is not as it was written",
                    f"delete {self.folder} to score again, or name another one with --to",
                )
        return summary

    def _record(self, shard: str) -> Path:
        return self.folder / _PARTS_FOLDER / f"{shard}.json"


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    partial.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    partial.replace(path)
