"""Generates the reference pages from the code when the documentation is built, so that they cannot be out of date.

An mkdocs hook (see ``mkdocs.yml``). Each page is a function that returns Markdown; :func:`on_files` adds the pages to the
site. ``python docs/hooks/reference.py`` prints them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import click
import typer

ROOT = Path(__file__).resolve().parents[2]

EXIT_CODES = {
    "DEPLOYED": ("success", "The command did what it should; for a run: the model is deployed."),
    "ERROR": ("error", "Something failed: a service, a file, a step. The message says what, where and how to fix it."),
    "USAGE": (
        "usage",
        "An argument, option or setting is wrong, needs an optional package or program that is not installed, or needs a released model and there is none.",
    ),
    "NOT_PROMOTED": (
        "not promoted",
        "The release gate held or rejected the model, `mistere replay` found a difference, `mistere robustness --max-loss` a loss, or a student or an exported model may be worse than its margin allows.",
    ),
    "DATA_REJECTED": ("data rejected", "The dataset is wrong: validation rejected it, or it cannot be read."),
    "DIFFERENT": (
        "different",
        "`mistere schedule diff` or `mistere shadow report` found a difference, or `mistere monitor` found that the traffic has drifted.",
    ),
    "WAITING": (
        "waiting",
        "The gate lets the model pass, and it waits for `mistere approve` (`registry.release: approval`); or `mistere shadow report` has compared too little to say.",
    ),
    "INTERRUPTED": ("interrupted", "Ctrl-C, or SIGTERM or SIGHUP, ended the command."),
}

VARIABLES = {
    "MISTERE_STORE": "The object store: a folder or `s3://bucket/prefix`. Default of `--store`.",
    "MISTERE_DATA_REMOTE": "The DVC remote of runs that other clients than `mistere` start; with `MISTERE_DATA_DIGEST`.",
    "MISTERE_DATA_DIGEST": "The DVC digest of the data of such runs. Without it they use the latest published data.",
    "MISTERE_NAMESPACE": "The predictor's namespace of such runs. Without it, that of the compiled profile.",
    "MISTERE_COMMIT": "The commit that an image was built from. Set in the image.",
    "MISTERE_VERSION": "The version of the code in an image, with `-dirty` if it was not committed. Set in the image.",
    "MISTERE_CACHE": "The cache of downloaded weights and data. Default: `$XDG_CACHE_HOME/mistere`, or `~/.cache/mistere`.",
    "MISTERE_ACTOR": "The name written into the promotion log. Default: the user and the host.",
    "MISTERE_RETRIES": "How often a step may be tried again in a run. Set in pods from `cluster.steps.STEP.retries`.",
    "MISTERE_EVENTS": "A file to which stages write their progress as JSON lines. Set by `mistere run`.",
    "MISTERE_OSV_URL": "The database of vulnerabilities that `make check` asks, with the interface of OSV. Default: the public one.",
    "MISTERE_CREDENTIALS": "Addresses with their passwords, for the processes of a run, as JSON. Set by `mistere run`; treated as a secret.",
    "MISTERE_RUNNER_LOCK": "The lock that the process of a local run's pipeline holds: a stage ends when it is free. Set by `mistere run`.",
    "MISTERE_STAGES_LOCK": "The lock that the stages of a local run share: the next run waits for it. Set by `mistere run`.",
    "MISTERE_DATA_ENDPOINT": "The S3 endpoint of the DVC remote, if it is not that of the store.",
    "MISTERE_SIGNING_KEY": "A private key (PEM, elliptic curve) with which bundles are signed.",
    "MISTERE_VERIFYING_KEY": "A public key (PEM), as text or as the path of a file. If set, unsigned bundles are refused.",
    "REGISTRY_AUTH_FILE": "A file with the logins of container registries, to read the signatures of images. Default: Podman's and Docker's files.",
    "XDG_RUNTIME_DIR": "The folder below which Podman keeps the logins of container registries.",
    "DOCKER_CONFIG": "The folder of Docker's `config.json`, with the logins of container registries.",
    "COSIGN_PASSWORD": "The password of the private key of `python -m pipelines.sign_images`.",
    "MISTERE_WEBHOOK_URL": "The webhook that is notified how a run ended. Treated as a secret.",
    "MLFLOW_TRACKING_URI": "The MLflow server. Default of `--tracking`.",
    "MLFLOW_TRACKING_USERNAME": "User of the MLflow server.",
    "MLFLOW_TRACKING_PASSWORD": "Password of the MLflow server.",
    "MLFLOW_TRACKING_TOKEN": "Token of the MLflow server, instead of user and password.",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "How often MLflow's client repeats a request. Default: 1 (MLflow's own: 7).",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "Seconds to wait for each answer of the MLflow server, at most 10 for a database. Default: 30 (MLflow's own: 120).",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "Whether to wait as long as the MLflow server demands before a repetition. Default: `false`.",
    "MLFLOW_LOGGING_LEVEL": "Level of the messages of MLflow's client. Default: `WARNING` (MLflow's own: `INFO`).",
    "PGCONNECT_TIMEOUT": "Seconds to wait for a connection to PostgreSQL. Default: 10.",
    "MLFLOW_DISABLE_TELEMETRY": "Set by mistere: MLflow sends no telemetry.",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "Set by mistere: MLflow's client prints no links of its own.",
    "KFP_ENDPOINT": "The address of Kubeflow Pipelines. Default of `--host`.",
    "KFP_UI_ENDPOINT": "The address of the user interface of Kubeflow Pipelines, for links to runs. Default: `cluster.ui`, then `KFP_ENDPOINT`.",
    "KFP_TOKEN": "The bearer token for Kubeflow Pipelines.",
    "KF_PIPELINES_SA_TOKEN_PATH": "A file with the token for Kubeflow Pipelines, if `KFP_TOKEN` is not set.",
    "KFP_POD_NAME": "The name of the step's pod. Set by Kubeflow Pipelines.",
    "KUBECONFIG": "The kubeconfig for the Kubernetes API outside a cluster.",
    "KUBERNETES_SERVICE_HOST": "The Kubernetes API inside a pod. Set by Kubernetes.",
    "AWS_ACCESS_KEY_ID": "Credentials for S3.",
    "AWS_SECRET_ACCESS_KEY": "Credentials for S3.",
    "AWS_SESSION_TOKEN": "Token of temporary credentials for S3.",
    "AWS_REGION": "The region of the bucket.",
    "AWS_DEFAULT_REGION": "The same, for the S3 client. Set in pods from `MISTERE_S3_REGION`.",
    "AWS_ENDPOINT_URL": "The address of the S3 service, if it is not that of AWS.",
    "AWS_MAX_ATTEMPTS": "How often the S3 client tries a request that the store postpones or does not answer. Default: 5.",
    "AWS_CA_BUNDLE": "A file of trusted certificate authorities, for S3.",
    "AWS_RETRY_MODE": "How the S3 client repeats requests: `standard`, `adaptive` or `legacy`.",
    "AWS_EC2_METADATA_DISABLED": "`true`: the S3 client does not ask the machine's metadata service for credentials.",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "`when_required` for S3 services that refuse the client's checksums.",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "`when_required` for S3 services without checksums.",
    "AWS_STS_REGIONAL_ENDPOINTS": "`regional` or `legacy`: where a cloud identity gets its credentials.",
    "AWS_USE_DUALSTACK_ENDPOINT": "`true`: use AWS by IPv6, too.",
    "AWS_USE_FIPS_ENDPOINT": "`true`: use the FIPS endpoints of AWS.",
    "MISTERE_S3_TIMEOUT": "Seconds to wait for each answer of an S3 server. Default: 30.",
    "MISTERE_S3_ACCESS_KEY_ID": "In pods: the storage secret's `AWS_ACCESS_KEY_ID`; the same for the following.",
    "MISTERE_S3_SECRET_ACCESS_KEY": "In pods: `AWS_SECRET_ACCESS_KEY`.",
    "MISTERE_S3_SESSION_TOKEN": "In pods: `AWS_SESSION_TOKEN`.",
    "MISTERE_S3_REGION": "In pods: `AWS_REGION`.",
    "MISTERE_S3_ENDPOINT_URL": "In pods: `AWS_ENDPOINT_URL`.",
    "SSL_CERT_FILE": "A file of trusted certificate authorities.",
    "REQUESTS_CA_BUNDLE": "The same, if `SSL_CERT_FILE` is not set.",
    "HF_HUB_DISABLE_TELEMETRY": "Set by mistere: the Hugging Face client sends no telemetry.",
    "DVC_NO_ANALYTICS": "Set by mistere: DVC sends no telemetry.",
    "NO_COLOR": "Disables colours in the output.",
}


def _cell(text: str) -> str:
    """Text for a table cell: docstring markup becomes Markdown, and bars are escaped."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", " ".join(text.split()))
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = text.strip()
    return text and text[0].upper() + text[1:]


