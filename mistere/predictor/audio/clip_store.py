"""The recordings of a request: from its body, from a location, or from an earlier request by their digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mistere.predictor.audio.sources import AudioReader
from mistere.predictor.errors import unknown_digests
from mistere.predictor.protocol.codec import DialogueRequest
from mistere.predictor.sized_cache import SizedCache


class ClipStore:
    """Completes dialogues with the recordings that they name.

    Args:
        store_bytes: room for the recordings of earlier requests.
        prefixes: where the server may read recordings from.
        request_bytes: the most that the recordings of a request may hold.
    """

    def __init__(self, store_bytes: int, prefixes: Sequence[str], request_bytes: int) -> None:
        self._clips: SizedCache[str, bytes] = SizedCache(store_bytes)
        self._reader = AudioReader(prefixes, request_bytes)

    def remember(self, dialogues: Sequence[DialogueRequest]) -> None:
        """Keep the recordings that came with a request, so that later requests may name them by their digest."""
        for dialogue in dialogues:
            for turn in dialogue.turns:
                if turn.audio is not None and turn.audio_digest is None:
                    self._clips.put(turn.clip_digest, turn.audio, len(turn.audio))

    def with_held(self, dialogue: DialogueRequest, is_encoded: Callable[[str], bool]) -> DialogueRequest:
        """Replace audio digests by the recordings that the server holds.

        Args:
            dialogue: the dialogue.
            is_encoded: whether the recording of a digest is not needed, because its vector is held.

        Raises:
            RequestError: a recording is not held.
        """
        clips: dict[int, bytes] = {}
        missing: dict[int, str] = {}
        for index, turn in enumerate(dialogue.turns):
            if turn.audio_digest is None:
                continue
            clip = self._clips.get(turn.audio_digest)
            if clip is not None:
                clips[index] = clip
            elif not is_encoded(turn.audio_digest):
                missing[index] = turn.audio_digest
        if missing:
            raise unknown_digests(missing)
        return _with_clips(dialogue, clips)

    def with_read(self, dialogue: DialogueRequest) -> DialogueRequest:
        """Replace audio locations by the recordings at them.

        Raises:
            RequestError: a location may not be read, or cannot be.
        """
        uris = {index: turn.audio_uri for index, turn in enumerate(dialogue.turns) if turn.audio_uri is not None}
        return _with_clips(dialogue, self._reader.read(uris)) if uris else dialogue


def _with_clips(dialogue: DialogueRequest, clips: dict[int, bytes]) -> DialogueRequest:
    if not clips:
        return dialogue
    turns = [
        replace(turn, audio=clips[index], audio_uri=None) if index in clips else turn
        for index, turn in enumerate(dialogue.turns)
    ]
    return replace(dialogue, turns=turns)
