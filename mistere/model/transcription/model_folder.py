"""What the files of a stored transcription model say: the settings of its decoding, and its special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import ArtifactError, UsageError
from mistere.common.parsing.documents import ParseError, read_json

FAMILY: Final = "whisper_transcription"
_ENGLISH_VOCABULARY: Final = 51864
"""Tokens of a Whisper for English only, where ``generation_config.json`` does not say what it is for."""


@dataclass(frozen=True)
class Decoding:
    """Settings of the decoding, from ``generation_config.json``.

    Attributes:
        multilingual: whether the model has languages to choose from; otherwise it transcribes English only.
        suppressed: tokens that never occur in a transcript.
        suppressed_first: tokens that are not the first of a transcript.
    """

    multilingual: bool
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path, vocabulary: int) -> Decoding:
        """Read the settings; where the file is missing, the size of the vocabulary tells the languages."""
        file = folder / "generation_config.json"
        try:
            stated = read_json(file) if file.is_file() else {}
        except ParseError:
            stated = {}
        multilingual = stated.get("is_multilingual")
        return cls(
            multilingual if isinstance(multilingual, bool) else vocabulary > _ENGLISH_VOCABULARY,
            _token_ids(stated.get("suppress_tokens"), vocabulary),
            _token_ids(stated.get("begin_suppress_tokens"), vocabulary),
        )

    def plain(self) -> dict[str, Any]:
        """The settings under the names of ``transformers``."""
        return {
            "is_multilingual": self.multilingual,
            "suppress_tokens": list(self.suppressed),
            "begin_suppress_tokens": list(self.suppressed_first),
        }


@dataclass(frozen=True)
class Tokens:
    """The special tokens of a Whisper.

    Attributes:
        start: begins every prompt.
        end: ends a transcript; the tokens from it on are special.
        transcribe: asks for a transcript, not a translation; None for a model of English only.
        no_timestamps: asks for a transcript without times.
        languages: token by the language's code.
    """

    start: int
    end: int
    transcribe: int | None
    no_timestamps: int
    languages: dict[str, int]

    @classmethod
    def read(cls, folder: Path, source: str) -> Tokens:
        """Read ``tokenizer.json``.

        Raises:
            UsageError: it is not the tokenizer of a Whisper.
        """
        try:
            added = read_json(folder / "tokenizer.json")["added_tokens"]
            ids = {str(token["content"]): int(token["id"]) for token in added}
            return cls(
                ids["<|startoftranscript|>"],
                ids["<|endoftext|>"],
                ids.get("<|transcribe|>"),
                ids["<|notimestamps|>"],
                {
                    name[2:-2]: token
                    for name, token in ids.items()
                    if name.startswith("<|")
                    and name.endswith("|>")
                    and 2 <= len(name) - 4 <= 3
                    and name[2:-2].isalpha()
                },
            )
        except (ParseError, OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"transcription model {source}: its tokenizer.json is not that of a Whisper; name a Whisper with its tokenizer."
            ) from error


def open_folder(folder: Path) -> tuple[Decoding, Tokens]:
    """Read the settings and tokens of a stored model.

    Raises:
        ArtifactError: they are not those of a transcription model.
    """
    try:
        vocabulary = int(read_json(folder / "config.json")["vocab_size"])
        return Decoding.read(folder, vocabulary), Tokens.read(folder, folder.name)
    except (ParseError, OSError, KeyError, TypeError, ValueError, UsageError) as error:
        raise ArtifactError(f"{folder} holds no transcription model", "run the pipeline again to store it") from error


def _token_ids(value: Any, vocabulary: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(token for token in value if type(token) is int and 0 <= token < vocabulary)