# Command line


def _metavar(parameter: click.Parameter) -> str:
    return parameter.metavar or (parameter.name or "").upper()


def _usage(command: click.Command, path: str) -> str:
    arguments = [
        _metavar(parameter) if parameter.required else f"[{_metavar(parameter)}]"
        for parameter in command.params
        if parameter.param_type_name == "argument"
    ]
    return " ".join([path, *arguments, "[OPTIONS]" if len(command.params) > len(arguments) else ""]).strip()


def _default(parameter: click.Parameter) -> str:
    value = parameter.default
    if callable(value) or value in (None, False, "") or value == () or "UNSET" in repr(value).upper():
        return ""
    return f"`{value}`"


def _root(app: typer.Typer) -> click.Command:
    """The application's command; typer types it by its own copy of click."""
    return cast(click.Command, typer.main.get_command(app))


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    children: Mapping[str, click.Command] = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        if not child.hidden:
            yield from _commands(child, f"{path} {name}")


def _parameters(command: click.Command) -> Iterator[str]:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    if shown:
        yield "| argument or option | default | meaning |\n|---|---|---|"
    for parameter in shown:
        if parameter.param_type_name == "argument":
            name = f"`{_metavar(parameter)}`"
        else:
            name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            if not getattr(parameter, "is_flag", False):
                name += f" {_metavar(parameter)}"
        yield f"| {name} | {_cell(_default(parameter))} | {_cell(getattr(parameter, 'help', None) or '')} |"


