"""Training on several nodes of a cluster: a Kubeflow TrainJob, its pods, and the process that runs on each node."""

AFFECTS_RESULTS = False
"""How nodes are requested and watched changes no result."""
