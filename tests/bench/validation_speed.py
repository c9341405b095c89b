"""Validation time of 10,000 utterances relative to their audio duration, and peak memory relative to a tenth of them.

usage: mistere bench validation_speed

The sample's utterances seven times over, in the same splits, each time with another gain, another name and another codec (as
they are, WAV, FLAC), so that no two recordings are alike. Each arm is a process of its own; times are those of the validation
itself, from files to verdict and page, without imports. Only the last arm uses cached results.
"""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from components.pull_data.run import describe
from mistere.common.digests.files import digest_of
from mistere.common.splits import SPLITS, Split
from mistere.data.audio import decode
from mistere.data.dataset import Utterance, load_info, shards_of
from mistere.data.dataset_writer import write_dataset
from mistere.data.dvc_remote import RemoteData
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin

UTTERANCES = 10_000
FORMS = ("", "WAV", "FLAC")


def versions(rows: list[tuple[Split, Utterance]], every: int) -> Iterator[tuple[Split, Utterance]]:
    """All versions of each ``every``-th dialogue, grouped by version within each split."""
    chosen = set(list(dict.fromkeys(utterance.dialogue_id for _, utterance in rows))[::every])
    for split in SPLITS:
        for version in range(-(-UTTERANCES // len(rows))):
            for where, utterance in rows:
                if where == split and utterance.dialogue_id in chosen:
                    yield split, _version(utterance, version)


def _version(utterance: Utterance, version: int) -> Utterance:
    form = FORMS[version % len(FORMS)]
    audio = utterance.audio or b""
    if version:
        wave, rate = decode(audio)
        buffer = io.BytesIO()
        soundfile.write(
            buffer,
            wave * np.float32(1 - 0.05 * version),
            rate,
            format=form or "OGG",
            subtype="PCM_16" if form else None,
        )
        audio = buffer.getvalue()
    return dataclasses.replace(
        utterance, dialogue_id=f"{utterance.dialogue_id}-{version}", text=f"{utterance.text} {version}", audio=audio
    )


def arm(folder: Path, store: str) -> None:
    """Validate a dataset and print figures as JSON."""
    import great_expectations  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    from components.validate_data.config import ValidationConfig
    from components.validate_data.dataset import Declared
    from components.validate_data.facts.dataset_facts import ShardFile
    from components.validate_data.facts.shard_facts import FactsCache
    from components.validate_data.run import write_report
    from components.validate_data.validation import validate
    from mistere.artifacts.object_store import LocalStore

    info, config = load_info(folder / "dataset.yaml"), ValidationConfig()
    clock = time.perf_counter()
    files = [
        ShardFile(split, path, path.name, digest_of(path, "md5"))
        for split in SPLITS
        for path in shards_of(folder.iterdir(), split)
    ]
    cache = FactsCache(LocalStore(Path(store)), info.language, config.silence_dbfs) if store else None
    declared = Declared(info.name, info.labels, info.language, info.speaker_disjoint)
    validation = validate(files, declared, config, cache=cache)
    with tempfile.TemporaryDirectory() as report:
        write_report(validation, files, Path(report), "")
    seconds = time.perf_counter() - clock
    figures = {
        "seconds": seconds,
        "audio": validation.audio_seconds,
        "utterances": len(validation.facts.utterances),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "verdict": validation.verdict,
        "findings": [o.rule.name for o in validation.outcomes if o.status in {"warn", "fail"}],
    }
    print(json.dumps(figures))


def measure(name: str, folder: Path, store: str = "") -> dict[str, float]:
    """Run an arm and show its figures."""
    command = [sys.executable, __file__, "arm", str(folder), store]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {name:<22} {figures['utterances']:6.0f} utterances, {figures['audio'] / 60:5.1f} min of audio: {figures['seconds']:6.2f} s, "
        f"peak {figures['peak']:.0f} MB, verdict {figures['verdict']} {' '.join(figures['findings'])}",  # type: ignore[arg-type]
        flush=True,
    )
    return figures


def main() -> None:
    """Run the arms, print the ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        pinned = pin("data.dvc", "")
        sample = describe(pinned.remote, pinned.digest)
        reader = UtteranceReader(sample)
        rows: list[tuple[Split, Utterance]] = [(split, u) for split in SPLITS for u in reader.stream(split)]
        info = load_info(
            RemoteData(sample.remote, sample.dvc_digest).fetch({"dataset.yaml": sample.info_md5})["dataset.yaml"]
        )
        for name, every in (("tenth", 10), ("whole", 1)):
            write_dataset(work / name, info, versions(rows, every))
        small = measure("a tenth", work / "tenth")
        large = measure("whole", work / "whole", str(work / "facts"))
        again = measure("whole, remembered", work / "whole", str(work / "facts"))
    print(f"against real time: {large['audio'] / large['seconds']:.0f}x; target 200")
    print(f"peak memory at ten times the size: {large['peak'] / small['peak']:.2f}x; target at most 1.3")
    print(f"nothing new: {100 * again['seconds'] / large['seconds']:.0f} % of the time")


if __name__ == "__main__":
    if sys.argv[1:2] == ["arm"]:
        arm(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
