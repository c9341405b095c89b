"""``mistere data convert-pickle``: read a pickle's features without running it."""

from __future__ import annotations

from pathlib import Path

from mistere.common.errors import UsageError
from pipelines.cli.output.console import print_text


def convert_pickle(source: Path, target: Path, names: str, vectors: str) -> None:
    """Write the selected features to an npz file, or list what the pickle holds.

    Raises:
        UsageError: one of the two patterns is given without the other.
    """
    from mistere.corpora.features import conversion

    if bool(names) != bool(vectors):
        raise UsageError("--names and --vectors belong together: name both, or neither to list the contents.")
    if names:
        print_text(conversion.convert_pickle(source, target, names, vectors))
        return
    lines = list(conversion.describe_pickle(source))
    print_text("\n".join([f"{source} holds, by path:", *(f"  {line}" for line in lines)]))
    print("Convert it with --names PATH and --vectors PATH; * stands for any one step of a path.")
