"""The dataset form: ``dataset.yaml`` beside parquet shards with one row for each utterance and audio as encoded bytes.

Reading streams row groups, so memory does not grow with the dataset. See :class:`DatasetInfo` for ``dataset.yaml`` and
:func:`schema` for the columns; :mod:`mistere.data.dataset_writer` writes the form.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mistere.common.errors import DataError, UsageError
from mistere.common.modalities import IMPLICIT_KINDS, SPEECH, TEXT
from mistere.common.names import shown
from mistere.common.parsing.documents import ParseError, read_yaml
from mistere.common.parsing.parquet import open_parquet, row_batches
from mistere.common.splits import Split
from mistere.config.modalities import name_problem
from mistere.data.kinds import kind_of
from mistere.data.roles import label_of_role

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

REQUIRED_COLUMNS = ("dialogue_id", "turn", "label")
OPTIONAL_COLUMNS = ("role", "language")
"""Columns of text that a shard has only where one of its rows has a value; also the attributes of :class:`Utterance`."""
ROWS_PER_GROUP = 128
Info = TypeVar("Info", bound="DatasetInfo")
_SHARD_NAME = re.compile(r"^(train|dev|test)-.*\.parquet$")


def modality_name_problem(name: str) -> str:
    """Why a name cannot be that of a further modality, as a clause; empty if it can. A profile has the same rule."""
    problem = "is there without being declared" if name in IMPLICIT_KINDS else name_problem(name)
    return f"{shown(name)} cannot be the name of a modality, as it {problem}: choose another name" if problem else ""


class DatasetInfo(BaseModel):
    """``dataset.yaml``: the description of a dataset."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    labels: list[str] = Field(min_length=2)
    language: str
    licence: str
    splits: str = Field(description="How the splits were made, in a sentence.")
    speaker_disjoint: bool
    synthetic: bool = False
    source: str = ""
    modalities: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda modalities: not modalities,  # the files of a dataset without it keep their digest
        description="Kinds of the modalities beside speech and text: ``face: frames``. Each is a column of its name.",
    )
    predict_roles: list[str] = Field(
        default_factory=list,
        exclude_if=lambda roles: not roles,  # the files of a dataset without it keep their digest
        description="Roles whose turns are predicted; turns of all other roles are context. Empty: every turn is predicted.",
    )

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every modality, of speech and text too."""
        return {**IMPLICIT_KINDS, **self.modalities}

    @field_validator("predict_roles")
    @classmethod
    def _roles_are_names(cls, roles: list[str]) -> list[str]:
        if len(set(roles)) != len(roles):
            raise ValueError("each role may be named once")
        if any(not role.strip() for role in roles):
            raise ValueError("a role is a word")
        return roles

    @field_validator("labels")
    @classmethod
    def _labels_are_names(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise ValueError("each label may be named once")
        if any(not label.strip() or "," in label for label in labels):
            raise ValueError("a label is a word without commas")
        return labels

    @field_validator("modalities")
    @classmethod
    def _modalities_are_known(cls, modalities: dict[str, str]) -> dict[str, str]:
        for name, kind in modalities.items():
            if problem := modality_name_problem(name):
                raise ValueError(problem)
            try:
                kind_of(kind)
            except UsageError as error:
                raise ValueError(f"{name}: {str(error).removesuffix('.')}") from error
        return modalities


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row.

    ``label`` is None for a turn that is only context for its neighbours. ``audio`` holds an encoded file of an accepted format.
    ``speaker`` is used only to check the splits; ``role`` decides whether the turn is predicted (:func:`~mistere.data.roles.label_of_role`).
    ``language`` is a tag such as ``en``, where it is not the dataset's.

    ``others`` holds the cells of further modalities by name, as their kinds read them; :func:`mistere.common.modalities.cell_of`
    returns the one of any modality.
    """

    dialogue_id: str
    turn: int
    label: str | None
    text: str | None = None
    audio: bytes | None = None
    speaker: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)
    role: str | None = None
    language: str | None = None

    def with_cell(self, modality: str, cell: Any) -> Utterance:
        """The utterance with another value of a modality."""
        if modality == SPEECH:
            return replace(self, audio=cell)
        if modality == TEXT:
            return replace(self, text=cell)
        return replace(self, others={**self.others, modality: cell})


def schema(modalities: Mapping[str, str] | None = None, optional: Collection[str] = ()) -> pa.Schema:
    """The parquet schema that :func:`~mistere.data.dataset_writer.write_dataset` writes; ``audio`` is the Hugging Face ``Audio`` struct.

    Args:
        modalities: the kinds of further modalities, whose columns follow the others.
        optional: which of :data:`OPTIONAL_COLUMNS` it has.
    """
    import pyarrow as pa

    further = [(kind_of(kind).column(name), kind_of(kind).arrow_type()) for name, kind in (modalities or {}).items()]
    return pa.schema(
        [
            ("dialogue_id", pa.string()),
            ("turn", pa.int32()),
            ("text", kind_of("text").arrow_type()),
            ("audio", kind_of("audio").arrow_type()),
            ("label", pa.string()),
            ("speaker", pa.string()),
            *((name, pa.string()) for name in OPTIONAL_COLUMNS if name in optional),
            *further,
        ]
    )


def load_info(path: Path, name: str = "") -> DatasetInfo:
    """Read ``dataset.yaml``; the arguments and errors are those of :func:`load_info_as`."""
    return load_info_as(DatasetInfo, path, name)