def command_line() -> str:
    """Every command with its arguments and options, from the typer application."""
    from pipelines.cli.app import app

    root = _root(app)
    lines = ["# Command line", "", "Options of `mistere` itself come before the command.", ""]
    lines += [*_parameters(root), ""]
    for path, command in _commands(root, "mistere"):
        text = inspect.cleandoc(command.help or "").split("\f")[0]
        lines += [f"## {path}", "", f"```text\n{_usage(command, path)}\n```", "", text, "", *_parameters(command), ""]
    return "\n".join(lines)


# Settings


def settings() -> str:
    """Every section of the configuration; ``mistere settings`` prints the same."""
    from mistere.config.description import models_in, settings_of, summary_of
    from pipelines.profiles import PIPELINE_CONFIG

    lines = [
        "# Settings",
        "",
        "Set a value with `--set SECTION.NAME=VALUE`, or in a profile. `off` disables a rule. A section's `seed` is the "
        "configuration's `seed` if it is not set.",
        "",
        "| setting | default | meaning, and values |",
        "|---|---|---|",
        "| `seed` | `0` | The seed of everything random.<br>*integer (≥ 0, < 2³²)* |",
        "",
    ]
    for name, field in PIPELINE_CONFIG.model_fields.items():
        for cls in models_in(field.annotation):
            lines += [f"## {name}", "", _cell(summary_of(cls)), ""]
            lines += ["| setting | default | meaning, and values |", "|---|---|---|"]
            for setting in settings_of(cls, f"{name}."):
                accepted = f"{_cell(setting.accepted)}{f', in {setting.unit}' if setting.unit else ''}"
                lines.append(
                    f"| `{setting.name}` | {_cell(setting.default)} | {_cell(_sentence(setting.meaning))}<br>*{accepted}* |"
                )
            lines.append("")
    return "\n".join(lines)


# Options of the predictor


def predictor() -> str:
    """Every option of the predictor, with its names in all places."""
    from mistere.config.predictor_options import as_text, options

    lines = [
        "# Options of the predictor",
        "",
        "Each option has four names: an argument of `mistere serve` and `python -m mistere.predictor`, an environment variable, a setting "
        "in `deployment.predictor` of a profile, which the InferenceService passes on as an argument, and a property in the metadata "
        "(`/v2/models/mistere`). An argument takes precedence over the variable, and the variable over the default. An empty variable "
        "counts as not set; values of a list are separated by commas. [Serving](../guides/serving.md) explains what the limits do.",
        "",
        "| argument | variable | setting | in the metadata | default | meaning, and values |",
        "|---|---|---|---|---|---|",
    ]
    for option in options().values():
        argument = f"`{option.argument}`" + (f", `{option.negation}`" if option.is_flag else "")
        stated = f"`option.{option.name}`" if option.is_stated else "no"
        default = f"`{as_text(option.default)}`" if as_text(option.default) else "empty"
        lines.append(
            f"| {argument} | `{option.variable}` | `{option.setting}` | {stated} | {default} | "
            f"{_cell(_sentence(option.meaning))}<br>*{_cell(option.accepted)}* |"
        )
    return "\n".join([*lines, ""])


