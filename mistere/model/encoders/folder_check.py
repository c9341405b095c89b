"""Checks of an encoder's folder before ``transformers`` reads it: a folder may come from a stranger.

Code in the folder (``auto_map``, ``*.py``) is never run. ``config.json`` and the tokenizer's files are parsed with limits, and a
tokenizer that multiplies a text's length is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, read_json

AFFECTS_RESULTS = False
"""A folder is accepted unchanged or refused."""

MAX_JSON_BYTES: Final = 128 * 2**20
"""A vocabulary of 250,000 tokens takes 20 MB."""
MAX_STEPS: Final = 200
"""Steps of a tokenizer's normalizer and pre-tokenizer."""
MAX_GROWTH: Final = 1000
"""By how much the steps that replace text may lengthen it together."""


def check_folder(folder: Path, name: str) -> None:
    """Check the JSON files and the safetensors headers of a folder.

    Args:
        folder: the folder, as ``save_pretrained`` of transformers writes it.
        name: names the encoder in errors.

    Raises:
        UsageError: a file is damaged, or exceeds a limit.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.json")):
        if file.stat().st_size > MAX_JSON_BYTES:
            raise UsageError(
                f"encoder {name}: {file} is larger than {MAX_JSON_BYTES // 2**20} MiB; choose another encoder."
            )
        try:
            content = read_json(file)
        except ParseError as error:
            raise UsageError(f"encoder {name}: {file} is not readable JSON ({error}); download it again.") from error
        if file.name == "tokenizer.json" and (reason := _tokenizer_problem(content)):
            raise UsageError(f"encoder {name}: {file} {reason}; choose another encoder.")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass  # opening compares the file's length with its header
        except (SafetensorError, OSError) as error:
            raise UsageError(f"encoder {name}: {file} is damaged ({error}); download it again.") from error


def _tokenizer_problem(content: Any) -> str:
    """Why a tokenizer may turn a short text into a long one; empty if it does not."""
    if not isinstance(content, dict):
        return "is no tokenizer"
    steps = [step for part in ("normalizer", "pre_tokenizer") for step in _steps(content.get(part))]
    if len(steps) > MAX_STEPS:
        return f"has more than {MAX_STEPS} steps"
    growth = 1.0
    for step in steps:
        growth *= _growth(step)
        if growth > MAX_GROWTH:
            return f"lengthens a text by more than {MAX_GROWTH} times"
    return ""


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, with those of its sequences."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            if isinstance(value, list):
                for item in value[: MAX_STEPS + 1]:
                    yield from _steps(item)


def _growth(step: dict[str, Any]) -> float:
    """By how much a step may lengthen a text of any length."""
    if step.get("type") != "Replace":
        return 1 + len(str(step.get("prepend", ""))) / 10
    pattern = step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    content = len(str(step.get("content", "")))
    return max(1.0, content / len(text)) if isinstance(text, str) and text else 1.0 + content
