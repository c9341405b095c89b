"""What every package uses: errors, paths, names, URLs, progress, ``digests/`` and ``processes/``; imports nothing else of ours."""
