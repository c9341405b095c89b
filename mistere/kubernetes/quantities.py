"""Amounts of resources as Kubernetes writes them."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

GIB: Final = 2**30


def quantity(value: str | int | None) -> Decimal:
    """The value of a Kubernetes quantity, in units or bytes."""
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(value or 0))


def in_gib(value: float | Decimal) -> str:
    """Bytes as a quantity in whole GiB, rounded up: ``9Gi``."""
    return f"{-(-int(value) // GIB)}Gi"