def load_info_as(cls: type[Info], path: Path, name: str = "") -> Info:
    """Read ``dataset.yaml``.

    Args:
        cls: the description, or one that requires less.
        path: the file.
        name: name of the file in errors; by default its path.

    Raises:
        UsageError: the file is missing, so the folder is not a dataset.
        DataError: it is not YAML, or lacks or misspells a field.
    """
    name = name or str(path)
    if not path.is_file():
        raise UsageError(f"{name} is missing: a dataset folder needs a dataset.yaml beside its parquet shards.")
    try:
        return cls.model_validate(read_yaml(path))
    except ParseError as error:
        raise DataError(f"{name} is not readable YAML ({error}): correct it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{name}: {field}: {first['msg']}; correct it.") from error


def split_of(shard: str) -> Split | None:
    """The split of a shard by its file name; None if the file is not a shard."""
    match = _SHARD_NAME.match(Path(shard).name)
    return match.group(1) if match else None  # type: ignore[return-value]


def shards_of(files: Iterable[Path], split: Split) -> list[Path]:
    """The shards of one split in name order, which is the order of their rows."""
    return sorted((file for file in files if split_of(file.name) == split), key=lambda file: file.name)


def read_batches(
    shards: Sequence[Path],
    columns: Sequence[str] | None = None,
    batch_rows: int = ROWS_PER_GROUP,
    rows: tuple[int, int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream record batches of at most ``batch_rows`` rows; at most one row group is in memory.

    Columns that a shard lacks are left out, so optional ones need no special case. ``rows`` limits the rows of each shard to a
    half-open range; row groups outside it are skipped.

    Raises:
        DataError: a shard is not readable parquet.
        OSError: it is missing, or may not be read.
    """
    for shard in shards:
        try:
            with open_parquet(shard) as file:
                present = set(file.schema_arrow.names)
                wanted = None if columns is None else [name for name in columns if name in present]
                yield from _row_batches(file, shard, wanted, batch_rows, *(rows or (0, file.metadata.num_rows)))
        except (ParseError, OSError) as error:
            if getattr(error, "errno", None):  # of the disk; arrow's own have no number
                raise
            raise DataError(
                f"{shard.name} is not readable parquet ({str(error).splitlines()[0]}): fetch it again, or import the "
                "dataset again."
            ) from error


def _row_batches(
    file: pq.ParquetFile, shard: Path, columns: list[str] | None, batch_rows: int, start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """The batches of the rows from ``start`` to ``stop``; row groups outside of them are not read."""
    offsets, first = {}, 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if first < stop and last > start:
            offsets[group] = first
        first = last
    for group, batch in row_batches(file, shard, columns, batch_rows, list(offsets)):
        offset = offsets[group]
        inside = batch.slice(max(0, start - offset), max(0, min(stop, offset + len(batch)) - max(start, offset)))
        offsets[group] += len(batch)
        if len(inside):
            yield inside


def read_utterances(
    shards: Sequence[Path],
    *,
    modalities: Mapping[str, str] = IMPLICIT_KINDS,
    dialogues: frozenset[str] | None = None,
    without: frozenset[str] = frozenset(),
    rows: tuple[int, int] | None = None,
    predict_roles: Collection[str] = (),
    labelled: bool = True,
) -> Iterator[Utterance]:
    """Stream the utterances of shards, in file order.

    Args:
        shards: parquet files, in order.
        modalities: the modalities to read and their kinds. Audio and images are the bulk of the data.
        dialogues: keep only these dialogues; None keeps all.
        without: leave these dialogues out.
        rows: half-open range of rows to read of each shard; None reads all.
        predict_roles: turns of other roles get no label; empty leaves all labels as they are.
        labelled: whether the rows have labels; without, the column is not read and need not be there.

    Raises:
        DataError: a required column is missing, a column is of another kind, or a shard is unreadable.
    """
    kind_columns = (kind_of(kind).column(name) for name, kind in modalities.items())
    required = [name for name in REQUIRED_COLUMNS if labelled or name != "label"]
    columns = [*required, *kind_columns, "speaker", *OPTIONAL_COLUMNS]
    for batch in read_batches(shards, columns, rows=rows):
        present = set(batch.schema.names)
        missing = [name for name in required if name not in present]
        if missing:
            raise DataError(f"a shard lacks the column {missing[0]!r}; every utterance needs one.")
        absent = [None] * len(batch)
        names, turns = (batch.column(name).to_pylist() for name in ("dialogue_id", "turn"))
        labels = batch.column("label").to_pylist() if labelled else absent
        speakers = batch.column("speaker").to_pylist() if "speaker" in present else absent
        optional = {
            column: batch.column(column).to_pylist() if column in present else absent for column in OPTIONAL_COLUMNS
        }
        cells = {name: _cells(batch, name, kind) for name, kind in modalities.items()}
        texts, clips = cells.pop(TEXT, absent), cells.pop(SPEECH, absent)
        for index, name in enumerate(names):
            if name not in without and (dialogues is None or name in dialogues):
                yield Utterance(
                    dialogue_id=name,
                    turn=turns[index],
                    label=label_of_role(labels[index], optional["role"][index], predict_roles),
                    text=texts[index],
                    audio=clips[index],
                    speaker=speakers[index],
                    others={other: values[index] for other, values in cells.items() if values[index] is not None},
                    **{column: values[index] for column, values in optional.items()},
                )


def _cells(batch: pa.RecordBatch, modality: str, kind_name: str) -> list[Any]:
    """The cells of a modality; None everywhere if the shard has no such column."""
    kind = kind_of(kind_name)
    column = kind.column(modality)
    if column not in batch.schema.names:
        return [None] * len(batch)
    values = batch.column(column)
    if not kind.can_read(values.type):
        raise DataError(
            f"the column {column!r} of a shard is {values.type}; for the modality {modality} it must be {kind.stored_as}: write it "
            "again, or correct the kind in dataset.yaml."
        )
    return kind.cells(values)
