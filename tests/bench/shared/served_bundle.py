"""The bundle that a benchmark serves, and its example dialogue."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mistere.common.errors import UsageError
from mistere.data.dataset import Utterance
from mistere.serving.deployment import service_and_bundle
from mistere.serving.example_dialogue import read_example
from mistere.serving.vectors import VectorDialogue


def bundle_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that name a bundle; the benchmark adds its own.

    Args:
        description: the documentation of the benchmark.
    """
    parser = argparse.ArgumentParser(
        prog=f"mistere bench {Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", help="folder of a bundle; the deployed one of --output by default")
    parser.add_argument("--output", type=Path, default=Path("output"), help="output directory of mistere run")
    return parser


def chosen_bundle(arguments: argparse.Namespace) -> str:
    """The location of the bundle.

    Raises:
        UsageError: none is named, and nothing is deployed.
    """
    return service_and_bundle(arguments.output, arguments.bundle)[1]


def bundle_and_example(arguments: argparse.Namespace) -> tuple[str, list[Utterance]]:
    """The location of the bundle, and its example dialogue.

    Raises:
        UsageError: none is named and nothing is deployed, or it has no example dialogue of utterances.
    """
    bundle = chosen_bundle(arguments)
    example = read_example(Path(bundle))
    if example is None or isinstance(example.dialogue, VectorDialogue):
        raise UsageError(f"{bundle} has no example dialogue of utterances: name another bundle with --bundle.")
    return bundle, list(example.dialogue)
