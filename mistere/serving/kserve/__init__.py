"""The KServe InferenceService: manifest, live state, revisions, roll-out."""
