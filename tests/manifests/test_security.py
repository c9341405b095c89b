"""Manifests grant least privilege: RBAC, network, pods and secrets."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from mistere.config.deployment import DeploymentConfig
from mistere.serving.kserve.canary.route import GROUP, ROUTES, route_name
from mistere.serving.kserve.inference_service import candidate_name, shadow_name
from tests.manifests.conftest import COMPONENTS, OVERLAYS, Builds, of_kind
from tests.manifests.pod_security import broken_rules

READ = {"get", "list", "watch"}
PIPELINE = {
    ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
    ("", "configmaps", "kfp-launcher"): {"get"},
    ("", "secrets", "mlpipeline-minio-artifact"): {"get"},
    ("trainer.kubeflow.org", "trainjobs"): {"create", "delete"} | READ,
    ("", "pods"): READ,
    ("", "pods/log"): {"get"},
}
DEPLOYER = {
    ("serving.kserve.io", "inferenceservices"): {"create", "list", "watch"},
    **{
        ("serving.kserve.io", "inferenceservices", name): {"get", "patch", "delete"}
        for name in (DeploymentConfig().service, candidate_name(DeploymentConfig().service))
    },
    ("apps", "deployments"): READ,
    ("", "pods"): READ,
    ("", "events"): READ,
    ("", "pods/log"): {"get"},
}
SUBMITTER = {
    ("pipelines.kubeflow.org", "pipelines"): {"get", "list", "create"},
    ("pipelines.kubeflow.org", "pipelines/versions"): {"get", "list", "create"},
    ("pipelines.kubeflow.org", "experiments"): {"get", "list", "create"},
    ("pipelines.kubeflow.org", "runs"): {"get", "list", "create", "terminate"},
    ("pipelines.kubeflow.org", "jobs"): {"get", "list", "create", "delete", "enable", "disable"},
}
PROMOTER = {("", "pods/proxy"): {"get", "create"}}
SHADOW = {
    ("serving.kserve.io", "inferenceservices", shadow_name(DeploymentConfig().service)): {"get", "patch", "delete"}
}
GATEWAY = {
    (GROUP, ROUTES): {"create", "list", "watch"},
    (GROUP, ROUTES, route_name(DeploymentConfig().service)): {"get", "patch", "delete"},
}
"""What the component ``gateway`` adds to the role of the deployer."""
ROLES = {
    "mistere-shadow": SHADOW,
    "mistere-pipeline": PIPELINE,
    "mistere-deployer": DEPLOYER,
    "mistere-promoter": PROMOTER,
    "mistere-submitter": SUBMITTER,
}
"""The exact rules of each role."""


def verbs_by_resource(role: dict[str, Any]) -> dict[tuple[str, ...], set[str]]:
    verbs: dict[tuple[str, ...], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [None]):
                    key = (group, resource) if name is None else (group, resource, name)
                    verbs.setdefault(key, set()).update(rule["verbs"])
    return verbs


def test_roles_grant_the_required_rules_only(builds: Builds) -> None:
    for build, objects in builds.items():
        for name, role in of_kind(objects, "Role").items():
            added = GATEWAY if (build, name) == ("with gateway", "mistere-deployer") else {}
            assert verbs_by_resource(role) == ROLES[name] | added, (build, name)
        assert set(of_kind(objects, "Role")) == set(ROLES) - (set() if build == "with shadow" else {"mistere-shadow"})


def test_roles_have_no_wildcard_and_no_cluster_scope(builds: Builds) -> None:
    for objects in builds.values():
        assert not [content for content in objects if content["kind"].startswith("ClusterRole")]
        for role in of_kind(objects, "Role").values():
            for rule in role["rules"]:
                assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
                assert "*" not in "".join(part for values in rule.values() for part in values)
                assert not {"bind", "escalate", "impersonate"} & set(rule["verbs"])
                if "secrets" in rule["resources"]:
                    assert rule["resourceNames"] and rule["verbs"] == ["get"]


def test_role_bindings_name_existing_service_accounts(builds: Builds) -> None:
    for build, objects in builds.items():
        accounts = {
            (content["metadata"]["namespace"], content["metadata"]["name"])
            for content in objects
            if content["kind"] == "ServiceAccount"
        }
        bound = set()
        for content in objects:
            if content["kind"] == "RoleBinding":
                assert content["roleRef"]["kind"] == "Role"
                for subject in content["subjects"]:
                    assert subject["kind"] == "ServiceAccount"
                    bound.add((subject["namespace"], subject["name"]))
                assert content["roleRef"]["name"] != "mistere-promoter"
        assert bound - {("kubeflow", "pipeline-runner")} <= accounts, build  # an account of Kubeflow Pipelines
        assert "mistere-predictor" not in {name for _, name in bound}


def test_only_the_accounts_of_steps_mount_a_token(builds: Builds) -> None:
    for objects in builds.values():
        for name, account in of_kind(objects, "ServiceAccount").items():
            assert account.get("automountServiceAccountToken", True) is (name in {"mistere-pipeline", "default-editor"})


def test_namespaces_enforce_the_restricted_standard(builds: Builds) -> None:
    for objects in builds.values():
        namespaces = of_kind(objects, "Namespace")
        assert len(namespaces) == 1
        labels = next(iter(namespaces.values()))["metadata"]["labels"]
        for mode in ("enforce", "audit", "warn"):
            assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_namespace_labels_enable_kubeflow(builds: Builds) -> None:
    for objects in builds.values():
        labels = next(iter(of_kind(objects, "Namespace").values()))["metadata"]["labels"]
        assert labels["pipelines.kubeflow.org/enabled"] == "true"
        assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"


def predictors(builds: Builds) -> dict[str, dict[str, Any]]:
    return {
        build: content["spec"]["predictor"]
        for build, objects in builds.items()
        for content in of_kind(objects, "InferenceService").values()
    }


def test_pods_are_restricted_and_request_resources(builds: Builds) -> None:
    pods = predictors(builds)
    assert len(pods) == len(COMPONENTS) + 1
    for build, pod in pods.items():
        assert not list(broken_rules(pod)), build
        knative = build == "with knative"
        assert knative or pod["automountServiceAccountToken"] is False, (
            "Knative's pods take this setting from the service account"
        )
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            resources = container["resources"]
            assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}
            for probe in ("readinessProbe", "livenessProbe", *(() if knative else ("startupProbe",))):
                assert container[probe]["httpGet"]["port"] == 8080 and container[probe]["periodSeconds"]
        assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("securityContext",), {}, "runAsNonRoot"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccompProfile"),
        (("securityContext", "runAsUser"), 0, "runAsUser"),
        (("hostNetwork",), True, "hostNetwork"),
        (("volumes", 0), {"name": "cache", "hostPath": {"path": "/"}}, "volume"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "capabilities"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "allowPrivilegeEscalation"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
    ],
)
def test_pod_security_check_detects_each_violation(
    builds: Builds, path: tuple[str | int, ...], value: object, rule: str
) -> None:
    pod: Any = copy.deepcopy(predictors(builds)["with base"])
    part = pod
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    assert any(broken.startswith(rule) for broken in broken_rules(pod))


def test_all_traffic_is_denied_unless_a_policy_allows_it(builds: Builds) -> None:
    for build, objects in builds.items():
        policies = of_kind(objects, "NetworkPolicy")
        assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        assert {policy["metadata"]["namespace"] for policy in policies.values()} == set(of_kind(objects, "Namespace"))
        for name, policy in policies.items():
            spec = policy["spec"]
            assert spec["podSelector"] or name == "default-deny" or name.startswith("dns"), (build, name)
            for direction, peers in (("ingress", "from"), ("egress", "to")):
                for rule in spec.get(direction, []):
                    assert rule.get(peers) and all(rule[peers]), (build, name)
                    assert rule.get("ports") or name == "training", (build, name)
                    for peer in rule[peers]:
                        assert direction == "egress" or "ipBlock" not in peer, (build, name)


def test_manifests_contain_no_secret_values(builds: Builds) -> None:
    for build, objects in builds.items():
        assert not of_kind(objects, "Secret"), build
        settings = of_kind(objects, "ConfigMap")
        assert set(settings) - {"mistere-dashboard"} == {"mistere-settings"}, build
        for name, value in settings["mistere-settings"]["data"].items():
            assert not re.search("KEY|TOKEN|PASSWORD|SECRET", name) and "@" not in value, (build, name)
        text = str(objects)
        assert not re.search(
            r"AKIA|ASIA[A-Z0-9]{16}|BEGIN [A-Z ]*PRIVATE KEY|https://hooks\.|stringData|password", text
        )
        for pod in predictors({build: objects}).values():
            for variable in pod["containers"][0]["env"]:
                secret = re.search("KEY|TOKEN|PASSWORD|SECRET|URL", variable["name"])
                is_public = variable.get("value", "").startswith("-----BEGIN PUBLIC KEY-----\n")
                assert not (secret and "value" in variable) or is_public, variable["name"]


def test_no_image_has_a_mutable_tag(builds: Builds) -> None:
    for build, objects in builds.items():
        images = [
            container["image"] for pod in predictors({build: objects}).values() for container in pod["containers"]
        ]
        assert images or build in OVERLAYS
        for image in images:
            assert re.fullmatch(r"mistere/predictor-python(:src-[0-9a-f]{12}|@sha256:[0-9a-f]{64})", image), image
        assert "latest" not in str(objects)
