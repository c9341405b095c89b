"""Look up what an encoder's source names: a model on the hub, and whether all of it can be loaded."""
