"""The splits of a dataset, in their order."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
