"""``validate_data``: is this dataset fit to train on? Facts of every utterance, a suite of expectations, a verdict."""
