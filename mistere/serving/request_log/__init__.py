"""The log of an endpoint's requests: a line for each in the store, without any content; its lines, files and retention."""
