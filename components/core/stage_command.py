"""``python -m components.<stage>``: one stage by hand, on artifacts that lie in a store.

The same :func:`components.core.steps.execute` as in the pipeline, so the result is the same and is found by later runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

from components.core.artifact_io import MANIFEST, open_artifact
from components.core.errors import MistereError, UsageError
from components.core.manifests import Manifest
from components.core.stage import RunContext, Shard, Stage
from components.core.steps import execute
from components.core.store import ObjectStore, open_store


def main(stage: Stage, arguments: list[str] | None = None) -> None:
    """Parse, run, print the outputs' digests; exit with the error's code and its sentence."""
    parser = argparse.ArgumentParser(prog=f"python -m components.{stage.name}", description=__doc__)
    parser.add_argument("--store", required=True, help="the object store: a folder or s3://bucket/prefix")
    parser.add_argument("--run-id", default="by-hand", help="the run to record it under")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow")
    parser.add_argument("--data-remote", default="", help="the DVC remote")
    parser.add_argument("--data-digest", default="", help="the DVC digest")
    parser.add_argument("--config", type=Path, help="YAML with the stage's section")
    parser.add_argument("--modality", default="", choices=["", "speech", "text"])
    parser.add_argument(
        "--world", action="append", default=[], metavar="NAME=VALUE", help="a digest of the world outside"
    )
    if stage.sharded:
        parser.add_argument("--shard", default="1/1", metavar="N/OF", help="which share of the work")
    for name, kind in stage.inputs.items():
        several = "+" if name in stage.many else None
        parser.add_argument(
            f"--{name}", required=True, nargs=several, metavar="DIGEST", help=f"digest of the {kind.__name__}"
        )
    options = parser.parse_args(arguments)
    context = RunContext(
        run_id=options.run_id,
        store=options.store,
        tracking_uri=options.tracking_uri,
        data_remote=options.data_remote,
        data_digest=options.data_digest,
    )
    config = yaml.safe_load(options.config.read_text(encoding="utf-8")) if options.config else {}
    try:
        store = open_store(options.store)
        with tempfile.TemporaryDirectory() as scratch:
            inputs: dict[str, str | list[str]] = {}
            for name, kind in stage.inputs.items():
                given = getattr(options, name)
                digests = given if name in stage.many else [given]
                paths = [
                    _reference(store, kind, digest, Path(scratch) / f"{name}-{i}") for i, digest in enumerate(digests)
                ]
                inputs[name] = paths if name in stage.many else paths[0]
            outputs = {name: str(Path(scratch) / "out" / name) for name in stage.outputs}
            world = dict(item.split("=", 1) for item in options.world)
            values = execute(
                stage,
                context.model_dump(),
                config,
                inputs=inputs,
                outputs=outputs,
                world=world,
                modality=options.modality,
                shard=_shard(options.shard) if stage.sharded else None,
            )
            for name, path in outputs.items():
                kind = stage.outputs[name]
                print(f"{name}: {kind.model_validate_json((Path(path) / MANIFEST).read_text()).digest}")
    except MistereError as error:
        print(f"{stage.name}: {error}", file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    for name, value in values.items():
        print(f"{name}: {value}")


def _reference(store: ObjectStore, kind: type[Manifest], digest: str, folder: Path) -> str:
    """An artifact's manifest in a folder, as the pipeline hands it from task to task."""
    folder.mkdir()
    text = open_artifact(store, kind, digest).manifest.model_dump_json()
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return str(folder)


def _shard(text: str) -> Shard:
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {text}: write it as N/OF, for example 2/4.")
    return Shard(int(number) - 1, int(of))
