"""The connection to Kubeflow Pipelines: its address, the token, the client, and each failure as one sentence."""
