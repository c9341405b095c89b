"""The location of a bundle: a store, and a digest in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.processes.command_line import command_line

TRAINING_RECORD: Final = "training.json"
"""What marks the output folder of ``mistere train``: the record of what the training was made of."""

_LOCATION = re.compile(r"^(?P<store>.+)/artifacts/ModelBundle/(?P<digest>[0-9a-f]{64})$")


def split_bundle_location(location: str, alternative: str = "") -> tuple[str, str]:
    """The store and the digest of a bundle's location; nothing is read but whether a folder is a training's.

    Args:
        location: ``<store>/artifacts/ModelBundle/<digest>``, a folder or ``s3://``.
        alternative: what else the user can do, after the form of a location.

    Raises:
        UsageError: it is no bundle's location; of the folder of a training, the message names the command that makes a bundle.
    """
    absolute = location if location.startswith("s3://") else str(Path(location).resolve())
    match = _LOCATION.match(absolute.rstrip("/"))
    if match is not None:
        return match["store"], match["digest"]
    if (Path(absolute) / TRAINING_RECORD).is_file():
        raise UsageError(
            f"{location} is the output of `mistere train` and not a bundle: make one with "
            f"`{command_line('mistere', 'register', location)}`."
        )
    raise UsageError(f"there is no bundle at {location}: name STORE/artifacts/ModelBundle/DIGEST{alternative}.")
