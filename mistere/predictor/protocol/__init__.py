"""The endpoint's contract on the server's side: requests to dialogues, predictions to responses.

- ``rest`` and ``grpc_service`` are the two servers; ``data_plane`` is what they share.
- ``wire`` converts bytes to kserve's request type and back; ``codec`` converts V2 tensors, and ``v1`` converts V1 JSON, to
  dialogues and back. All of them check what they read; ``parameters`` checks the parameters for all three.
- ``openapi.json`` is the OpenAPI document; ``openapi`` fills in a server's settings.

The names in the contract are in :mod:`mistere.serving.protocol`, which clients import too.
"""
