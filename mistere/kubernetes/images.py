"""Container images by role, from ``pipelines/images.lock.yaml``.

Kubeflow Pipelines caches steps by the image's name, not its contents. Under a name whose image can change it would reuse results
of other code, so only two forms are accepted: a digest, or a tag that is the hash of the source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, read_yaml
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
    """An immutable reference to an image.

    Attributes:
        repository: registry and path.
        source: hash of the source from which the image was built, from the tag; empty without one.
        torch: the torch build in the image, such as ``cu130``; empty for the CPU build.
        digest: ``sha256:…``; empty without one.
    """

    repository: str
    source: str = ""
    torch: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str, where: str) -> ImageReference:
        """Parse a reference.

        Args:
            text: ``REPOSITORY:src-HASH`` (or ``src-HASH-cu130``), ``REPOSITORY@sha256:DIGEST``, or both.
            where: the source of the text, for the error message.

        Raises:
            UsageError: the text is not a reference, or the image under it can change.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{where} is {text!r}, which is not an image reference: run `make compile` to write it again."
            )
        tag, digest = match["tag"] or "", match["digest"] or ""
        built = _SOURCE_TAG.fullmatch(tag)
        if not digest and built is None:
            name = f"the tag {tag!r}" if tag else "no tag, which means 'latest',"
            raise UsageError(
                f"{where} is {text!r}, and {name} can point to another image later, for which steps cached under this name "
                "would be reused: use its digest (NAME@sha256:…), or run `make compile` for the tag of this source."
            )
        source, torch = (built["source"], built["torch"] or "") if built else ("", "")
        return cls(match["repository"], source, torch, digest)

    def __str__(self) -> str:
        """The reference as container engines read it."""
        tag = f":src-{self.source}{f'-{self.torch}' if self.torch else ''}" if self.source else ""
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def read_images(path: Path) -> dict[str, ImageReference]:
    """Read a lock file; returns role → image.

    Raises:
        UsageError: the file is not readable, lacks a role, or has a mutable reference.
    """
    try:
        named = read_yaml(path)["images"]
        texts = {str(role): str(text) for role, text in named.items()}
    except (OSError, ParseError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} does not list images: run `make compile` to write it again.") from error
    if missing := [role for role in ROLES if role not in texts]:
        raise UsageError(f"{path} has no image for {missing[0]}: run `make compile` to write it again.")
    return {role: ImageReference.parse(text, f"{role} in {path.name}") for role, text in texts.items()}


@cache
def _images() -> dict[str, ImageReference]:
    return read_images(IMAGES_LOCK)


def image(role: str) -> str:
    """The image of a role (``pipeline``, ``train``, ``predictor``).

    Raises:
        UsageError: the role is unknown, or its reference is mutable.
    """
    if role not in _images():
        raise UsageError(f"there is no image for {role!r}{did_you_mean(role, _images())}")
    return str(_images()[role])
