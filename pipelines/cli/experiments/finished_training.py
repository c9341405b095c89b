"""The output of a finished ``mistere train``, and the embeddings that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistere.artifacts.locations import TRAINING_RECORD
from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.config.evaluation import EvaluationConfig
from pipelines.cli.experiments.source import EmbeddingSource, inspect_source

MODEL, DESCRIPTION = "model", "model.json"
_FILES = ("mixture.safetensors", "mixture.json")
"""What a bundle takes from the folder ``model``."""


class TrainingOrigin(BaseModel):
    """How a training was started.

    Attributes:
        source: the folder of the embeddings.
        profile: the profile.
        command: the command line, without secrets.
        commit: Git commit of the code; empty outside a Git repository.
        dirty: whether the code had uncommitted changes.
        uncommitted: the files with them.
    """

    model_config = ConfigDict(extra="ignore")

    source: str = ""
    profile: str = ""
    command: str = ""
    commit: str = ""
    dirty: bool = False
    uncommitted: str = ""

    @property
    def code_state(self) -> str:
        """The state of the code as the release gate takes it."""
        if not self.commit:
            return "unknown"
        return f"uncommitted{f': {self.uncommitted}' if self.uncommitted else ''}" if self.dirty else "committed"


class _Record(BaseModel):
    """What is read of ``training.json``."""

    model_config = ConfigDict(extra="ignore")

    embeddings: str
    settings: dict[str, Any]
    evaluation: EvaluationConfig
    origin: TrainingOrigin = TrainingOrigin()


class _Model(BaseModel):
    """What is read of ``model.json``."""

    model_config = ConfigDict(extra="ignore")

    labels: list[str]
    temperature: float
    seed: int
    dev_weighted_f1: float = Field(alias="dev.weighted_f1")
    history: list[dict[str, float]] = Field(default_factory=list)
    automatic: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class FinishedTraining:
    """A finished training.

    Attributes:
        folder: the output folder.
        fingerprint: of the embeddings.
        settings: of the mixture, without the seed.
        evaluation: the ``evaluation`` section.
        origin: how it was started.
        model: what ``model.json`` says of the mixture.
    """

    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]
    evaluation: EvaluationConfig
    origin: TrainingOrigin
    model: _Model

    @classmethod
    def open(cls, folder: Path) -> FinishedTraining:
        """Read a training's folder.

        Raises:
            UsageError: the folder holds no finished training, or a damaged one.
        """
        if not (folder / TRAINING_RECORD).is_file():
            raise UsageError(f"{folder} holds no finished training: name an output folder of `mistere train`.")
        record = _read(folder / TRAINING_RECORD, _Record)
        model = _read(folder / MODEL / DESCRIPTION, _Model)
        for name in _FILES:
            if not (folder / MODEL / name).is_file():
                raise UsageError(f"{folder / MODEL / name} is missing: run `mistere train` again.")
        return cls(folder, record.embeddings, record.settings, record.evaluation, record.origin, model)

    @property
    def files(self) -> dict[str, Path]:
        """The files of the mixture, by their names in a bundle."""
        return {name: self.folder / MODEL / name for name in _FILES}

    def source(self, embeddings: Path | None) -> EmbeddingSource:
        """The embeddings that the training read.

        Args:
            embeddings: their folder; None for the recorded one.

        Raises:
            UsageError: the folder is unknown, invalid, or holds other embeddings.
        """
        folder = embeddings or (Path(self.origin.source) if self.origin.source else None)
        if folder is None:
            raise UsageError(
                f"{self.folder} does not say where its embeddings are: name their folder with --embeddings."
            )
        if embeddings is None and not folder.is_dir():
            raise UsageError(
                f"{folder}: the training's embeddings are not there any more: name their folder with --embeddings."
            )
        source = inspect_source(folder)
        modalities = self.settings.get("modalities") or []
        missing = [name for name in modalities if modalities != "auto" and name not in source.data.dimensions]
        if missing or source.data.only(modalities).fingerprint() != self.fingerprint:
            raise UsageError(
                f"{folder}: these are not the embeddings that the model in {self.folder} was trained on; name those with "
                "--embeddings, or train again."
            )
        return source


def _read(file: Path, cls: type[Any]) -> Any:
    try:
        return cls.model_validate(read_json(file))
    except (OSError, ParseError, ValidationError) as error:
        raise UsageError(f"{file} is missing or damaged: run `mistere train` again.") from error
