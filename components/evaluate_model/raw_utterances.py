"""One pass over the raw test utterances: lengths, speakers and columns, an example, and dialogues for timing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mistere.data.audio import AudioError, extent
from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader
from mistere.metrics.slices import binned, most_frequent, plain_name
from mistere.serving.example_dialogue import FEW_UTTERANCES, as_sent, sendable

if TYPE_CHECKING:
    from mistere.model.embeddings import EmbeddedDialogue

_TIMED = 5
_FEWEST_LANGUAGES = 2


@dataclass
class RawTest:
    """Facts of the raw utterances.

    Attributes:
        facts: words, seconds and speaker, by dialogue and turn.
        example: a short dialogue within the endpoint's limits; empty if there is none.
        timed: some dialogues of ordinary length, for timing.
        texts: transcripts of the requested dialogues, by turn.
    """

    facts: dict[tuple[str, int], tuple[int | None, float | None, str | None]] = field(default_factory=dict)
    example: list[Utterance] = field(default_factory=list)
    timed: list[list[Utterance]] = field(default_factory=list)
    texts: dict[str, dict[int, str | None]] = field(default_factory=dict)

    def membership(self, keys: Sequence[tuple[str, int]]) -> dict[str, list[str | None]]:
        """The bin of each utterance by number of words and by seconds."""
        bins: dict[str, list[str | None]] = {"words": [], "seconds": []}
        for key in keys:
            words, seconds, _ = self.facts.get(key, (None, None, None))
            bins["words"].append(binned("words", words) if words else None)
            bins["seconds"].append(binned("seconds", seconds) if seconds else None)
        return {kind: values for kind, values in bins.items() if any(value is not None for value in values)}

    def speakers(self, keys: Sequence[tuple[str, int]]) -> list[str | None]:
        """The speaker of each utterance, if the dataset names speakers."""
        return [self.facts.get(key, (None, None, None))[2] for key in keys]


def read_raw_test(reader: UtteranceReader, wanted: Sequence[str], modalities: Collection[str] | None = None) -> RawTest:
    """Read the test split.

    Args:
        reader: the dataset.
        wanted: names of dialogues whose transcripts are kept.
        modalities: the modalities to read: speech, text and the model's; None for all of the dataset.
    """
    raw = RawTest()
    for dialogue in reader.dialogues("test", modalities):
        name = dialogue[0].dialogue_id
        for utterance in dialogue:
            words = len(utterance.text.split()) if utterance.text else None
            raw.facts[name, utterance.turn] = (words, _seconds(utterance.audio), utterance.speaker)
        if name in wanted:
            raw.texts[name] = {utterance.turn: utterance.text for utterance in dialogue}
        untimed = len(raw.timed) < _TIMED and len(dialogue) <= FEW_UTTERANCES
        better = not raw.example or len(dialogue) < len(raw.example) > FEW_UTTERANCES
        sent = sendable(dialogue) if untimed or better else None
        if sent is not None and untimed:
            raw.timed.append(sent)
        if sent is not None and better:
            raw.example = sent
    raw.example = as_sent(raw.example, reader.reference.kinds)
    return raw


def columns_of(
    reader: UtteranceReader, names: Sequence[str], keys: Sequence[tuple[str, int]]
) -> dict[str, list[str | None]]:
    """Values of columns of the dataset, with the rarest merged into ``other``; also of ``language``, if there are several."""
    names = [*names, *(["language"] if "language" not in names and reader.has_column("test", "language") else [])]
    if not names:
        return {}
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for row in reader.columns("test", ["dialogue_id", "turn", *names]):
        rows[str(row["dialogue_id"]), int(row["turn"])] = row
    values_by_name: dict[str, list[str | None]] = {}
    for name in names:
        values = [rows.get(key, {}).get(name) for key in keys]
        if name == "language" and len({value for value in values if value is not None}) < _FEWEST_LANGUAGES:
            continue
        frequent = iter(most_frequent([plain_name(value) for value in values if value is not None]))
        values_by_name[plain_name(name).replace(".", "_")] = [
            None if value is None else next(frequent) for value in values
        ]
    return values_by_name


def keys_of(dialogues: Sequence[EmbeddedDialogue]) -> list[tuple[str, int]]:
    """Dialogue and turn of each labelled utterance."""
    return [(dialogue.dialogue_id, int(turn)) for dialogue in dialogues for turn in np.flatnonzero(dialogue.labelled)]


def _seconds(audio: bytes | None) -> float | None:
    """Duration by the bytes of the file; None without audio or if it is not accepted."""
    if not audio:
        return None
    try:
        return extent(audio).seconds
    except AudioError:
        return None
