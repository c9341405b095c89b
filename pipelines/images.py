"""Tags of the images: the hash of the source and lock that they are built from.

``python -m pipelines.images`` writes ``images.lock.yaml`` anew; with ``--check`` it says whether that is
needed, with ``--tag`` it prints the tag.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import yaml

from components.core.images import IMAGES_LOCK
from components.core.places import PROJECT_ROOT

_ROLES = ("pipeline", "train", "predictor")
_HEADER = """\
# The one place that names images. The tag is the hash of the source and lock that an image is built from
# (`make compile` writes it), so that a changed line is a changed image and no cache answers for it.
"""


def source_hash() -> str:
    """Hash of everything that goes into an image: packages, templates, profiles, locks, Dockerfile."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.relative_to(PROJECT_ROOT).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _sources() -> list[Path]:
    kept = {".py", ".html", ".yaml"}
    found = [
        path
        for folder in ("components", "pipelines")
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.suffix in kept and path.name not in {"images.lock.yaml", "retraining.yaml", "schedules.yaml"}
    ]
    found += [path for path in (PROJECT_ROOT / "docker").rglob("*") if path.is_file()]
    found += sorted(PROJECT_ROOT.glob("requirements*.lock"))
    return sorted([*found, PROJECT_ROOT / "pyproject.toml"])


def lock_text() -> str:
    """What ``images.lock.yaml`` should hold for the tree as it is."""
    tag = source_hash()
    images = {role: f"mistere/{role}-python:src-{tag}" for role in _ROLES}
    return _HEADER + yaml.safe_dump({"images": images}, sort_keys=False)


def main(arguments: list[str]) -> int:
    """Write the file, or check it."""
    if "--tag" in arguments:
        print(f"src-{source_hash()}")
        return 0
    if "--check" in arguments:
        if IMAGES_LOCK.read_text(encoding="utf-8") == lock_text():
            return 0
        print(f"{IMAGES_LOCK.name} is not of this tree: run `make compile`.", file=sys.stderr)
        return 1
    IMAGES_LOCK.write_text(lock_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
