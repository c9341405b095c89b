"""Deletes one thing after the other, where one that cannot be deleted must not keep the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mistere.common.errors import MistereError


class UndeletedError(MistereError):
    """Something that should be deleted is still there.

    Attributes:
        deleted: how many others were deleted.
    """

    def __init__(self, message: str, deleted: int) -> None:
        super().__init__(message)
        self.deleted = deleted


def delete_each(delete: Callable[[str], object], names: Iterable[str]) -> int:
    """Delete all; returns how many they were.

    Args:
        delete: deletes one.
        names: of all.

    Raises:
        UndeletedError: with the first failure of several, after everything else was deleted.
    """
    deleted, failures = 0, list[MistereError]()
    for name in names:
        try:
            delete(name)
            deleted += 1
        except MistereError as error:
            failures.append(error)
    if failures:
        raise UndeletedError(str(failures[0]), deleted) from failures[0]
    return deleted
