"""Messages for errors of disks and directories."""

from __future__ import annotations

import errno

from mistere.common.errors import MistereError

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""

_SENTENCES = {
    errno.ENOSPC: "the disk is full; free some space or choose another --output",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another --output",
    errno.EROFS: "the folder is read-only; choose another folder",
    errno.EACCES: "the folder may not be written to; choose another folder, or correct its permissions",
    errno.EPERM: "the folder may not be written to; choose another folder, or correct its permissions",
}


def disk_error(error: OSError, where: object = "") -> MistereError | None:
    """The error with a message for the user, or None if it is not about disk space or permissions.

    Args:
        error: the error that was raised.
        where: the file or directory, if the error names none.
    """
    sentence = _SENTENCES.get(error.errno or 0)
    return None if sentence is None else MistereError(f"{sentence} ({error.filename or where}).")
