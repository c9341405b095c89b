"""Names of the images: each tag is the hash of the source and lock that the image is built from.

``python -m pipelines.images`` rewrites ``images.lock.yaml``: repositories and torch builds are kept, digests only if they belong
to this source. ``--registry``, ``--torch`` and ``--digest`` change the file; ``--check`` checks that it matches the tree; ``--tag``,
``--version`` and ``--build ROLE`` print names.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from mistere.common.digests.code import BUILD_FILES, LAYERS, NOT_IN_IMAGES, tree_digest
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT, require_checkout
from mistere.kubernetes.images import IMAGES_LOCK, ROLES, ImageReference, read_images

DEFAULT_REGISTRY = "localhost/mistere"
"""Repository of images that are only built locally; no registry has this name, so none can serve a different image under it."""

_HEADER = """\
# The names of all images. The tag is the hash of the source and lock that an image is built from (written by
# `make compile`), so changed code always has another image. A released image also has its digest.
# `python -m pipelines.images --registry REGISTRY/PATH` changes their registry.
"""


def source_hash() -> str:
    """Hash of everything that an image is built from: packages with all their files, locks, Dockerfile.

    Python files are hashed without comments and docstrings (:func:`mistere.common.digests.code.code_meaning`): an image that
    differs only in comments computes the same, so it is neither rebuilt nor pulled again. Line numbers in its tracebacks
    are those of the commit that it was built from, which is in its label.
    """
    return tree_digest(_sources())[:12]


def _sources() -> list[Path]:
    files = [
        path
        for folder in LAYERS
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_IN_IMAGES
    ]
    files += [path for pattern in BUILD_FILES for path in PROJECT_ROOT.glob(pattern)]
    return sorted(files)


def lock_text(changes: Mapping[str, ImageReference] | None = None) -> str:
    """Content of ``images.lock.yaml`` for the current tree.

    Args:
        changes: images by role that replace those in the file; None for no changes.
    """
    source = source_hash()
    images = {}
    for role, known in {**known_images(), **(changes or {})}.items():
        digest = known.digest if known.source == source else ""
        images[role] = str(replace(known, source=source, digest=digest))
    return _HEADER + yaml.safe_dump({"images": images}, sort_keys=False, width=200)


def known_images() -> dict[str, ImageReference]:
    """Images in the current file; the defaults if it cannot be read or is invalid."""
    try:
        return read_images(IMAGES_LOCK)
    except UsageError:
        return {role: ImageReference(f"{DEFAULT_REGISTRY}/{role}-python") for role in ROLES}


def _changed(registry: str | None, torch: Sequence[str], digests: Sequence[str]) -> dict[str, ImageReference]:
    """The images with the changes from the command line.

    Raises:
        UsageError: an option's value is invalid.
    """
    images = known_images()
    if registry is not None:
        images = {
            role: replace(image, repository=f"{registry.rstrip('/')}/{role}-python") for role, image in images.items()
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
    parser.add_argument("--check", action="store_true", help="exit 1 if images.lock.yaml does not match this tree")
    parser.add_argument("--tag", action="store_true", help="print the tag of this tree")
    parser.add_argument(
        "--version", action="store_true", help="print the version of this tree, with -dirty if code is uncommitted"
    )
    parser.add_argument("--build", metavar="ROLE", choices=ROLES, help="print name and torch of the image to build")
    parser.add_argument("--registry", help="registry and path of the images")
    parser.add_argument("--torch", action="append", default=[], metavar="ROLE=cu130", help="torch build of the image")
    parser.add_argument(
        "--digest", action="append", default=[], metavar="ROLE=sha256:…", help="digest of a pushed image"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, check it, or print names from it."""
    options = _options(arguments)
    try:
        require_checkout("python -m pipelines.images")
    except UsageError as error:
        print(f"images: {error}", file=sys.stderr)
        return int(error.exit_code)
    if options.tag:
        print(f"src-{source_hash()}")
    elif options.version:
        from pipelines.kubeflow.version import this_tree  # which imports this module

        print(this_tree().described)
    elif options.build:
        named = replace(known_images()[options.build], source=source_hash(), digest="")
        print(named, named.torch)
    elif options.check:
        if IMAGES_LOCK.read_text(encoding="utf-8") != lock_text():
            print(f"{IMAGES_LOCK.name} does not match this tree: run `make compile`.", file=sys.stderr)
            return 1
    else:
        try:
            read_images(IMAGES_LOCK)
        except UsageError as error:
            print(f"images: {error} It is rewritten with the names of {DEFAULT_REGISTRY}.", file=sys.stderr)
        try:
            text = lock_text(_changed(options.registry, options.torch, options.digest))
        except MistereError as error:
            print(f"images: {error}", file=sys.stderr)
            return int(error.exit_code)
        IMAGES_LOCK.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
