"""The model server: a :class:`kserve.Model` on a :class:`kserve.ModelServer`, with REST and gRPC.

- ``protocol/`` converts requests and responses: REST, gRPC, V1 JSON, tensors, the OpenAPI document.
- ``audio/`` reads the recordings in requests: sources, header checks.
- The modules here are the server itself: start, settings, model, batching, encoding, errors, metrics.
"""
