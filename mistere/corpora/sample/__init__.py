"""The sample: a synthetic spoken corpus, made here from a seed, small enough to travel with the repository."""

from __future__ import annotations

from mistere.corpora.sample.assembly import make_sample

__all__ = ["make_sample"]
