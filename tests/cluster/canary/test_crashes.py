"""What is left of a canary whose process is killed with ``kill -9``, who takes it back, and who says that it is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from components.report_run import cleanup
from components.report_run.run import run as report_run
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.config.canary import CanaryConfig
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow import model_registry
from mistere.registry.release import journal as journal_module
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.unfinished import take_back_abandoned, unfinished_releases
from mistere.runs import webhook
from mistere.runs.outcome import read_outcome
from mistere.runs.unattended import unattended_releases
from mistere.serving import protocol
from pipelines.cli.doctor.groups.records import check_releases
from tests.cluster import test_release_on_cluster as released
from tests.cluster.canary.conftest import CANDIDATE, CONFIG, SERVICE, Release, all_is_back
from tests.cluster.conftest import Cluster
from tests.cluster.trainer import until
from tests.stand_ins.gateway import Gateway
from tests.stand_ins.kubernetes_server import Trouble
from tests.unit.runs.recorded_run import RecordedRun

pytestmark = [pytest.mark.usefixtures("at_once"), pytest.mark.long]
AT_10 = {SERVICE: 90, CANDIDATE: 10}
CANARY = CONFIG.model_copy(update={"canary": CanaryConfig(window_seconds=600, steps=[10], min_requests=50)})
Kill = Callable[..., tuple[ArtifactHandle[ModelBundle], ArtifactHandle[ModelBundle]]]


@pytest.fixture
def kill_at_10(cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release) -> Kill:
    """Kill a process whose new version has just got 10 % of the requests; returns the champion's bundle and its own."""

    def kill(*share: str) -> tuple[ArtifactHandle[ModelBundle], ArtifactHandle[ModelBundle]]:
        first, second = cluster.bundle("a"), cluster.bundle("b")
        release(first)
        deployment = cluster.deployment(second, CANARY).model_dump_json()
        ports = [str(protocol.HTTP_PORT), str(protocol.GRPC_PORT)]
        program = [sys.executable, "-m", "tests.cluster.canary.release_process", store.uri, deployment, *ports, *share]
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig())}
        gateway.on_change = lambda weights: weights == AT_10 and process.kill()  # before the route's status says so
        process = subprocess.Popen(program, env=environment, cwd=Path(__file__).parents[3])
        assert process.wait(120) == -signal.SIGKILL
        gateway.on_change = lambda _: None
        until(lambda: gateway.weights == AT_10)
        return first, second

    return kill


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that the webhook got, as JSON."""
    messages: list[str] = []
    monkeypatch.setenv(webhook.VARIABLE, "https://hooks.example.org/services/x")
    for one in (webhook, "components.report_run.notification"):
        target = f"{one if isinstance(one, str) else one.__name__}.post_message"
        monkeypatch.setattr(target, lambda _url, message: messages.append(json.dumps(message)))
    return messages


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "mirror_champion", lambda *_: None)


def on_another_machine(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed process ran elsewhere, so only the end of its lease tells."""
    left = released.journal(store).model_copy(update={"machine": "another boot", "host": "laptop"})
    store.write(released.JOURNAL, left.sealed())
    monkeypatch.setattr(journal_module, "LEASE_SECONDS", 2.0)


def test_everybody_names_a_share_that_a_killed_process_has_left(
    cluster: Cluster, gateway: Gateway, store: LocalStore, kill_at_10: Kill, posted: list[str], monkeypatch: Any
) -> None:
    """``mistere promote --canary 10`` is killed on a laptop, and nobody runs a release again."""
    first, _ = kill_at_10("10")
    on_another_machine(store, monkeypatch)
    (left,) = unfinished_releases(store)
    assert left.alive and check_releases(store).status == "note" and "on laptop and gets 10 %" in left.sentence()
    notes: list[str] = []
    unattended_releases(store, notes.append)
    assert notes == [] and posted == []
    until(lambda: not unfinished_releases(store)[0].alive)
    result = check_releases(store)
    assert (
        result.status == "failed"
        and "The canary of version 1 to mistere (by ann@laptop) was interrupted" in result.sentence
    )
    assert (
        "on laptop, and the version may have 10 % of the requests: `mistere rollback --unfinished`, or the next run"
        in result.sentence
    )
    unattended_releases(store, notes.append)
    assert notes == [unfinished_releases(store)[0].sentence()] and len(posted) == 1 and "10 %" in posted[0]
    assert gateway.weights == AT_10
    # The start of the next run, hours before its own release.
    take_back_abandoned(store, released.mirror, "another-service", notes.append)
    assert gateway.weights == AT_10 and "was interrupted" in notes[-1]
    take_back_abandoned(store, released.mirror, "mistere", notes.append)
    assert "rolled back. Its version had up to 10 % of the requests" in notes[-1]
    all_is_back(cluster, gateway, first)
    assert unfinished_releases(store) == [] and check_releases(store).sentence == "none is unfinished."
    assert read_log(store).events[-1].outcome == "undone" and read_champion(store).digest == first.manifest.digest


