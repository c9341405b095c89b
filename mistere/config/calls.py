"""What real calls do to conversations, as settings name it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mistere.config.base import Section

SpeechEffect = Literal["codec", "packet_loss", "babble", "street", "reverberation", "clipping"]
"""What a call does to recordings (:mod:`mistere.data.calls`)."""
CallEffect = Literal[SpeechEffect, "word_errors", "missing_turns"]
"""What a call does to a conversation."""


class CallAugmentation(Section):
    """Effects of real calls on the training utterances of a speech encoder; dev and test stay as they are.

    Attributes:
        share: share of the utterances of an epoch that are heard through a call (0..1); 0 for none.
        copies: degraded copies of each utterance that are prepared before the training; an epoch uses one of them, or the original.
        effects: the effects; each copy gets one at one of its levels. Empty for all.
    """

    share: float = Field(default=0.0, ge=0, le=1)
    copies: int = Field(default=2, ge=1, le=16)
    effects: list[SpeechEffect] = Field(default_factory=list)

    @property
    def variants(self) -> int:
        """Prepared variants of each training utterance, the original first."""
        return 1 + self.copies if self.share else 1
