"""Container images by role, from the one file that names them: ``pipelines/images.lock.yaml``."""

from __future__ import annotations

from functools import cache

import yaml

from components.core.places import PROJECT_ROOT

IMAGES_LOCK = PROJECT_ROOT / "pipelines" / "images.lock.yaml"


@cache
def _images() -> dict[str, str]:
    images: dict[str, str] = yaml.safe_load(IMAGES_LOCK.read_text(encoding="utf-8"))["images"]
    return images


def image(role: str) -> str:
    """The image for a role (``pipeline``, ``train``, ``predictor``)."""
    return _images()[role]
