"""The product in its containers, on this machine: ``python -m tests.e2e.run`` (as root; ``make e2e``).

A real S3 server, MLflow on PostgreSQL, the data pushed to S3 with DVC, the pipeline as ``mistere compile`` writes it, with every
step as the pod that the YAML describes (image, command, user, read-only root, no capabilities, limits, secrets), and the
InferenceService that it deploys, whose pods are containers of the predictor's image too. Servers and containers are gone afterwards,
whatever happened; the images stay.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.digests.code import git_state
from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import ExitCode, MistereError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.loader import Config
from mistere.kubernetes.images import IMAGES_LOCK, ROLES, image
from mistere.kubernetes.settings_keys import DATA_DIGEST, DATA_REMOTE, SETTINGS_MAP
from mistere.registry.mlflow.model_registry import find_version
from mistere.registry.release.champion import read_champion
from mistere.runs.outcome import Outcome, read_outcome
from mistere.serving import protocol
from mistere.serving.client import DialogueClient
from mistere.serving.deployment import read_deployment
from mistere.serving.example_dialogue import read_example
from pipelines.images import lock_text
from pipelines.profiles import load_profile
from tests.e2e import object_store
from tests.e2e.cluster import Cluster, running
from tests.e2e.compiled_pipeline import SECRETS_VARIABLE, CompiledPipeline
from tests.e2e.containers import CONFINED, CONFINEMENT, no_container_left, podman
from tests.e2e.exported import serve_student
from tests.e2e.pods import Namespace, PredictorPod, step_container, storage_secret, wait_for
from tests.local.servers import mlflow_server, postgresql, programs

NO_CONTAINERS = 75
"""Exit code if the machine cannot run the test (EX_TEMPFAIL of sysexits.h)."""
_DEBIAN = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common", "postgresql")
STORE, REMOTE = "s3://mistere/store", "s3://mistere/data"
_ANSWER_SECONDS = 60.0
_PROGRAMS = (*object_store.PROGRAMS, "initdb", "postgres")


class Clock:
    """Prints the current action and the elapsed time."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print a line."""
        print(f"[{time.monotonic() - self._started:5.0f} s] {text}", flush=True)


def install_servers() -> None:
    """Install missing Debian packages of the servers."""
    if all(programs(name) for name in _PROGRAMS):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *_DEBIAN]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def push_data(folder: Path, remote: str, endpoint: str) -> str:
    """Pull the sample from the remote in this tree and push it to S3 with DVC; return its digest."""
    project = folder / "data-project"
    project.mkdir()
    shutil.copy(PROJECT_ROOT / "data.dvc", project)

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
        subprocess.run(command, cwd=project, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})

    dvc("init", "--no-scm")
    dvc("remote", "add", "sample", str(PROJECT_ROOT / ".dvc" / "sample-remote"))
    dvc("remote", "add", "store", remote)
    dvc("remote", "modify", "store", "endpointurl", endpoint)
    dvc("fetch", "--remote", "sample")
    dvc("push", "--remote", "store")
    return next(
        line.split("md5: ")[1].strip() for line in (project / "data.dvc").read_text().splitlines() if "md5: " in line
    )


def compile_pipeline(profile: str, settings: Sequence[str], output: Path) -> CompiledPipeline:
    """Compile as the command does and read the file back."""
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "mistere", "compile", "--profile", profile, "--output", str(output), *options]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True, stdout=subprocess.DEVNULL)
    return CompiledPipeline(output)


def check_confinement(compiled: CompiledPipeline, namespace: Namespace) -> None:
    """Check with one step of each image that the settings of the compiled pipeline reach its container.

    Raises:
        MistereError: they do not.
    """
    by_image = {compiled.container(name)["image"]: name for name in compiled.names}
    for used, name in by_image.items():
        command = ["python3", "-c", CONFINEMENT]
        probe = step_container(used, command, compiled.container(name), compiled.platform(name), namespace)
        probe.start(f"mistere-probe-{namespace.label}", namespace.label)
        ended = wait_for(f"mistere-probe-{namespace.label}", 60)
        if ended.log != CONFINED:
            raise MistereError(f"a container of {used} is not confined: user, capabilities and root are {ended.log}.")


