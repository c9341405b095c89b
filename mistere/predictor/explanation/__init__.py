"""Explain predictions on request: which modalities of an utterance and which other utterances decided its label.

- ``masking`` says which predictions of changed dialogues that takes, and what follows from them;
- ``queue`` admits and computes them beside the other requests.
"""
