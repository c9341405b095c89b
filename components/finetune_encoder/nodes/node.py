"""``python -m components.finetune_encoder.nodes.node STORE PREFIX``: one node of a TrainJob.

It downloads the step's input under the prefix, the base weights and the checkpoints once for all its processes, and trains with
torchrun, to which Kubeflow Trainer passes the other nodes (``PET_…`` variables). The node of the first process uploads weights
and curve. A failure that a retry would not help is written to the store; otherwise the node ends with an error, Kubernetes
restarts it, and it resumes from the last checkpoint.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from components.finetune_encoder.processes.torchrun import Failure, run_torchrun
from components.finetune_encoder.processes.worker import CURVE
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import BaseEncoder
from mistere.artifacts.object_store import ObjectStore, UnreachableError, open_store
from mistere.common.errors import ArtifactError, ExitCode, MistereError
from mistere.common.names import path_below
from mistere.common.parsing.documents import load_json
from mistere.common.processes.standard_streams import guard_streams
from mistere.engine.usage_meter import UsageMeter
from mistere.kubernetes.secret_keys import use_storage_variables

JOB = "job.json"
"""Under the prefix: ``training``, a :class:`~components.finetune_encoder.training.job.TrainingJob` whose paths the node
sets, and ``base_digest``."""
SPOOLS = ("train", "dev")
"""Under the prefix: folders with the prepared utterances."""
WEIGHTS = "tuned.safetensors"
FAILURES = "failures"
"""Under the prefix: a file for each node that failed."""
USAGES = "usage"
"""Under the prefix: a file for each start of a node that ended, with what it used."""

_RANK = "PET_NODE_RANK"
_OPTIONS = ("--rdzv-conf=timeout=3600",)
"""Nodes wait an hour for each other, since their machines may become available at different times."""
_PATIENCE = (10.0, 60.0, 300.0)


def main(uri: str, prefix: str) -> int:
    """Train as one of several nodes; returns the exit code."""
    meter = UsageMeter()
    use_storage_variables()
    guard_streams()
    store = open_store(uri)
    failures: list[Failure]
    with tempfile.TemporaryDirectory() as directory:
        try:
            job = _fetch(store, prefix, Path(directory))
            failures = run_torchrun(job, _OPTIONS)
            if not failures and job.with_name(CURVE).is_file():
                _upload_results(store, prefix, job.parent)
        except UnreachableError as error:
            failures = [{"message": str(error), "passing": True}]
        except MistereError as error:
            failures = [{"message": str(error), "exit_code": int(error.exit_code)}]
    for failure in failures:
        print(failure.get("message", "a batch does not fit into the device's memory"), file=sys.stderr, flush=True)
    lasting = [failure for failure in failures if not failure.get("passing") and not failure.get("terminated")]
    if lasting:
        store.write(f"{prefix}/{FAILURES}/{os.environ.get(_RANK, '0')}.json", json.dumps(lasting).encode())
    with suppress(MistereError):  # the costs of a run are no reason to lose it
        store.write(f"{prefix}/{USAGES}/{secrets.token_hex(8)}.json", meter.usage().model_dump_json().encode())
    return ExitCode.ERROR if failures else 0


def _fetch(store: ObjectStore, prefix: str, folder: Path) -> Path:
    """Download everything to this machine; returns the job's file."""
    content = load_json(store.read(f"{prefix}/{JOB}")[0])
    training = content["training"]
    for spool in SPOOLS:
        for key in store.keys(f"{prefix}/{spool}"):
            name = key.rsplit("/", 1)[-1]
            store.download(key, path_below(folder / spool, name, store.location(f"{prefix}/{spool}"), ArtifactError))
        training[spool] = str(folder / spool)
    training["base"] = str(open_artifact(store, BaseEncoder, content["base_digest"]).path)
    training["output"] = str(folder)
    Checkpoints(store, "finetune_encoder", training["key"]).restore()
    job = folder / JOB
    job.write_text(json.dumps(training), encoding="utf-8")
    return job


def _upload_results(store: ObjectStore, prefix: str, folder: Path) -> None:
    """Upload the results, with retries: the other nodes have ended, so this one could not train again alone."""
    for wait in (*_PATIENCE, None):
        try:
            for name in (WEIGHTS, CURVE):
                store.upload(folder / name, f"{prefix}/{name}")
            return
        except UnreachableError:
            if wait is None:
                raise
            time.sleep(wait)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
