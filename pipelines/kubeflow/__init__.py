"""Kubeflow Pipelines, as `mistere submit` and `mistere schedule` speak to it."""
