"""``validate_data``: check whether a dataset is fit to train on: facts of every utterance, expectations, a verdict."""
