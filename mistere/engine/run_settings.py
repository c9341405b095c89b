"""The context of a run on Kubeflow Pipelines, completed from the ConfigMap of its namespace.

``mistere submit`` and ``mistere schedule`` pass a complete context. A run that another client starts may pass a part of it or
nothing: the rest comes from the ConfigMap ``mistere-settings``, which the pods of ``resolve_inputs`` and ``report_run`` have in
their environment, and from the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError, create_model

from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import UsageError
from mistere.common.names import problem
from mistere.common.suggestions import did_you_mean
from mistere.common.urls import has_credentials
from mistere.config.loader import Config
from mistere.engine.stage import RunContext, load_stage
from mistere.kubernetes.current_pod import is_inside
from mistere.kubernetes.settings_keys import DATA_DIGEST, DATA_REMOTE, NAMESPACE, SETTINGS_MAP

AFFECTS_RESULTS = False

COMMIT, VERSION = "MISTERE_COMMIT", "MISTERE_VERSION"
"""Environment variables of the images: the commit of their source, and its version, with ``-dirty`` if it was not committed."""

_VARIABLES: Final = {
    "store": STORE_VARIABLE,
    "tracking_uri": TRACKING_VARIABLE,
    "data_remote": DATA_REMOTE,
    "data_digest": DATA_DIGEST,
}
_EXAMPLES: Final = {"store": "s3://bucket/prefix", "tracking_uri": "https://mlflow.example.org"}
"""What a run cannot do without; without data it uses the latest published data."""


def is_complete(run: Mapping[str, Any]) -> bool:
    """Whether the context is one of ``mistere``, to which nothing is added: it names its id, store and tracking server."""
    return all(run.get(name) for name in ("run_id", *_EXAMPLES))


def run_context(run: Mapping[str, Any], job: str, profile: str = "", *, takes_data: bool = True) -> RunContext:
    """The context of the current run.

    All runs of a schedule get the same context; the id that Kubeflow Pipelines gives each run distinguishes them.

    Args:
        run: the context that the pipeline received; may be empty or incomplete.
        job: the id of this run in Kubeflow Pipelines, or in kfp's local runner.
        profile: the profile that the pipeline was compiled from.
        takes_data: whether the run uses the ConfigMap's data if it names none.

    Raises:
        UsageError: the context has an unknown field, lacks one that the ConfigMap lacks too, contains credentials, or gets no id.
    """
    given = {name: value for name, value in run.items() if value not in ("", None)}
    for name in given:
        if name not in RunContext.model_fields:
            raise UsageError(f"run: there is no field {name!r}{did_you_mean(name, RunContext.model_fields)}")
    if not is_complete(given):
        given = _completed(given, job, profile, takes_data)
    try:
        context = RunContext.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"run: {'.'.join(map(str, first['loc']))}: {first['msg']}; correct the setting.") from error
    if has_credentials(context.tracking_uri):
        raise UsageError(
            f"tracking_uri {context.tracking_uri} contains credentials: remove them, and put them into the secret of the tracking "
            "server (cluster.tracking_secret)."
        )
    if has_credentials(context.data_remote):
        raise UsageError(
            f"data_remote {context.data_remote} contains credentials: remove them, and put them into the secret of the store "
            "(cluster.storage_secret)."
        )
    if context.schedule:
        return context.model_copy(update={"run_id": f"{context.run_id}-{_checked(job)}"})
    return context


def declared_config() -> type[Config]:
    """The configuration with the settings that gate rules and expectations declare.

    Stages do not import each other, so their declarations are loaded by name.
    """
    stages = {"validation": "validate_data", "gate": "gate_model"}
    declared = {section: load_stage(stage).config for section, stage in stages.items()}
    fields: dict[str, Any] = {section: (config, config()) for section, config in declared.items()}
    return create_model("RunConfig", __base__=Config, **fields)


def deployment_namespace() -> str:
    """The namespace of the predictor, if the ConfigMap names one."""
    return os.environ.get(NAMESPACE, "").strip()


def _completed(given: Mapping[str, Any], job: str, profile: str, takes_data: bool) -> dict[str, Any]:
    """The fields of an incomplete context, with what the ConfigMap and the image add."""
    settings = {name: os.environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
    # Of one version: never the digest of one and the remote of another.
    if not takes_data or "data_digest" in given or "data_remote" in given:
        settings.update(data_digest="", data_remote="")
    fields: dict[str, Any] = {name: value for name, value in settings.items() if value} | dict(given)
    missing = [name for name in _EXAMPLES if name not in fields]
    if missing:
        example = json.dumps({name: _EXAMPLES[name] for name in missing})
        raise UsageError(
            f"this run does not know its {' and '.join(missing)}: set {' and '.join(_VARIABLES[name] for name in missing)} in the "
            f"ConfigMap {SETTINGS_MAP} of the run's namespace, or give the pipeline's parameter run as {example}."
        )
    if ("data_digest" in fields) != ("data_remote" in fields):
        raise UsageError(
            f"this run has only one of data_digest ({DATA_DIGEST}) and data_remote ({DATA_REMOTE}): set both in the ConfigMap "
            f"{SETTINGS_MAP}, or neither for the latest published data."
        )
    if is_inside() and not str(fields["store"]).startswith("s3://"):
        raise UsageError(f"the store {fields['store']} is a folder of the pod: name s3://bucket/prefix.")
    commit = os.environ.get(COMMIT, "").strip()
    code = {"commit": commit, "dirty": os.environ.get(VERSION, "").endswith("-dirty")} if commit else {}
    return {"run_id": given.get("run_id") or _checked(job), "profile": profile, **code, **fields}


def _checked(job: str) -> str:
    """The id, unless Kubeflow Pipelines left its placeholder in place."""
    if not job or "{" in job or problem(job) or "/" in job:
        raise UsageError(
            "this Kubeflow Pipelines does not pass its id to a run, which a run without `run_id` and a scheduled run need: upgrade it "
            "to 2.0.2 or later."
        )
    return job
