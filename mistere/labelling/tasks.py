"""Tasks for Label Studio: its JSON for imports, and the labelling interface for them.

https://labelstud.io/guide/tasks (import), https://labelstud.io/tags/repeater, https://labelstud.io/tags/choices. A task is a dialogue. A
Repeater shows each turn; in it, further Repeaters over lists with at most one element show a recording, and a question, only where there is
one: turns that are context are read, not labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from mistere.data.recordings.formats import format_of, tag_size
from mistere.serving.sample.dialogue import KeptDialogue, KeptTurn

QUESTION: Final = "emotion_"
"""Name of a turn's choices in Label Studio, with the index of the turn."""
CANNOT_TELL: Final = "(cannot tell)"
"""The choice of an annotator who has no answer."""
LOCAL_FILES: Final = "/data/local-files/?d="
"""How Label Studio addresses files of its local storage: https://labelstud.io/guide/storage#Local-storage."""

_VIEW: Final = """<View>
  <Header value="Which emotion does each turn express?"/>
  <Repeater on="$utterances" indexFlag="{{{{idx}}}}">
    <View style="margin: 0 0 1em; padding: 0.5em; border-left: 3px solid #ccc">
      <Text name="text_{{{{idx}}}}" value="$utterances[{{{{idx}}}}].text"/>
      <Repeater on="$utterances[{{{{idx}}}}].recordings" indexFlag="{{{{clip}}}}">
        <Audio name="audio_{{{{idx}}}}_{{{{clip}}}}" value="$utterances[{{{{idx}}}}].recordings[{{{{clip}}}}]"/>
      </Repeater>
      <Repeater on="$utterances[{{{{idx}}}}].questions" indexFlag="{{{{question}}}}">
        <Choices name="{question}{{{{idx}}}}" toName="text_{{{{idx}}}}" choice="single" showInline="true">
{choices}
        </Choices>
      </Repeater>
    </View>
  </Repeater>
</View>
"""


def configuration(labels: Sequence[str]) -> str:
    """The labelling interface as XML.

    Args:
        labels: the choices, in order; :data:`CANNOT_TELL` is added.
    """
    choices = [*labels, *([] if CANNOT_TELL in labels else [CANNOT_TELL])]
    lines = [f"          <Choice value={quoteattr(choice)}/>" for choice in choices]
    return _VIEW.format(question=QUESTION, choices="\n".join(lines))


def task_of(name: str, dialogue: KeptDialogue, address: Callable[[str], str | None]) -> dict[str, Any]:
    """The task of a dialogue. It holds no prediction, which annotators would follow.

    Args:
        name: of the dialogue.
        dialogue: what was kept.
        address: a recording's address, by its SHA-256; None for one that is missing.
    """
    utterances = []
    for index, turn in enumerate(dialogue.turns):
        recording = address(turn.audio) if turn.audio is not None else None
        utterances.append(
            {
                "turn": index,
                "text": shown_text(turn),
                "recordings": [] if recording is None else [recording],
                "questions": ["emotion"] if turn.predicted else [],
            }
        )
    return {"data": {"dialogue_id": name, "utterances": utterances}}


def shown_text(turn: KeptTurn) -> str:
    """The text that annotators see."""
    if turn.text:
        return turn.text
    return f"[transcribed] {turn.transcript}" if turn.transcript else "[no text]"


def recording_name(digest: str, data: bytes) -> str:
    """The file name of a recording: browsers choose the decoder by its extension."""
    start = 0
    while size := tag_size(data, start):
        start += size
    kind = format_of(data[start : start + 64])
    return f"{digest}.{kind.extension if kind is not None else 'bin'}"
