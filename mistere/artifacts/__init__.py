"""What a stage leaves and where: object store, manifests, reading and writing, checkpoints, signing."""
