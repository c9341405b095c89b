"""Digests of files, taken once per machine.

A note in the cache remembers the digest beside the file's size, times and inode; any difference hashes again. So opening a
verified artifact costs a ``stat`` per file, and a file that was edited or damaged in place is still found out, also when
its modification time was put back.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from mistere.common.paths import cache_directory

_CHUNK = 1 << 20


def digest_of(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """Hexadecimal digest of a file, read in a stream."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_once(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """As :func:`digest_of`, remembered until the file's size, inode, or modification or change time differs."""
    info = path.stat()
    stamp = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    name = hashlib.sha256(f"{algorithm}:{path.resolve()}".encode()).hexdigest()
    note = cache_directory("digests", name[:2], f"{name}.json")
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = digest_of(path, algorithm)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_name(f".{note.name}.{os.getpid()}")
        aside.write_text(json.dumps({"stamp": stamp, "digest": digest}), encoding="utf-8")
        aside.replace(note)
    except OSError:
        pass  # a cache that cannot be written only means hashing again next time
    return digest
