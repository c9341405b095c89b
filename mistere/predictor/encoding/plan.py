"""What a request needs: the vectors that are cached, the utterances still to encode, and what those cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mistere.common.modalities import SPEECH
from mistere.data.audio import AudioExtent
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling.pace import TOKENS_PER_SECOND
from mistere.serving.protocol import token_count

_USUAL_SAMPLES = 96_000
"""Samples a second, over all channels, up to which decoding is cheap compared with encoding."""


@dataclass(eq=False)
class Task:
    """One utterance to encode in one modality.

    Attributes:
        plan: the request's plan, which receives the vector.
        modality: the modality.
        dialogue: the dialogue of the utterance.
        index: its index in the dialogue.
        key: key of its vector.
        price: what encoding it costs, seconds of audio.
        sound: seconds and level (dBFS) of its recording, once it is decoded; None for another modality.
    """

    plan: EncodingPlan
    modality: str
    dialogue: Sequence[RequestTurn]
    index: int
    key: bytes
    price: float = 0.0
    sound: tuple[float, float] | None = None

    @property
    def is_needless(self) -> bool:
        """Whether the request fails anyway."""
        return bool(self.plan.failures)

    @property
    def turn(self) -> RequestTurn:
        """The utterance."""
        return self.dialogue[self.index]


@dataclass(eq=False)
class EncodingPlan:
    """The work of one request.

    Attributes:
        keys: for each dialogue and modality the key of each utterance's vector; None without that modality.
        vectors: key → vector, those from the cache and those computed so far.
        tasks: the utterances to encode.
        failures: key → why an utterance cannot be encoded.
        is_transient: whether its vectors are not worth caching, because the request holds a turn that is still open.
    """

    keys: list[dict[str, list[bytes | None]]] = field(default_factory=list)
    vectors: dict[bytes, np.ndarray] = field(default_factory=dict)
    tasks: dict[bytes, Task] = field(default_factory=dict)
    failures: dict[bytes, Exception] = field(default_factory=dict)
    is_transient: bool = False

    @property
    def price(self) -> float:
        """What encoding the request costs, seconds of audio."""
        return sum(task.price for task in self.tasks.values())

    @property
    def clips(self) -> list[Task]:
        """The tasks with a recording to decode."""
        return [task for task in self.tasks.values() if task.modality == SPEECH and task.turn.audio is not None]

    def missing(self) -> list[Task]:
        """The tasks that are neither computed nor failed."""
        return [task for key, task in self.tasks.items() if key not in self.vectors and key not in self.failures]


def text_price(texts: Sequence[str], max_tokens: int) -> float:
    """The price of an utterance's text, seconds of audio.

    Args:
        texts: the text with the earlier ones that the encoder reads with it.
        max_tokens: the number of tokens that the encoder reads.
    """
    return min(sum(map(token_count, texts)), max_tokens) / TOKENS_PER_SECOND


def clip_price(clip: AudioExtent, utterance_seconds: float) -> float:
    """The price of a recording, seconds of audio; unusual rates and many channels cost more to decode.

    The price is never below the cost: a recording that states more than it holds is priced as stated.

    Args:
        clip: what it decodes to.
        utterance_seconds: the limit, beyond which nothing is decoded.
    """
    return min(clip.stated, utterance_seconds) * max(1.0, clip.rate * clip.channels / _USUAL_SAMPLES)
