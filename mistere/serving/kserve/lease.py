"""The lease on a release's journal, as a roll-out knows it."""

from __future__ import annotations

from typing import Protocol

from mistere.artifacts.object_store import ConflictError


class LeaseLostError(ConflictError):
    """Another process took over the journal, because the lease of this one had expired.

    Attributes:
        superseded: whether another release of the service has begun since, so that the service is no longer this one's to restore.
    """

    def __init__(self, message: str, *, superseded: bool = False) -> None:
        super().__init__(message)
        self.superseded = superseded


class RenewLease(Protocol):
    """Renews the lease on the release's journal; it raises if another process has taken the release over."""

    def __call__(self, share: int | None = None) -> None:
        """Renew the lease.

        Args:
            share: a percentage of the requests that the candidate is about to get, for the journal; None if it does not change.
        """


def no_lease(share: int | None = None) -> None:
    """Replaces the lease where there is no journal."""
