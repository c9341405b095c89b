"""Open the folder of ``--embeddings``: imported embeddings, or the output directory of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mistere.artifacts.identities import EncoderIdentity
from mistere.artifacts.io import ArtifactHandle, open_artifact
from mistere.artifacts.manifest import Manifest, canonical_digest
from mistere.artifacts.manifests import DataProfile, EmbeddingSet, UtteranceSet, ValidationReport
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.common.processes.command_line import command_line
from mistere.config.modalities import modalities_of
from mistere.model.embeddings import EmbeddedDialogues
from mistere.runs.outcome import read_run_info

ENCODERS_FILE = "encoders.json"
"""In a folder of imported embeddings, optional: modality → a text that identifies the encoder, for example its digest."""

_LONGEST_DIGEST = 200
M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class EmbeddingSource:
    """Embeddings, and what is known of their origin.

    Attributes:
        data: the embeddings.
        name: of the dataset, or of the folder.
        encoders: what made the vectors, by modality; without a digest where it is unknown.
        utterances: the dataset, if a run embedded it.
        validation: its validation, if a run embedded it.
        profile: its statistics, if a run embedded it.
    """

    data: EmbeddedDialogues
    name: str
    encoders: Mapping[str, EncoderIdentity]
    utterances: UtteranceSet | None = None
    validation: ValidationReport | None = None
    profile: ArtifactHandle[DataProfile] | None = None


def open_source(directory: Path) -> EmbeddedDialogues:
    """Open the embeddings in a folder.

    Raises:
        UsageError: the embeddings are invalid or missing.
    """
    return inspect_source(directory).data


def inspect_source(directory: Path) -> EmbeddingSource:
    """Open the embeddings in a folder, with what is known of their origin.

    Raises:
        UsageError: the embeddings are invalid or missing.
    """
    if (directory / "store").is_dir():
        return _run_source(directory)
    from pipelines.cli.experiments.imported_embeddings import open_embeddings

    data = open_embeddings(directory)
    test = _test_digest(data)
    named = _named_encoders(directory / ENCODERS_FILE, list(data.dimensions))
    encoders = {name: EncoderIdentity(digest=named.get(name, ""), test_digest=test) for name in data.dimensions}
    return EmbeddingSource(data, directory.resolve().name, encoders)


def _run_source(output: Path) -> EmbeddingSource:
    """The embeddings of the newest run in an output directory that has extracted them.

    Raises:
        UsageError: no run has extracted embeddings.
    """
    store = LocalStore(output / "store")
    runs = store.local_path("runs")
    for run in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else []:
        modalities = modalities_of(read_run_info(store, run.name).get("config") or {})
        records = [run / "stages" / f"extract_embeddings-{modality}.json" for modality in modalities]
        if all(record.is_file() for record in records):
            digests = [read_json(record)["outputs"].get("embeddings") for record in records]
            if all(digests):
                sets = [open_artifact(store, EmbeddingSet, digest) for digest in digests]
                encoders = {str(one.manifest.modality): one.manifest.encoder for one in sets if not one.manifest.absent}
                utterances = _output(store, run, UtteranceSet, "accepted")
                validation = _output(store, run, ValidationReport, "report")
                return EmbeddingSource(
                    EmbeddedDialogues.open(sets),
                    utterances.manifest.name if utterances else output.resolve().name,
                    encoders,
                    utterances.manifest if utterances else None,
                    validation.manifest if validation else None,
                    _output(store, run, DataProfile, "profile"),
                )
    raise UsageError(
        f"{output}: no run in it has extracted embeddings: start one with "
        f"`{command_line('mistere', 'run', '--output', output)}`."
    )


def _output(store: LocalStore, run: Path, cls: type[M], name: str) -> ArtifactHandle[M] | None:
    """An output of the run's validation; None if it is missing or damaged."""
    try:
        return open_artifact(store, cls, read_json(run / "stages" / "validate_data.json")["outputs"][name])
    except (OSError, ParseError, LookupError, TypeError, ArtifactError):
        return None


def _test_digest(data: EmbeddedDialogues) -> str:
    """Identifies the test split by its dialogues and labels, so that mixtures on other vectors of it can be compared."""
    test = [[dialogue.dialogue_id, dialogue.labels.tolist()] for dialogue in data.split("test")]
    return canonical_digest({"labels": data.labels, "test": test})


def _named_encoders(file: Path, modalities: list[str]) -> dict[str, str]:
    """The encoders that a folder of imported embeddings names.

    Raises:
        UsageError: the file is invalid.
    """
    if not file.is_file():
        return {}
    form = f'write an object such as {{"{modalities[0]}": "DIGEST"}}, with modalities of this folder and one-line texts without commas'
    try:
        named = read_json(file)
    except (OSError, ParseError) as error:
        raise UsageError(f"{file} is not readable JSON: {form}.") from error
    valid = isinstance(named, dict) and all(
        name in modalities
        and isinstance(digest, str)
        and digest.isprintable()
        and "," not in digest
        and len(digest) <= _LONGEST_DIGEST
        for name, digest in named.items()
    )
    if not valid:
        raise UsageError(f"{file} does not name encoders: {form}.")
    return dict(named)
