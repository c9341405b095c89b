"""The tokens that a bidirectional text encoder reads of an utterance and the turns before it, for any tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mistere.data.kinds.text import Transcript
from mistere.model.encoders.preparation import Features

_LONGEST_TOKEN = 64
"""Upper bound of the characters of a token: longer texts are cut before tokenisation, to bound its cost."""


def token_window(
    utterance: Transcript,
    limit: int,
    encode: Callable[[str], Sequence[int]],
    encode_plain: Callable[[str], Sequence[int]],
    separator: str,
    separator_id: int,
) -> Features:
    """Tokens of an utterance, which are kept up to the limit, after as many of the earlier turns' last tokens as fit.

    Args:
        utterance: the text and that of the turns before it.
        limit: number of tokens at most.
        encode: a text to tokens with those at its ends; the first and the last one are kept when it is cut.
        encode_plain: a text to tokens without those at its ends.
        separator: token between turns, as text.
        separator_id: the token between the earlier turns and the utterance.

    Returns:
        ``input_ids``, ``pooled`` (which of them are the utterance's own, or the first) and ``length``.
    """
    tokens = list(encode(utterance.text[: limit * _LONGEST_TOKEN]))
    tokens = [*tokens[: limit - 1], tokens[-1]] if len(tokens) > limit else tokens
    before: list[int] = []
    if utterance.context and (room := limit - len(tokens)) > 1:
        turns = f" {separator} ".join(turn[: limit * _LONGEST_TOKEN] for turn in utterance.context)
        before = [*encode_plain(turns)[1 - room :], separator_id]
    pooled = [True, *[False] * len(before), *[True] * (len(tokens) - 1)]
    return {"input_ids": [tokens[0], *before, *tokens[1:]], "pooled": pooled, "length": len(pooled)}
