"""The price of work, in seconds of audio, and how long this machine needs for it."""

from __future__ import annotations

from typing import Final

TOKENS_PER_SECOND: Final = 25.0
"""Tokens of text that cost as much as a second of audio, in encoders of about the same size."""
_SHARE: Final = 0.2
"""Weight of the latest measurement in the average."""
_PATIENCE: Final = 4.0
"""A request goes before an earlier one if it is cheaper by more than its later arrival, divided by this."""


class Pace:
    """Seconds of computing per second of audio, averaged over what this server has computed so far.

    Args:
        initial: assumed before the first measurement; a small encoder on two cores.
    """

    def __init__(self, initial: float = 0.01) -> None:
        self._average = initial

    def observe(self, price: float, seconds: float) -> None:
        """Take a measurement into the average.

        Args:
            price: what was computed, seconds of audio; little work says nothing about the pace.
            seconds: the time it took.
        """
        if price >= 1.0:
            self._average += _SHARE * (seconds / price - self._average)

    def seconds(self, price: float) -> float:
        """Expected time of computing for a price."""
        return price * self._average

    def price_within(self, seconds: float, least: float) -> float:
        """The price that this machine computes within a time, at least ``least``."""
        return max(least, seconds / max(self._average, 1e-9))

    def turn(self, arrival: float, price: float) -> float:
        """A number by which requests are served, the lowest first: cheap ones soon, and expensive ones after a bounded time."""
        return arrival + _PATIENCE * self.seconds(price)
