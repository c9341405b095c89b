"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str, typer.Option(help="Base settings: the name of a file in pipelines/profiles, or a path to a YAML file.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")
]
Output = Annotated[Path, typer.Option(help="Directory of the store, the registry and the runs' reports.")]
StoreLocation = Annotated[
    str | None,
    typer.Option("--store", help="A directory or s3://…; by default MISTERE_STORE, or the output directory's store."),
]

Host = Annotated[
    str | None, typer.Option(metavar="URL", help="Kubeflow Pipelines; KFP_ENDPOINT, or cluster.host, by default.")
]
ClusterStore = Annotated[
    str | None,
    typer.Option("--store", metavar="S3", help="s3://bucket/prefix; MISTERE_STORE, or cluster.store, by default."),
]
ClusterTracking = Annotated[
    str | None,
    typer.Option("--tracking", metavar="URI", help="MLflow; MLFLOW_TRACKING_URI, or cluster.tracking_uri, by default."),
]