def run_pipeline(folder: Path, pipeline: Path, cluster: Cluster) -> Outcome:
    """Run every step of the compiled pipeline as a pod, without arguments; return the outcome from the store."""
    root, description = folder / "kfp", folder / "cluster.json"
    root.mkdir()
    root.chmod(0o777)
    cluster.describe(description)
    without_credentials = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment = {
        **without_credentials,
        "PYTHONPATH": str(PROJECT_ROOT),
        SECRETS_VARIABLE: json.dumps(cluster.namespace.secrets),
    }
    with (folder / "kfp.log").open("wb") as log:
        command = [sys.executable, "-m", "tests.e2e.compiled_pipeline", str(pipeline), str(root), str(description)]
        subprocess.run(command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log, check=False)
    store = open_store(STORE)
    runs = {key.split("/")[1] for key in store.keys("runs")}
    if len(runs) != 1:
        raise MistereError(f"the store has the records of {len(runs)} runs: look at {folder / 'kfp.log'}.")
    return read_outcome(store, runs.pop())


def steps_by_image(log: str) -> dict[str, list[str]]:
    """The executors that ran in each image, from what the runner printed."""
    executors: dict[str, list[str]] = {}
    for executor, used in re.findall(r"pod \S+: exec-(\S+) in (\S+)", log):
        executors.setdefault(used, []).append(executor)
    return executors


def ask_predictor(tracking: str, config: Config, cluster: Cluster) -> str:
    """Compare the predictions of the deployed service with the offline evaluation, and stop its pod."""
    store, service = open_store(STORE), config.deployment.service
    deployment = read_deployment(store, service)
    if read_champion(store).digest != deployment.bundle_digest:
        raise MistereError("the champion is not what is deployed.")
    version = find_version(tracking, "@champion", config.registry.model_name)
    if version.bundle_digest != deployment.bundle_digest:
        raise MistereError("the registry's champion is not what is deployed.")
    example = read_example(open_artifact(store, ModelBundle, deployment.bundle_digest).path)
    if example is None:
        raise MistereError("the bundle holds no example dialogue.")
    pod = cluster.served(service)
    address = pod["status"]["podIP"]
    client = DialogueClient(
        f"http://{address}:{protocol.HTTP_PORT}", f"{address}:{protocol.GRPC_PORT}", service, _ANSWER_SECONDS
    )
    answers = [client.predict_rest(example.dialogue), client.predict_grpc(example.dialogue)]
    worst = max(float(np.abs(answer.probabilities - example.expected).max()) for answer in answers)
    if not worst <= config.deployment.tolerance:
        raise MistereError(f"the container's answer differs by {worst:.2g} from the offline evaluation's.")
    name = podman("ps", "--quiet", "--filter", f"name=mistere-predictor-{cluster.namespace.label}")
    confined = podman("exec", name, "python3", "-c", CONFINEMENT)
    if confined != CONFINED:
        raise MistereError(f"the predictor's container is not confined: {confined}.")
    opus = podman(
        "exec", name, "python3", "-c", "from mistere.predictor.stream.opus import has_opus; print(has_opus())"
    )
    if opus != "True":
        raise MistereError("the predictor's container cannot decode Opus.")
    return (
        f"the InferenceService {service} answered {len(example.dialogue)} utterances by REST and gRPC; largest difference from "
        f"the offline evaluation {worst:.1e}; user 10001, no capabilities, read-only root"
    )


