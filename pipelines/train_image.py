"""Check before a run on a cluster that the train image has the packages which the fine-tuning needs.

The image is built from the locks of this checkout, so their names say what it holds. What only a look into the image shows, such
as the files of a folder, is the first thing that the step ``finetune_encoder`` checks.
"""

from __future__ import annotations

import re
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.loader import Config
from mistere.model.encoders.source_state import package_folder

_LOCKS: Final = ("docker/train.lock", "requirements-encoders.lock")
_QUANTISATION: Final = "bitsandbytes"


def check_train_image(config: Config, folder: Path = PROJECT_ROOT) -> None:
    """Refuse an encoder that needs a package which the train image lacks.

    Args:
        config: the complete configuration.
        folder: the checkout; without the locks nothing is checked.

    Raises:
        UsageError: a package is in none of the locks.
    """
    locks = [folder / name for name in _LOCKS]
    if not all(lock.is_file() for lock in locks):
        return
    packages = {
        _normalized(match.group())
        for lock in locks
        for line in lock.read_text(encoding="utf-8").splitlines()
        if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))
    }
    for modality, settings in config.encoders().items():
        if settings.tuning == "qlora" and _QUANTISATION not in packages:
            raise UsageError(
                f"{modality}.tuning=qlora needs {_QUANTISATION}, which the train image lacks: add it to the group `train` in pyproject.toml, "
                f"run `make lock` and build the images, or set {modality}.tuning=lora."
            )
    sources = {f"{modality}.source": settings.source for modality, settings in config.encoders().items()}
    for setting, source in {**sources, "data.transcription.source": config.data.transcription.source}.items():
        kind, _, name = source.partition(":")
        if kind == "package" and _normalized(name) not in packages and not packages & _distributions(name):
            raise UsageError(
                f"{setting}={source}: the train image has no package {name}: add it to requirements-encoders.lock and build "
                "the images, or name another source."
            )


def _distributions(package: str) -> set[str]:
    """The names by which a lock may hold a package that is installed on this machine."""
    if package_folder(package) is None:  # the next call reads the metadata of every package
        return set()
    return {_normalized(name) for name in packages_distributions().get(package.replace("-", "_"), [])}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
