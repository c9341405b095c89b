"""Check at a run's start what a later step would fail at after hours: the tracking server, the encoders' sources and the columns of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mistere.common.errors import MistereError, UsageError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.common.parsing.parquet import open_parquet
from mistere.config.loader import Config
from mistere.data.dataset import load_info, split_of
from mistere.data.dvc_remote import RemoteData
from mistere.data.shard_modalities import shard_modalities
from mistere.data.transcripts import TEXT_SOURCE
from mistere.engine.stage import load_stage
from mistere.kubernetes.current_pod import is_inside
from mistere.registry.mlflow.connection import check_tracking


def preflight(config: Config, tracking_uri: str, remote: str, digest: str) -> list[str]:
    """Check what the run needs from outside.

    Args:
        config: the complete configuration.
        tracking_uri: the MLflow server or database.
        remote: the DVC remote of the data.
        digest: of the data.

    Returns:
        Sentences about what the run leaves out.

    Raises:
        MistereError: the tracking server or an encoder's source is missing, refuses access or cannot be reached.
        UsageError: a column of ``evaluation.slices`` is missing, or a modality is not that of the data.
    """
    check_tracking(tracking_uri)
    kinds = _kinds(remote, digest)
    unused = _check_modalities(config, kinds) if kinds is not None else []
    _check_slices(config.evaluation.slices, remote, digest)
    check_encoder, check_transcription = (load_stage(name).preflight for name in ("finetune_encoder", "transcribe"))
    assert check_encoder is not None and check_transcription is not None
    check_transcription(config.data, "", not is_inside())
    for modality, settings in config.encoders().items():
        try:
            check_encoder(settings, modality, not is_inside())
        except MistereError:
            if kinds is None or modality in _modalities(remote, digest, kinds):
                raise  # of a modality that the dataset lacks, no encoder is loaded
    return unused


def _check_modalities(config: Config, kinds: Mapping[str, str]) -> list[str]:
    """Compare the modalities of a run with those that its dataset declares.

    Args:
        config: the complete configuration.
        kinds: kind of each modality of the dataset.

    Returns:
        A sentence for each modality that the dataset declares and the run does not use.
    """
    for name, settings in config.encoders().items():
        if name not in kinds:
            raise UsageError(
                f"modalities: the dataset has no {name} (it has {', '.join(kinds)}): declare it in dataset.yaml, or remove it from the "
                "profile."
            )
        if settings.kind and settings.kind != kinds[name]:
            raise UsageError(
                f"{name}.kind={settings.kind}: dataset.yaml says that {name} is {kinds[name]}: correct one of them."
            )
    further = [name for name in kinds if name not in IMPLICIT_KINDS and name not in config.modalities]
    return [f"the dataset's {name} is not used: the profile names no such modality." for name in further]


def _kinds(remote: str, digest: str) -> dict[str, str] | None:
    """Kind of each modality that the dataset may have; None if the data cannot be read, which ``pull_data`` reports."""
    try:
        data = RemoteData(remote, digest)
        (description,) = [
            (name, md5) for name, md5 in data.listing().items() if name.rsplit("/", 1)[-1] == "dataset.yaml"
        ]
        (file,) = data.fetch(dict([description])).values()
        return load_info(file).kinds
    except (MistereError, OSError, ValueError):
        return None


def _check_slices(names: Sequence[str], remote: str, digest: str) -> None:
    """Refuse a slice by a column that the only shard of test lacks.

    Of several shards none is fetched, as they may be larger than the step's disk; ``evaluate_model`` then finds the missing column. Data
    that cannot be read is left to ``pull_data``.
    """
    names = [name for name in names if name != TEXT_SOURCE]
    if not names:
        return
    try:
        data = RemoteData(remote, digest)
        shards = {name: md5 for name, md5 in data.listing().items() if split_of(name) == "test"}
        if len(shards) != 1:
            return
        with open_parquet(*data.fetch(shards).values()) as file:
            present = set(file.schema_arrow.names)
    except (MistereError, OSError, ValueError):
        return
    if missing := [name for name in names if name not in present]:
        raise UsageError(
            f"evaluation.slices: the test split has no column {missing[0]!r} (it has {', '.join(sorted(present))}): name an existing "
            "column, or remove it."
        )


def _modalities(remote: str, digest: str, kinds: Mapping[str, str]) -> frozenset[str]:
    """The modalities that the first shard of each split has; all if the data cannot be read."""
    try:
        data = RemoteData(remote, digest)
        shards: dict[str, tuple[str, str]] = {}
        for name, md5 in sorted(data.listing().items()):
            if split := split_of(name):
                shards.setdefault(split, (name, md5))
        present: set[str] = set()
        for path in data.fetch(dict(shards.values())).values():
            with open_parquet(path) as file:
                present |= shard_modalities(file.metadata, kinds)
        return frozenset(present)
    except (MistereError, OSError, ValueError):
        return frozenset(kinds)
