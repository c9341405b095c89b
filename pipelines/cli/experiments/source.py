"""Open the folder of ``--embeddings``: imported embeddings, or the output directory of a finished run."""

from __future__ import annotations

from pathlib import Path

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.common.processes.command_line import command_line
from mistere.model.embeddings import EmbeddedDialogues


def open_source(directory: Path) -> EmbeddedDialogues:
    """Open the embeddings in a folder.

    Raises:
        UsageError: the embeddings are invalid or missing.
    """
    if (directory / "store").is_dir():
        return run_embeddings(directory)
    from pipelines.cli.experiments.imported_embeddings import open_embeddings

    return open_embeddings(directory)


def run_embeddings(output: Path) -> EmbeddedDialogues:
    """Open the embeddings of the newest run in an output directory that has extracted them.

    Raises:
        UsageError: no run has extracted embeddings.
    """
    from mistere.artifacts.io import open_artifact
    from mistere.artifacts.manifests import EmbeddingSet
    from mistere.artifacts.object_store import LocalStore
    from mistere.config.modalities import modalities_of
    from mistere.runs.outcome import read_run_info

    store = LocalStore(output / "store")
    runs = store.local_path("runs")
    for run in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else []:
        modalities = modalities_of(read_run_info(store, run.name).get("config") or {})
        records = [run / "stages" / f"extract_embeddings-{modality}.json" for modality in modalities]
        if all(record.is_file() for record in records):
            digests = [read_json(record)["outputs"].get("embeddings") for record in records]
            if all(digests):
                return EmbeddedDialogues.open([open_artifact(store, EmbeddingSet, digest) for digest in digests])
    raise UsageError(
        f"{output}: no run in it has extracted embeddings: start one with "
        f"`{command_line('mistere', 'run', '--output', output)}`."
    )
