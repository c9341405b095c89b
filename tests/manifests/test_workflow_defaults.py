"""The patch of Argo's defaults retries killed steps, and changes nothing else of the stock configuration."""

from __future__ import annotations

import pytest
import yaml

from mistere.common.paths import PROJECT_ROOT
from tests.manifests.conftest import MANIFESTS


def test_the_patch_changes_the_retry_strategy_only() -> None:
    patch = yaml.safe_load((MANIFESTS / "kubeflow-pipelines" / "workflow-defaults.yaml").read_text(encoding="utf-8"))
    assert patch["metadata"] == {"name": "workflow-controller-configmap"}
    assert set(patch["data"]) == {"workflowDefaults"}, "a merge patch replaces every key that it names"
    spec = yaml.safe_load(patch["data"]["workflowDefaults"])["spec"]
    # Stock in KFP 2.17.0: an hour after each end (workflow-controller-configmap).
    hour = dict.fromkeys(("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure"), 3600)
    assert spec.pop("ttlStrategy") == hour
    # Seen on Argo 4.0.5: without the expression, each of the nested levels repeats its steps; with limit 0, drivers are not retried.
    assert spec == {
        "templateDefaults": {
            "retryStrategy": {
                "limit": "2",
                "retryPolicy": "Always",
                "expression": "lastRetry.status == 'Error' || asInt(lastRetry.exitCode) > 0",
            }
        }
    }


@pytest.mark.parametrize("page", ["guides/cluster.md", "tutorials/kind.md"])
def test_the_guides_apply_the_patch(page: str) -> None:
    """An overlay cannot carry it: applying an incomplete ConfigMap would remove the other keys of Kubeflow Pipelines' own."""
    text = (PROJECT_ROOT / "docs" / page).read_text(encoding="utf-8")
    command = (
        "kubectl patch configmap workflow-controller-configmap --namespace kubeflow --type merge \\\n"
        "  --patch-file manifests/kubeflow-pipelines/workflow-defaults.yaml"
    )
    assert command in text
    assert "kubectl rollout restart deployment/workflow-controller --namespace kubeflow" in text
