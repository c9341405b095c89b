"""A copy of a dialogue: the request for the shadow, and the content of each turn, by which a live conversation is recognised.

The request has raw tensors in the binary extension of the protocol, because base64 of audio would cost time under the GIL.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import orjson

from mistere.predictor.protocol.codec import DialogueRequest
from mistere.serving import protocol
from mistere.serving.other_tensors import other_columns

HEADERS: Final = {"Content-Type": "application/octet-stream"}
_LENGTH: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True)
class DialogueCopy:
    """A dialogue that was answered, and the answer.

    Attributes:
        identity: id of its request.
        dialogue: as the client sent it, with the recordings that it refers to.
        probabilities: the answer ``[n, C]``; rows of zeros for turns that are context only.
        seconds: the time of the answer.
        encoder_digest: names the encoders of a dialogue of vectors.
    """

    identity: str
    dialogue: DialogueRequest
    probabilities: np.ndarray
    seconds: float
    encoder_digest: str = ""

    @property
    def size(self) -> int:
        """Bytes of its inputs, about."""
        if self.dialogue.embeddings:
            return sum(rows.nbytes for rows in self.dialogue.embeddings.values())
        total = 0
        for turn in self.dialogue.turns:
            total += len(turn.audio or b"") + 4 * len(turn.text or "")
            if turn.others:
                total += sum(map(_cell_size, turn.others.values()))
        return total

    @property
    def is_complete(self) -> bool:
        """Whether it holds all recordings; those of early turns may have been dropped, of which only vectors are kept."""
        return all(turn.audio is not None or not turn.has_audio for turn in self.dialogue.turns)

    def request(self) -> tuple[bytes, dict[str, str]]:
        """The body and the headers for the shadow."""
        parameters: dict[str, Any] = {}
        tensors: list[dict[str, Any]] = []
        raw: list[bytes] = []

        def add(name: str, datatype: str, shape: Sequence[int], content: bytes) -> None:
            tensors.append(
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": list(shape),
                    "parameters": {protocol.BINARY_SIZE: len(content)},
                }
            )
            raw.append(content)

        dialogue = self.dialogue
        if dialogue.embeddings:
            parameters[protocol.NAN_IS_MISSING] = True
            if self.encoder_digest:
                parameters[protocol.ENCODER_DIGEST] = self.encoder_digest
            for modality, rows in dialogue.embeddings.items():
                add(protocol.embedding_name(modality), "FP32", rows.shape, rows.astype("<f4").tobytes())
        else:
            for name, values in self._columns().items():
                if any(values):
                    add(name, "BYTES", [len(values)], _with_lengths(values))
            for name, cells in other_columns(dialogue.turns).items():
                if cells.dtype == object:
                    add(name, "BYTES", cells.shape, _with_lengths(cells.ravel().tolist()))
                else:
                    add(name, "FP32", cells.shape, cells.astype("<f4").tobytes())
            if not dialogue.transcribe:
                parameters[protocol.TRANSCRIBE] = False
        if dialogue.context:
            flags = bytes(index not in dialogue.context for index in range(len(dialogue)))
            add(protocol.PREDICT, "BOOL", [len(flags)], flags)
        head = orjson.dumps(
            {
                "id": self.identity,
                "parameters": parameters,
                "inputs": tensors,
                "outputs": [{"name": protocol.PROBABILITIES}],
            }
        )
        return b"".join([head, *raw]), {**HEADERS, protocol.BINARY_HEADER: str(len(head))}

    def _columns(self) -> dict[str, list[bytes]]:
        turns = self.dialogue.turns
        return {
            protocol.TEXT: [(turn.text or "").encode() for turn in turns],
            protocol.AUDIO: [turn.audio or b"" for turn in turns],
        }

    @property
    def first(self) -> int:
        """Turns of the conversation before the dialogue's first one."""
        return 0 if self.dialogue.origin is None else self.dialogue.origin.first

    def chain(self) -> tuple[list[bytes], bool]:
        """For each turn a digest of its content and everything before it, and whether no other dialogue begins alike.

        A recording is known by its digest alone, because a client may add its transcript later. A stream is known by its name, because a
        request holds only its latest turns.
        """
        if self.dialogue.origin is not None:
            return [self.dialogue.origin.stream], True
        contents, unique = self._contents()
        digest, digests = b"", []
        for content in contents:
            digest = blake2b(digest + content, digest_size=_DIGEST_BYTES).digest()
            digests.append(digest)
        return digests, unique

    def _contents(self) -> tuple[list[bytes], bool]:
        dialogue = self.dialogue
        if dialogue.embeddings:
            rows = [np.ascontiguousarray(dialogue.embeddings[name]) for name in sorted(dialogue.embeddings)]
            return [b"".join(matrix[index].tobytes() for matrix in rows) for index in range(len(dialogue))], True
        contents, unique = [], False
        for turn in dialogue.turns:
            others = b"".join(_cell_content(turn.others[name]) for name in sorted(turn.others))
            unique = unique or bool(turn.clip_digest or others)
            said = turn.clip_digest.encode() or (turn.text or "").strip().encode()
            contents.append(bytes([bool(turn.clip_digest)]) + others + said)
        return contents, unique


def _with_lengths(elements: Sequence[bytes]) -> bytes:
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def _cell_size(cell: Any) -> int:
    if isinstance(cell, np.ndarray):
        return cell.nbytes
    if isinstance(cell, str):
        return 4 * len(cell)
    return len(cell) if isinstance(cell, bytes) else sum(map(_cell_size, cell))


def _cell_content(cell: Any) -> bytes:
    if isinstance(cell, np.ndarray):
        return cell.tobytes()
    if isinstance(cell, str):
        return cell.encode()
    return cell if isinstance(cell, bytes) else b"".join(map(_cell_content, cell))


def encoder_digest(vector_digests: Mapping[str, str], dialogue: DialogueRequest) -> str:
    """The parameter that names the encoders of a dialogue of vectors."""
    order = protocol.in_order(dialogue.embeddings)
    return protocol.join_names([vector_digests[name] for name in order if vector_digests[name]])
