"""Recordings in requests: the store of recordings sent before, S3 locations, and checks of headers before decoding."""
