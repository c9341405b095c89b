"""Check at a run's start what a later step would fail at after hours: the tracking server, the encoders' sources and the columns of slices."""

from __future__ import annotations

from collections.abc import Sequence

from mistere.common.errors import MistereError, UsageError
from mistere.common.parsing.parquet import open_parquet
from mistere.config.loader import Config
from mistere.data.dataset import split_of
from mistere.data.dvc_remote import RemoteData
from mistere.data.shard_modalities import shard_modalities
from mistere.engine.stage import load_stage
from mistere.kubernetes.current_pod import is_inside
from mistere.registry.mlflow_connection import check_tracking


def preflight(config: Config, tracking_uri: str, remote: str, digest: str) -> None:
    """Check what the run needs from outside.

    Args:
        config: the complete configuration.
        tracking_uri: the MLflow server or database.
        remote: the DVC remote of the data.
        digest: of the data.

    Raises:
        MistereError: the tracking server or an encoder's source is missing, refuses access or cannot be reached.
        UsageError: a column of ``evaluation.slices`` is missing.
    """
    check_tracking(tracking_uri)
    _check_slices(config.evaluation.slices, remote, digest)
    check_encoder = load_stage("finetune_encoder").preflight
    assert check_encoder is not None
    for modality, settings in config.encoders().items():
        try:
            check_encoder(settings, modality, not is_inside())
        except MistereError:
            if modality in _modalities(remote, digest):
                raise  # of a modality that the dataset lacks, no encoder is loaded


def _check_slices(names: Sequence[str], remote: str, digest: str) -> None:
    """Refuse a slice by a column that the only shard of test lacks.

    Of several shards none is fetched, as they may be larger than the step's disk; ``evaluate_model`` then finds the missing column. Data
    that cannot be read is left to ``pull_data``.
    """
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


def _modalities(remote: str, digest: str) -> frozenset[str]:
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
                present |= shard_modalities(file.metadata)
        return frozenset(present)
    except (MistereError, OSError, ValueError):
        return frozenset(MODALITIES)
