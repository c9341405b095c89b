"""Names of the images: each tag is the hash of the source and lock that the image is built from.

``python -m pipelines.images`` writes ``images.lock.yaml`` anew, keeping what it says of repositories and torch, and digests as
long as they are of this source. ``--registry``, ``--torch`` and ``--digest`` change what it says; ``--check`` says whether it is
of this tree; ``--tag`` and ``--build ROLE`` print.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from mistere.common.code_digest import tree_digest
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT, require_checkout
from mistere.kubernetes.images import IMAGES_LOCK, ROLES, ImageReference, read_images

DEFAULT_REGISTRY = "localhost/mistere"
"""Where images that were only built here are; no registry is of that name, so nobody else can offer one under it."""

_RECIPE = ("Dockerfile", "install.sh", "index.sh", "debian_packages.py")
_LEFT_OUT = frozenset({"images.lock.yaml", "retraining.yaml", "schedules.yaml"})
_HEADER = """\
# The one place that names images. The tag is the hash of the source and lock that an image is built from
# (`make compile` writes it), so that a changed line is a changed image and no cache answers for it. A released image has
# its digest besides. `python -m pipelines.images --registry REGISTRY/PATH` moves them to a registry.
"""


def source_hash() -> str:
    """Hash of everything that goes into an image: packages with all their files, locks, Dockerfile.

    Python counts with its meaning, without comments and docstrings (:func:`mistere.common.code_digest.code_meaning`): an
    image that differs in comments only computes the same, so it is neither built nor pulled again. Line numbers in its
    traces are then those of the commit that it was built from, which its label names.
    """
    return tree_digest(_sources())[:12]


def _sources() -> list[Path]:
    found = [
        path
        for folder in ("mistere", "components", "pipelines")
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in _LEFT_OUT
    ]
    docker = PROJECT_ROOT / "docker"
    found += [docker / name for name in _RECIPE] + list(docker.glob("*.lock"))
    found += [PROJECT_ROOT / "pyproject.toml", *PROJECT_ROOT.glob("requirements*.lock")]
    return sorted(found)


def lock_text(changes: Mapping[str, ImageReference] | None = None) -> str:
    """What ``images.lock.yaml`` should hold for the tree as it is.

    Args:
        changes: by role, what is known better than the file; None for what the file says.
    """
    source = source_hash()
    images = {}
    for role, known in {**known_images(), **(changes or {})}.items():
        digest = known.digest if known.source == source else ""
        images[role] = str(replace(known, source=source, digest=digest))
    return _HEADER + yaml.safe_dump({"images": images}, sort_keys=False, width=200)


def known_images() -> dict[str, ImageReference]:
    """What the file says now; a file that cannot be read, or names what it may not, counts as none."""
    try:
        return read_images(IMAGES_LOCK)
    except UsageError:
        return {role: ImageReference(f"{DEFAULT_REGISTRY}/{role}-python") for role in ROLES}


def _changed(registry: str | None, torch: Sequence[str], digests: Sequence[str]) -> dict[str, ImageReference]:
    """The images with what the command line says of them.

    Raises:
        UsageError: it says something that cannot be.
    """
    images = known_images()
    if registry is not None:
        images = {
            role: replace(one, repository=f"{registry.rstrip('/')}/{role}-python") for role, one in images.items()
        }
    for text in torch:
        role, backend = _assigned("--torch", text, r"cpu|[a-z]+[0-9.]+", "cu130")
        images[role] = replace(images[role], torch="" if backend == "cpu" else backend, digest="")
    for text in digests:
        role, digest = _assigned("--digest", text, r"sha256:[0-9a-f]{64}", "sha256:DIGEST")
        images[role] = replace(images[role], source=source_hash(), digest=digest)
    return images


def _assigned(option: str, text: str, pattern: str, example: str) -> tuple[str, str]:
    role, _, value = text.partition("=")
    if role not in ROLES or not re.fullmatch(pattern, value):
        raise UsageError(f"{option} {text}: write it as ROLE={example}, with a role of {', '.join(ROLES)}.")
    return role, value


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.images", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="exit 1 where images.lock.yaml is not of this tree")
    parser.add_argument("--tag", action="store_true", help="print the tag of this tree")
    parser.add_argument("--build", metavar="ROLE", choices=ROLES, help="print name and torch of the image to build")
    parser.add_argument("--registry", help="the registry and path that the images are to have")
    parser.add_argument("--torch", action="append", default=[], metavar="ROLE=cu130", help="the build of torch in it")
    parser.add_argument("--digest", action="append", default=[], metavar="ROLE=sha256:…", help="of a pushed image")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, check it, or print from it."""
    options = _options(arguments)
    try:
        require_checkout("python -m pipelines.images")
    except UsageError as error:
        print(f"images: {error}", file=sys.stderr)
        return int(error.exit_code)
    if options.tag:
        print(f"src-{source_hash()}")
    elif options.build:
        named = replace(known_images()[options.build], source=source_hash(), digest="")
        print(named, named.torch)
    elif options.check:
        if IMAGES_LOCK.read_text(encoding="utf-8") != lock_text():
            print(f"{IMAGES_LOCK.name} is not of this tree: run `make compile`.", file=sys.stderr)
            return 1
    else:
        try:
            read_images(IMAGES_LOCK)
        except UsageError as error:
            print(f"images: {error} It is written anew, with the names of {DEFAULT_REGISTRY}.", file=sys.stderr)
        try:
            text = lock_text(_changed(options.registry, options.torch, options.digest))
        except MistereError as error:
            print(f"images: {error}", file=sys.stderr)
            return int(error.exit_code)
        IMAGES_LOCK.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