def test_the_exit_handler_takes_back_the_share_of_its_run_and_says_so(
    cluster: Cluster, gateway: Gateway, store: LocalStore, kill_at_10: Kill, posted: list[str], monkeypatch: Any
) -> None:
    """The pod of ``deploy_model`` is killed and not started again: the handler runs in another pod."""
    first, _ = kill_at_10()
    on_another_machine(store, monkeypatch)
    other = RecordedRun(store.root, run_id="other")
    report_run(RegistryConfig(log_report=False), other.step())
    assert gateway.weights == AT_10 and "release" not in posted.pop()
    own = RecordedRun(store.root, run_id="run")
    result = report_run(RegistryConfig(log_report=False), own.step())
    all_is_back(cluster, gateway, first)
    assert "may have 10 % of the requests" in posted[0] and "rolled back. Its version had up to 10 %" in posted[1]
    assert len(posted) == 2
    assert "was rolled back" in result.values["release"]
    report = store.read("runs/run/reports/run_report.json")[0].decode()
    assert "rolled back. Its version had up to 10 % of the requests" in report


def test_a_share_that_the_exit_handler_cannot_take_back_is_reported_and_taken_back_by_the_next_run(
    cluster: Cluster, gateway: Gateway, store: LocalStore, kill_at_10: Kill, posted: list[str], monkeypatch: Any
) -> None:
    """The handler may not write the route, and the report itself fails, too: the cleanup comes all the same."""
    first, _ = kill_at_10()
    cluster.server.troubles.append(Trouble("PATCH", 403, times=1, path="httproutes"))
    own = RecordedRun(store.root, run_id="run")
    result = report_run(RegistryConfig(log_report=False), own.step())
    assert "may have 10 % of the requests: `mistere rollback --unfinished`" in result.values["release"]
    assert "This could not be done yet: The Kubernetes API does not allow it" in result.values["release"]
    assert gateway.weights == AT_10 and "This could not be done yet" in posted[-1]
    assert check_releases(store).status == "failed", "the handler's process is this one, and has given up"

    def fail(*_: object) -> None:
        raise RuntimeError("a defect of the report")

    monkeypatch.setattr("components.report_run.run_artifacts.gather", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        report_run(RegistryConfig(log_report=False), own.step())
    all_is_back(cluster, gateway, first)
    assert cleanup.interrupted_release(own.step()) == ""
    assert read_outcome(store, "run").verdict == "failed"


def rules_of_the_manifests() -> list[dict[str, Any]]:
    """The rules of the Role ``mistere-deployer`` with the component ``gateway``, which the pods of every step have."""
    manifests = Path(__file__).parents[3] / "manifests"
    roles = [one for one in yaml.safe_load_all((manifests / "base/deployer.yaml").read_text()) if one["kind"] == "Role"]
    component = yaml.safe_load((manifests / "components/gateway/kustomization.yaml").read_text())
    added = [change["value"] for patch in component["patches"] for change in yaml.safe_load(patch["patch"])]
    return [*next(role["rules"] for role in roles if role["metadata"]["name"] == "mistere-deployer"), *added]


def test_the_rights_of_a_steps_pod_suffice_to_take_a_share_back(
    cluster: Cluster, gateway: Gateway, store: LocalStore, kill_at_10: Kill, monkeypatch: Any
) -> None:
    """The exit handler and the start of a run: no other verb, and no object that the Role does not name."""
    first, _ = kill_at_10()
    rules = rules_of_the_manifests()
    cluster.api.tokens["step"] = frozenset(
        (verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]
    )
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("step")))
    before, notes = len(cluster.server.calls), []
    take_back_abandoned(store, released.mirror, "mistere", notes.append)
    all_is_back(cluster, gateway, first)
    assert len(notes) == 1 and "rolled back" in notes[0]
    named = {
        (resource, name) for rule in rules for resource in rule["resources"] for name in rule.get("resourceNames", [])
    }
    objects = [urlsplit(path).path.split("/")[-2:] for _, path in cluster.server.calls[before:]]
    touched = {(kind, name) for kind, name in objects if kind in {"inferenceservices", "httproutes"}}
    assert touched == {
        ("inferenceservices", "mistere"),
        ("inferenceservices", "mistere-candidate"),
        ("httproutes", "mistere-route"),
    }
    assert touched <= named
