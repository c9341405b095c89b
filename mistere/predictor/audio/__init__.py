"""Recordings in requests: S3 locations, and checks of headers before decoding."""
