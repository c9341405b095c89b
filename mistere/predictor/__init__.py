"""The model server: a :class:`kserve.Model` on a :class:`kserve.ModelServer`, REST and gRPC."""