# REST interface, environment, exit codes


def rest() -> str:
    """Every path of the model server, from its OpenAPI document."""
    document = json.loads((ROOT / "mistere/predictor/protocol/openapi.json").read_text(encoding="utf-8"))
    lines = [
        "# REST interface",
        "",
        "Generated from the server's OpenAPI document. A running server returns it at `/openapi.json`, with its own limits and its "
        "model's labels. [Serving](../guides/serving.md) shows requests and responses.",
        "",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in {"get", "post", "put", "delete", "head"}:
                continue
            lines += [f"## {method.upper()} {path}", "", _cell(operation.get("summary", "")), ""]
            if operation.get("description"):
                lines += [_cell(operation["description"]), ""]
            lines += ["| status | meaning |", "|---|---|"]
            for status, response in operation.get("responses", {}).items():
                if "$ref" in response:
                    response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
                lines.append(f"| {status} | {_cell(response.get('description', ''))} |")
            lines.append("")
    lines += ["## Schemas", ""]
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        lines += [f"### {name}", "", _cell(schema.get("description", "")), ""]
        if schema.get("properties"):
            lines += ["| field | required | type | meaning |", "|---|---|---|---|"]
            for field, value in schema["properties"].items():
                kind = value.get("$ref", "").rsplit("/", 1)[-1] or value.get("type", "")
                kind = " or ".join(kind) if isinstance(kind, list) else kind
                required = "yes" if field in schema.get("required", []) else ""
                lines.append(f"| `{field}` | {required} | {kind} | {_cell(value.get('description', ''))} |")
            lines.append("")
    return "\n".join(lines)


def variables() -> dict[str, str]:
    """All environment variables, with their meaning."""
    from mistere.config.predictor_options import options

    own = {each.variable: f"Of the predictor: `{each.argument}`." for each in options().values()}
    return {**VARIABLES, **own}


def variables_in_code() -> set[str]:
    """Names of environment variables that the code's string literals hold."""
    pattern = re.compile(
        r"[\"']((?:MISTERE|MLFLOW|KFP|KF|AWS|KUBERNETES_SERVICE|SSL|REQUESTS)_[A-Z_]+|KUBECONFIG)[\"']"
    )
    return {
        name
        for layer in ("mistere", "components", "pipelines")
        for file in (ROOT / layer).rglob("*.py")
        for name in pattern.findall(file.read_text(encoding="utf-8"))
    }


def environment() -> str:
    """The environment variables."""
    lines = ["# Environment variables", "", "Command line options take precedence over variables.", ""]
    lines += ["| variable | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in variables().items()]
    return "\n".join([*lines, ""])


def exit_codes() -> str:
    """The exit codes, and which command uses which."""
    from mistere.common.errors import ExitCode
    from pipelines.cli.app import app

    lines = ["# Exit codes", "", "| code | name | meaning |", "|---|---|---|"]
    for code in ExitCode:
        name, meaning = EXIT_CODES[code.name]
        lines.append(f"| {code.value} | {name} | {meaning} |")
    lines += [
        "",
        "Errors are printed as one line; `mistere --verbose …` prints the stack trace.",
        "",
        "## By command",
        "",
    ]
    lines += ["| command | exit codes |", "|---|---|"]
    for path, command in _commands(_root(app), "mistere"):
        match = re.search(r"Exit codes?:?\s*(.+?)(?:\n\n|$)", inspect.cleandoc(command.help or ""), re.DOTALL)
        reads = ", 4 data damaged" if path.startswith("mistere data ") else ""
        lines.append(f"| `{path}` | {_cell(match[1]) if match else f'0 success{reads}, 1 error, 2 usage.'} |")
    return "\n".join([*lines, ""])


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": command_line,
    "reference/settings.md": settings,
    "reference/predictor.md": predictor,
    "reference/rest.md": rest,
    "reference/environment.md": environment,
    "reference/exit-codes.md": exit_codes,
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site (mkdocs calls this)."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


if __name__ == "__main__":
    for page in PAGES.values():
        print(page())
