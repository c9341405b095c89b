"""Values of the mixture's automatic settings, for tests that shall not depend on the rules that choose them."""

from __future__ import annotations

from typing import Any

FIXED: dict[str, Any] = {
    "learning_rate": 1e-5,
    "expert_rates": {},
    "weight_decay": 0.0,
    "epochs": 100,
    "patience": 20,
    "projection": 0,
    "input_dropout": 0.0,
    "skip_dropout": 0.0,
    "context_dropout": 0.0,
    "fusion_dropout": 0.5,
}
