"""Statistics of what the predictor answers, for Prometheus and for the store; see :mod:`mistere.serving.traffic`."""
