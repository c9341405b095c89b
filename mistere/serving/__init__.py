"""The endpoint from outside the server: names in its contract, client, deployments, and the smoke test.

``kserve/`` renders the InferenceService and rolls it out.
"""
