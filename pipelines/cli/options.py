"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str, typer.Option(help="Settings to start from: a file of pipelines/profiles, or a YAML file of your own.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")
]
Output = Annotated[Path, typer.Option(help="Folder for the store, the registry and the runs' reports.")]

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
