"""The InferenceService: rendering, roll-out, revisions."""
