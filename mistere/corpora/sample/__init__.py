"""The sample: a synthetic spoken corpus, generated from a seed and small enough to be part of the repository."""

from __future__ import annotations

from mistere.corpora.sample.assembly import make_sample

__all__ = ["make_sample"]
