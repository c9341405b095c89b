"""The order of the work: small requests in batches, long ones in slices beside them. What counts is the price, not the number of requests.

- ``pace`` says what a request costs: seconds of audio, with tokens of text converted to them, and how fast this machine computes them;
- ``batcher`` answers requests in batches;
- ``slices`` encodes long requests before that, slice by slice, in a thread of lower priority.
"""
