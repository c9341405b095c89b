"""A process that releases a bundle, or gives it a share by hand, to be killed.

``python -m tests.cluster.canary.release_process STORE DEPLOYMENT HTTP_PORT GRPC_PORT [SHARE]``
"""

from __future__ import annotations

import sys

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.kubernetes.api import connect
from mistere.registry.release.atomic_release import release
from mistere.registry.release.canary import hold_canary
from mistere.registry.release.champion import read_champion
from mistere.serving import protocol
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.canary import route
from mistere.serving.kserve.canary.by_hand import start_canary
from mistere.serving.kserve.cluster_release import Rolling
from mistere.serving.kserve.rollout import ClusterDeployment
from tests.cluster.test_release_on_cluster import champion, mirror


def main() -> None:
    location, text, http_port, grpc_port, *share = sys.argv[1:]
    protocol.HTTP_PORT, protocol.GRPC_PORT = int(http_port), int(grpc_port)  # type: ignore[misc]
    route.SETTLING_SECONDS = 0.0  # type: ignore[misc]
    store = open_store(location)
    deployment = Deployment.model_validate_json(text)
    bundle = open_artifact(store, ModelBundle, deployment.bundle_digest)
    cluster, new = ClusterDeployment(connect(), deployment, print), champion(bundle)
    if share:
        percent = int(share[0])
        hold_canary(
            store,
            mirror,
            new,
            deployment,
            percent,
            "why",
            "ann@laptop",
            lambda renew_lease: start_canary(cluster, bundle, percent, renew_lease),
        )
        return
    release(store, mirror, read_champion(store), new, deployment, "deploy", "why", "who", Rolling(cluster, bundle))


if __name__ == "__main__":
    main()
