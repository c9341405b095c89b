"""Encoding the utterances of requests: what each one needs and costs, a cache of vectors, and computing the missing ones."""
