"""The raw utterances of the test split, read once: lengths, speakers and columns, an example, and dialogues to time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader
from mistere.metrics.slices import binned, most_frequent, plain_name
from mistere.serving.example_dialogue import FEW_UTTERANCES, sendable

_TIMED = 5


@dataclass
class RawTest:
    """What was found in the raw utterances.

    Attributes:
        facts: by dialogue and turn: words, seconds and speaker.
        example: a short dialogue that the endpoint takes; empty where there is none.
        timed: some dialogues of ordinary length.
        texts: transcripts of the dialogues that were asked for, by turn.
    """

    facts: dict[tuple[str, int], tuple[int | None, float | None, str | None]] = field(default_factory=dict)
    example: list[Utterance] = field(default_factory=list)
    timed: list[list[Utterance]] = field(default_factory=list)
    texts: dict[str, dict[int, str | None]] = field(default_factory=dict)

    def membership(self, keys: Sequence[tuple[str, int]]) -> dict[str, list[str | None]]:
        """Which part of the split each utterance belongs to, by words and by seconds."""
        found: dict[str, list[str | None]] = {"words": [], "seconds": []}
        for key in keys:
            words, seconds, _ = self.facts.get(key, (None, None, None))
            found["words"].append(binned("words", words) if words else None)
            found["seconds"].append(binned("seconds", seconds) if seconds else None)
        return {kind: values for kind, values in found.items() if any(value is not None for value in values)}

    def speakers(self, keys: Sequence[tuple[str, int]]) -> list[str | None]:
        """Who speaks, where the dataset says so."""
        return [self.facts.get(key, (None, None, None))[2] for key in keys]


def read_raw_test(reader: UtteranceReader, wanted: Sequence[str]) -> RawTest:
    """Read the test split.

    Args:
        reader: the dataset.
        wanted: dialogues whose transcripts are kept.
    """
    found = RawTest()
    for dialogue in reader.dialogues("test"):
        name = dialogue[0].dialogue_id
        for utterance in dialogue:
            words = len(utterance.text.split()) if utterance.text else None
            found.facts[name, utterance.turn] = (words, _seconds(utterance.audio), utterance.speaker)
        if name in wanted:
            found.texts[name] = {utterance.turn: utterance.text for utterance in dialogue}
        untimed = len(found.timed) < _TIMED and len(dialogue) <= FEW_UTTERANCES
        better = not found.example or len(dialogue) < len(found.example) > FEW_UTTERANCES
        sent = sendable(dialogue) if untimed or better else None
        if sent is not None and untimed:
            found.timed.append(sent)
        if sent is not None and better:
            found.example = sent
    return found


def columns_of(
    reader: UtteranceReader, names: Sequence[str], keys: Sequence[tuple[str, int]]
) -> dict[str, list[str | None]]:
    """The values of columns of the dataset, the rarest together as ``other``."""
    if not names:
        return {}
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for row in reader.columns("test", ["dialogue_id", "turn", *names]):
        rows[str(row["dialogue_id"]), int(row["turn"])] = row
    found: dict[str, list[str | None]] = {}
    for name in names:
        values = [rows.get(key, {}).get(name) for key in keys]
        frequent = iter(most_frequent([plain_name(value) for value in values if value is not None]))
        found[plain_name(name).replace(".", "_")] = [None if value is None else next(frequent) for value in values]
    return found


def keys_of(dialogues: Sequence[str]) -> list[tuple[str, int]]:
    """Dialogue and turn of each utterance, from the dialogue of each."""
    turns: dict[str, count[int]] = {}
    return [(name, next(turns.setdefault(name, count()))) for name in dialogues]


def _seconds(audio: bytes | None) -> float | None:
    """Duration as the header says; None where there is none."""
    if not audio:
        return None
    import soundfile

    try:
        return float(soundfile.info(io.BytesIO(audio)).duration)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError):
        return None
