"""The Open Inference Protocol: REST, gRPC, V1, and the OpenAPI document."""
