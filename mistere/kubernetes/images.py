"""Container images by role, from the one file that names them: ``pipelines/images.lock.yaml``.

Kubeflow Pipelines finds finished steps by the image's name, not by what is behind it. A name whose image can change would let
a step of other code answer for this one, so only two kinds are taken: a digest, or the tag that is the hash of the source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.suggestions import did_you_mean

IMAGES_LOCK = PROJECT_ROOT / "pipelines" / "images.lock.yaml"
ROLES: Final = ("pipeline", "train", "predictor")

_REFERENCE = re.compile(
    r"(?P<repository>(?:[\w.-]+(?::\d+)?/)?[a-z0-9][a-z0-9._/-]*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_SOURCE_TAG = re.compile(r"src-(?P<source>[0-9a-f]{12})(?:-(?P<torch>[a-z0-9.]+))?")


@dataclass(frozen=True)
class ImageReference:
    """A name of an image that never means another image.

    Attributes:
        repository: registry and path.
        source: hash of the source that it was built from, as its tag says it; empty where only the digest is known.
        torch: the build of torch in it, such as ``cu130``; empty for the CPU's.
        digest: ``sha256:…``; empty where only the tag is known.
    """

    repository: str
    source: str = ""
    torch: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, where: str) -> ImageReference:
        """Read a reference.

        Args:
            text: ``REPOSITORY:src-HASH`` (or ``src-HASH-cu130``), ``REPOSITORY@sha256:DIGEST``, or with both.
            where: what names it, for the error.

        Raises:
            UsageError: it is no image's name, or one that can mean another image tomorrow.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise UsageError(f"{where} is {text!r}, which is no image's name: run `make compile` to write it anew.")
        tag, digest = match["tag"] or "", match["digest"] or ""
        built = _SOURCE_TAG.fullmatch(tag)
        if not digest and built is None:
            said = f"the tag {tag!r}" if tag else "no tag, which means 'latest',"
            raise UsageError(
                f"{where} is {text!r}, and {said} can mean another image tomorrow, for which the steps cached under this name "
                "would still answer: name its digest (NAME@sha256:…), or run `make compile` for the tag of this source."
            )
        source, torch = (built["source"], built["torch"] or "") if built else ("", "")
        return cls(match["repository"], source, torch, digest)

    def __str__(self) -> str:
        """The name as an engine takes it."""
        tag = f":src-{self.source}{f'-{self.torch}' if self.torch else ''}" if self.source else ""
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def read_images(path: Path) -> dict[str, ImageReference]:
    """The images that a lock file names, by role.

    Raises:
        UsageError: the file is not readable, lacks a role, or names an image that is not fixed.
    """
    try:
        named = yaml.safe_load(path.read_text(encoding="utf-8"))["images"]
        texts = {str(role): str(text) for role, text in named.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} names no images: run `make compile` to write it anew.") from error
    if missing := [role for role in ROLES if role not in texts]:
        raise UsageError(f"{path} names no image for {missing[0]}: run `make compile` to write it anew.")
    return {role: ImageReference.parse(text, f"{role} in {path.name}") for role, text in texts.items()}


@cache
def _images() -> dict[str, ImageReference]:
    return read_images(IMAGES_LOCK)


def image(role: str) -> str:
    """The image for a role (``pipeline``, ``train``, ``predictor``).

    Raises:
        UsageError: there is no such role, or its image is not fixed.
    """
    if role not in _images():
        raise UsageError(f"there is no image for {role!r}{did_you_mean(role, _images())}")
    return str(_images()[role])
