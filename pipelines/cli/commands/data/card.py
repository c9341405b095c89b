"""``mistere data card``: writes the data card of a dataset that no import wrote one for, or whose files have changed."""

from __future__ import annotations

from pathlib import Path

from mistere.common.errors import UsageError
from mistere.data.croissant import CARD, CardFacts, write_data_card


def card(directory: Path) -> None:
    """Write ``croissant.json`` beside ``dataset.yaml`` and print where it is.

    Args:
        directory: a dataset in the dataset form.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory: name a folder with a dataset.yaml and parquet shards.")
    write_data_card(CardFacts.of_folder(directory), directory)
    print(directory / CARD)
