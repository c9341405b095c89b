"""The sample of whole dialogues that the predictor keeps for labelling, off by default; see :mod:`mistere.serving.sample`."""
