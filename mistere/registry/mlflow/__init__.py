"""The model registry in MLflow: the connection to it, the runs that it shows, and the versions of a model with their aliases."""
