"""Transcribe a dataset as a stream: decode a few utterances ahead, write the transcripts as rows of a parquet file."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.identities import TranscriptionModel
from mistere.artifacts.manifests import Transcription, UtteranceSet
from mistere.common.counting import counted, plural
from mistere.common.modalities import SPEECH, TEXT
from mistere.common.splits import SPLITS, Split
from mistere.config.transcription import TranscriptionConfig
from mistere.data.dataset import Utterance
from mistere.data.transcripts import TranscriptWriter
from mistere.data.utterances import UtteranceReader
from mistere.engine.stage import Step
from mistere.model.transcription.base import check_language, resolve_transcription, spoken_language
from mistere.model.transcription.model_folder import open_folder
from mistere.model.transcription.transcriber import Transcriber, open_transcriber

if TYPE_CHECKING:
    from components.transcribe.run import TranscribeConfig


def transcribe(config: TranscribeConfig, step: Step, reference: UtteranceSet, folder: Path) -> UtteranceSet:
    """Transcribe what a dataset lacks.

    Args:
        config: the model and its settings.
        step: this execution.
        reference: the dataset.
        folder: receives the transcripts.

    Returns:
        The reference to the dataset with its transcripts.

    Raises:
        UsageError: the model cannot be used, or does not transcribe the dataset's language.
    """
    settings = config.transcription
    base = resolve_transcription(settings, step.store)
    language, origin = _language(settings, reference)
    check_language(language, *open_folder(base.path), settings.source, origin)
    model = TranscriptionModel(
        source=base.manifest.source,
        base_digest=base.manifest.digest,
        language=language,
        max_tokens=settings.max_tokens,
    )
    transcriber = open_transcriber(step.store, model, settings.device, settings.batch_size)
    work = _Work(config.seed, settings.asr_share, transcriber)
    reader = UtteranceReader(reference)
    total = sum(reference.rows.values())
    with TranscriptWriter(folder) as writer:
        for split in SPLITS:
            for utterance, text in work.transcripts(reader, split):
                work.count(split, utterance, text)
                writer.add(split, utterance, text or "", replaces=utterance.text is not None)
                step.progress("utterances", work.seen, total)
    _say(work, step)
    texts = any(text for text in work.added.values())
    modalities = [name for name in reference.kinds if name in reference.modalities or (name == TEXT and texts)]
    transcription = Transcription(
        model=model, added=work.added, replaced=work.replaced, empty=work.empty, undecodable=work.undecodable
    )
    return reference.model_copy(update={"transcription": transcription, "modalities": modalities})


def is_chosen(seed: int, share: float, utterance: Utterance) -> bool:
    """Whether the text of a train utterance is replaced; the choice depends on its name and the seed alone."""
    name = f"{seed}\0{utterance.dialogue_id}\0{utterance.turn}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") < share * 2**64


@dataclass
class _Work:
    """The utterances to transcribe, and counts of them."""

    seed: int
    share: float
    transcriber: Transcriber
    added: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    empty: int = 0
    undecodable: int = 0
    seen: int = 0

    def transcripts(self, reader: UtteranceReader, split: Split) -> Iterator[tuple[Utterance, str | None]]:
        """The utterances of a split that need a transcript, with it; empty where nothing is said, None for undecodable audio."""
        waiting: deque[Utterance] = deque()
        for text in self.transcriber.texts(self._recordings(reader, split, waiting)):
            yield waiting.popleft(), text

    def count(self, split: Split, utterance: Utterance, text: str | None) -> None:
        """Count a transcript."""
        if text is None:  # the encoder's stage says which one, or treats it as missing
            self.undecodable += 1
        elif not text:
            self.empty += 1
        elif utterance.text is None:
            self.added[split] = self.added.get(split, 0) + 1
        else:
            self.replaced += 1

    def _recordings(self, reader: UtteranceReader, split: Split, waiting: deque[Utterance]) -> Iterator[bytes]:
        """The audio to transcribe; its utterance is appended to ``waiting``, without the audio."""
        for utterance in reader.stream(split, (SPEECH, TEXT)):
            self.seen += 1
            if utterance.audio and self._is_wanted(split, utterance):
                waiting.append(replace(utterance, audio=None))
                yield utterance.audio

    def _is_wanted(self, split: Split, utterance: Utterance) -> bool:
        if utterance.text is None:
            return True
        return split == "train" and is_chosen(self.seed, self.share, utterance)


def _language(settings: TranscriptionConfig, reference: UtteranceSet) -> tuple[str, str]:
    """The spoken language, and where it comes from."""
    if settings.language != "auto":
        return settings.language, "data.transcription.language"
    return spoken_language(reference.language), f"dataset.yaml of {reference.name}"


def _say(work: _Work, step: Step) -> None:
    added = sum(work.added.values())
    step.progress.note(f"{counted(added, 'utterance')} without text {plural(added, 'has', 'have')} a transcript now.")
    if work.replaced:
        step.progress.note(f"training reads transcripts instead of the text of {counted(work.replaced, 'utterance')}.")
    if work.undecodable:
        step.progress.note(
            f"{counted(work.undecodable, 'utterance')} whose audio does not decode {plural(work.undecodable, 'has', 'have')} no transcript."
        )
