"""Errors, paths, digests, progress, threads, URLs; imports nothing else of ours."""
