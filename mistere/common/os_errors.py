"""Messages for errors of disks, directories and memory."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from mistere.common.errors import MistereError

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""

_SENTENCES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EFBIG: "the file is larger than this system or its limits (`ulimit -f`) allow; raise the limit",
    errno.EIO: "the disk reports an error; check it and the limit on the size of files (`ulimit -f`)",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the folder is read-only; choose another folder",
    errno.EACCES: "the folder may not be written to; choose another folder, or correct its permissions",
    errno.EPERM: "the folder may not be written to; choose another folder, or correct its permissions",
}


_FAILED_WRITE: Final = (
    (re.compile(r"database or disk is full"), errno.ENOSPC),  # SQLite
    (re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory"), errno.ENOMEM),  # torch
    (re.compile(r"disk I/O error"), errno.EIO),  # SQLite
    (re.compile(r"\d+ requested and \d+ written"), errno.ENOSPC),  # numpy
    (re.compile(r"inline_container\.cc.*(unexpected pos|file write failed)"), errno.ENOSPC),  # torch.save
)
"""How libraries report a failed write, or a failed allocation, without its number."""
_MEMORY: Final = (
    "the process needs more memory than it may use: raise its limit (`ulimit -v`, or cluster.steps.STEP.memory on a cluster), or lower the "
    "batch size; finished steps are found again."
)
_NUMBER = re.compile(r"No space left on device|\(os error (\d+)\)")
"""How libraries in Rust, such as safetensors, quote it."""


def disk_error(error: BaseException, where: object = "") -> MistereError | None:
    """The error with a message for the user, or None if it is not about disk space, permissions or memory.

    Libraries that write files raise errors of their own, or wrap them; what they were raised for is searched too.

    Args:
        error: the error that was raised.
        where: the file or directory, if the error names none.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or _number(cause) == errno.ENOMEM:
            return MistereError(_MEMORY)
        sentence = _SENTENCES.get(_number(cause))
        if sentence is not None:
            return MistereError(f"{sentence} ({getattr(cause, 'filename', None) or where or 'its name is not known'}).")
        cause = cause.__cause__ or cause.__context__
    return None


def reserve_blocks(path: Path) -> None:
    """Allocate the blocks of a sparse file before it is mapped for writing.

    On a full disk, writing to a mapped hole ends the process with SIGBUS, without a message.

    Raises:
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            os.posix_fallocate(file.fileno(), 0, size)


def _number(error: BaseException) -> int:
    """The number of a system error; 0 for another error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)[:1000]
    if match := _NUMBER.search(text):
        return int(match[1] or errno.ENOSPC)
    return next((number for pattern, number in _FAILED_WRITE if pattern.search(text)), 0)
