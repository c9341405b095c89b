"""Digests of files, computed once per machine.

The cache stores the digest with the file's size, times and inode; if any of them differs, the file is hashed again. Opening
a verified artifact costs one ``stat`` per file, and a file that was changed in place is detected even if its modification
time was restored.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from mistere.common.parsing.documents import read_json
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
    """Like :func:`digest_of`, cached until the file's size, inode, modification time or change time differs."""
    info = path.stat()
    stamp = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    name = hashlib.sha256(f"{algorithm}:{path.resolve()}".encode()).hexdigest()
    entry = cache_directory("digests", name[:2], f"{name}.json")
    try:
        known = read_json(entry)
        if known["stamp"] == stamp:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = digest_of(path, algorithm)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_name(f".{entry.name}.{os.getpid()}")
        partial.write_text(json.dumps({"stamp": stamp, "digest": digest}), encoding="utf-8")
        partial.replace(entry)
    except OSError:
        pass  # without the cache, the file is hashed again next time
    return digest
