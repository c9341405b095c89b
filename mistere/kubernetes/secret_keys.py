"""The keys of the secrets for pods, and the environment variables that they become.

Only the names are in code and manifests; the values are in the pod's environment or in its mounted files. A step's pod also runs the launcher of
Kubeflow Pipelines, which stores the pipeline's own artifacts with the variables ``AWS_…`` if its root is ``s3://`` with
credentials from the environment (``fromEnv``). So the store's keys become variables of other names in the pod, and
:func:`use_storage_variables` sets ``AWS_…`` from them in the process of a stage or a predictor only.
"""

from __future__ import annotations

import os
from typing import Final

AFFECTS_RESULTS = False

STORAGE_VARIABLES: Final = {
    "AWS_ACCESS_KEY_ID": "MISTERE_S3_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "MISTERE_S3_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN": "MISTERE_S3_SESSION_TOKEN",
    "AWS_REGION": "MISTERE_S3_REGION",
    "AWS_ENDPOINT_URL": "MISTERE_S3_ENDPOINT_URL",
    "MISTERE_DATA_ENDPOINT": "MISTERE_DATA_ENDPOINT",
}
"""The variable in a pod for each key of the store's secret."""
STORAGE_KEYS: Final = tuple(STORAGE_VARIABLES)
TRACKING_KEYS: Final = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Keys of the tracking secret; each becomes the variable of the same name."""
WEBHOOK_KEYS: Final = ("MISTERE_WEBHOOK_URL",)
"""Keys of the webhook's secret; each becomes the variable of the same name."""
SIGNING_FILE: Final = "signing.key"
"""Key of the signing secret: a private key, which is mounted as a file."""
REGISTRY_FILE: Final = ".dockerconfigjson"
"""Key of an image pull secret: the credentials of its registries, as Docker and Podman store them."""

_ACCESS_KEY, _SESSION_TOKEN, _REGION = "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION"
_BOTO_REGION = "AWS_DEFAULT_REGION"
"""The variable that boto3 reads the region from; other S3 clients read ``AWS_REGION``."""


def use_storage_variables() -> None:
    """Set ``AWS_…`` in this process from the pod's variables, for every S3 client here and in child processes.

    Variables that the pod lacks stay as they are, except for a session token: it would belong to another access key.
    """
    given = {key: os.environ[variable] for key, variable in STORAGE_VARIABLES.items() if os.environ.get(variable)}
    if _ACCESS_KEY in given and _SESSION_TOKEN not in given:
        os.environ.pop(_SESSION_TOKEN, None)
    if _REGION in given:
        given[_BOTO_REGION] = given[_REGION]
    os.environ.update(given)