@contextmanager
def storage(access_key: str, secret_key: str, endpoint: str) -> Iterator[None]:
    """Set the store's credentials and address in the environment of this process, which reads the results."""
    variables = {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(variables)
    try:
        yield
    finally:
        for key in variables:
            del os.environ[key]


def main(profile: str) -> int:
    """Run the whole test and return the exit code."""
    if os.getuid() != 0:
        print("e2e: the servers and containers of this test need root: run it as root.", file=sys.stderr)
        return NO_CONTAINERS
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress, label = Clock(), secrets.token_hex(4)
    if IMAGES_LOCK.read_text(encoding="utf-8") != lock_text():
        raise MistereError("pipelines/images.lock.yaml is not of this tree: run `make compile`.")
    progress("building the images")
    builder, environment = ["bash", str(PROJECT_ROOT / "docker" / "build.sh")], {**os.environ, "PYTHON": sys.executable}
    if subprocess.run([*builder, "--probe"], env=environment, check=False).returncode:
        print("e2e: this machine runs no containers: the lines above say why.", file=sys.stderr)
        return NO_CONTAINERS
    if subprocess.run(builder, env=environment, check=False).returncode:
        raise MistereError("the images could not be built: the lines above say why.")
    install_servers()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mistere-e2e-")))
        folder.chmod(0o755)
        os.environ["MISTERE_CACHE"] = str(folder / "cache")
        progress("starting S3 and MLflow on PostgreSQL")
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        endpoint = stack.enter_context(object_store.radosgw(folder / "ceph", access_key, secret_key))
        stack.enter_context(storage(access_key, secret_key, endpoint))
        database = stack.enter_context(postgresql(folder / "postgresql"))
        tracking = stack.enter_context(mlflow_server(database, folder / "mlflow"))
        stack.enter_context(no_container_left(label))
        import boto3

        boto3.client("s3").create_bucket(Bucket="mistere")
        digest = push_data(folder, REMOTE, endpoint)
        commit, dirty = git_state()
        settings = ["deployment.ready_timeout=300"]  # generous for a loaded machine
        if dirty or not commit:
            settings.append("gate.allow_uncommitted=true")
        config = load_profile(profile, settings)
        secret_objects = {config.cluster.storage_secret: storage_secret(access_key, secret_key, endpoint)}
        keys = (STORE_VARIABLE, TRACKING_VARIABLE, DATA_REMOTE, DATA_DIGEST)
        maps = {SETTINGS_MAP: dict(zip(keys, (STORE, tracking, REMOTE, digest), strict=True))}
        cluster = stack.enter_context(running(folder, label, secret_objects, maps))
        compiled = compile_pipeline(profile, settings, folder / "retraining.yaml")
        check_confinement(compiled, cluster.namespace)
        progress(f"data {digest[:12]} is in S3; running the compiled pipeline, profile {profile}")
        outcome = run_pipeline(folder, folder / "retraining.yaml", cluster)
        for record in outcome.stages:
            print(
                f"          {record.task:<28} {record.status:<8} {record.seconds:6.1f} s  {record.peak_memory_mb:5.0f} MB"
            )
        for used, steps in steps_by_image((folder / "kfp.log").read_text(errors="replace")).items():
            print(f"          in {used}: {', '.join(steps)}")
        progress(f"the run ended: {outcome.verdict}; {' '.join(outcome.reasons)}")
        if outcome.verdict != "deployed":
            kept = PROJECT_ROOT / "output" / "e2e-kfp.log"
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(folder / "kfp.log", kept)
            print(f"e2e: {kept} has what the steps printed.", file=sys.stderr)
            return outcome.exit_code
        progress(ask_predictor(tracking, config, cluster))
        deployed = read_deployment(open_store(STORE), config.deployment.service)
        progress(serve_student(deployed.bundle_location, profile, folder))
    if podman("ps", "--all", "--quiet", "--filter", f"label=mistere.e2e={label}"):
        raise MistereError("a container was left behind.")
    codes = [ended.exit_code for ended in PredictorPod.ended]
    if not codes or any(codes):
        raise MistereError(f"the predictor's pods did not end with exit code 0 after SIGTERM, but with {codes}.")
    sizes = {role: int(podman("image", "inspect", "--format", "{{.Size}}", image(role))) / 1e6 for role in ROLES}
    progress(f"done; images: {', '.join(f'{role} {size:.0f} MB' for role, size in sizes.items())}")
    return int(ExitCode.DEPLOYED)


if __name__ == "__main__":
    try:
        sys.exit(main(os.environ.get("E2E_PROFILE", "tiny")))
    except MistereError as problem:
        print(f"e2e: {problem}", file=sys.stderr)
        sys.exit(int(problem.exit_code))
    except KeyboardInterrupt:
        print("e2e: interrupted; servers and containers are gone.", file=sys.stderr)
        sys.exit(int(ExitCode.ERROR))
