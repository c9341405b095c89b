"""Digests of code and of files."""
