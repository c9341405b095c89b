"""``pull_data``: fetch the dataset at its pinned DVC digest and write the reference that later stages read it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import DatasetShard, UtteranceSet
from mistere.common.errors import DataError, UsageError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS, Split
from mistere.config.data import DataConfig
from mistere.data.dataset import REQUIRED_COLUMNS, DatasetInfo, load_info, read_batches, split_of
from mistere.data.dvc_remote import RemoteData, selected_dialogues
from mistere.data.shard_modalities import shard_modalities
from mistere.engine.stage import Result, Stage, Step

STAGE = Stage(
    name="pull_data",
    config=DataConfig,
    outputs={"utterances": UtteranceSet},
    external_inputs=lambda _config, run: {"data_remote": run.data_remote},
    imports=("dvc.repo", "pyarrow.parquet"),
)


def run(config: DataConfig, step: Step, utterances: Path, data_digest: str) -> Result:
    """Fetch the dataset and describe it; the output is a reference, not a copy.

    Args:
        config: the ``data`` section.
        step: this execution.
        utterances: directory of the output artifact; stays empty.
        data_digest: the DVC digest that the run is pinned to.

    Raises:
        MistereError: the remote lacks an object, or holds a corrupt one.
        UsageError: the folder is not a dataset.
        DataError: it is not in the dataset form.
    """
    step.progress(f"pulling {data_digest[:12]} from {step.run.data_remote}")
    return Result(manifests={"utterances": describe(step.run.data_remote, data_digest, config.max_dialogues)})


def describe(remote: str, digest: str, max_dialogues: int | None = None) -> UtteranceSet:
    """Fetch a dataset version and describe it.

    Args:
        remote: the DVC remote.
        digest: the pinned digest of the folder.
        max_dialogues: see :func:`mistere.data.dvc_remote.selected_dialogues`.
    """
    data = RemoteData(remote, digest)
    listing = data.listing()
    home = _dataset_home(listing)
    wanted = {name: md5 for name, md5 in listing.items() if name.startswith(home) and "/" not in name[len(home) :]}
    files = data.fetch({name: md5 for name, md5 in wanted.items() if name == f"{home}dataset.yaml" or split_of(name)})
    info = load_info(files[f"{home}dataset.yaml"], f"{home}dataset.yaml")
    shard_files = {name: path for name, path in files.items() if split_of(name)}
    by_split: dict[Split, list[Path]] = {
        split: [path for name, path in sorted(shard_files.items()) if split_of(name) == split] for split in SPLITS
    }
    empty = [split for split, paths in by_split.items() if not paths]
    if empty:
        raise DataError(
            f"dataset {info.name!r} has no {empty[0]} split: expected {empty[0]}-*.parquet beside dataset.yaml."
        )
    facts = {name: _facts(name, path, info.kinds) for name, path in sorted(shard_files.items())}
    selection = selected_dialogues(by_split, max_dialogues)
    counts = {split: _count(paths, selection[split]) for split, paths in by_split.items()}
    shards = [
        DatasetShard(
            name=name,
            md5=wanted[name],
            size=path.stat().st_size,
            split=_split(name),
            rows=facts[name].rows,
        )
        for name, path in sorted(shard_files.items())
    ]
    return UtteranceSet(
        name=info.name,
        dvc_digest=digest,
        remote=remote,
        info_md5=wanted[f"{home}dataset.yaml"],
        labels=info.labels,
        description=info.description,
        language=info.language,
        licence=info.licence,
        speaker_disjoint=info.speaker_disjoint,
        synthetic=info.synthetic,
        shards=shards,
        rows={split: rows for split, (rows, _) in counts.items()},
        dialogues={split: dialogues for split, (_, dialogues) in counts.items()},
        modalities=[name for name in info.kinds if any(name in fact.modalities for fact in facts.values())],
        kinds=info.kinds,
        max_dialogues=max_dialogues,
        predict_roles=info.predict_roles,
        test_digest=_test_digest(info, shards, selection["test"]),
    )


@dataclass(frozen=True)
class _ShardFacts:
    rows: int
    modalities: frozenset[str]


def _split(name: str) -> Split:
    split = split_of(name)
    assert split is not None
    return split


def _dataset_home(listing: dict[str, str]) -> str:
    """The folder that holds ``dataset.yaml``, with a slash at the end: the tracked folder or one below it."""
    homes = [name.removesuffix("dataset.yaml") for name in listing if name.rsplit("/", 1)[-1] == "dataset.yaml"]
    if len(homes) != 1:
        listed = ", ".join(f"{home}dataset.yaml" for home in sorted(homes)) or "none"
        raise UsageError(f"the tracked folder must hold exactly one dataset.yaml beside its shards (found: {listed}).")
    return homes[0]


def _facts(name: str, path: Path, kinds: Mapping[str, str]) -> _ShardFacts:
    """Rows and modalities of a shard, from its footer; no data page is read."""
    try:
        with open_parquet(path) as file:
            metadata = file.metadata
    except (ParseError, OSError) as error:
        raise DataError(
            f"{name} is not readable parquet ({str(error).splitlines()[0]}): write it again, then `dvc add` and `dvc "
            "push`."
        ) from error
    columns = set(metadata.schema.to_arrow_schema().names)
    missing = [column for column in REQUIRED_COLUMNS if column not in columns]
    if missing:
        raise DataError(f"{name} lacks the column {missing[0]!r}: every utterance needs a value in it.")
    return _ShardFacts(metadata.num_rows, shard_modalities(metadata, kinds))


def _count(shards: list[Path], selection: frozenset[str] | None) -> tuple[int, int]:
    """Utterances and dialogues of a split after the selection."""
    rows, names = 0, set[str]()
    for batch in read_batches(shards, ["dialogue_id"], batch_rows=4096):
        chosen = [name for name in batch.column("dialogue_id").to_pylist() if selection is None or name in selection]
        rows += len(chosen)
        names.update(chosen)
    return rows, len(names)


def _test_digest(info: DatasetInfo, shards: list[DatasetShard], selection: frozenset[str] | None) -> str:
    content = {
        "labels": info.labels,
        "shards": [shard.md5 for shard in shards if shard.split == "test"],
        "dialogues": None if selection is None else sorted(selection),
    }
    if (
        info.predict_roles
    ):  # they decide which turns are predicted; without them the digest stays that of earlier releases
        content["predict_roles"] = sorted(info.predict_roles)
    return canonical_digest(content)
