"""What a model costs on one core: processor time for a turn, and peak memory, in a process of its own.

The process is bound to one core before torch is loaded, so that every library uses one thread. Its peak memory includes Python and the
libraries. Dialogues are predicted one at a time from texts and recordings, as the endpoint does. The recordings are WAV at 16 kHz, so that
decoding a codec, which takes longer than a small encoder, does not count; what does not decode is left out. A model that is too slow for
all dialogues is timed on the first of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import open_store
from mistere.common.errors import MistereError
from mistere.common.parsing.documents import load_json
from mistere.common.processes.child_environment import child_environment
from mistere.common.secrets.redaction import redact
from mistere.data.audio import AudioError, decode, resample
from mistere.data.dataset import Utterance
from mistere.data.kinds.audio import RATE, encoded

AFFECTS_RESULTS = False

Predictor = Callable[[Sequence[Any]], object]
"""Predicts dialogues, each a sequence of utterances."""
_ROUNDS: Final = 3
_BUDGET: Final = 300.0
"""Seconds after which no further prediction is begun."""
_SECONDS: Final = 3600
"""Seconds of the process at most, with the loading of a large model and its first dialogue."""


@dataclass(frozen=True)
class Footprint:
    """The cost of a model on this machine.

    Attributes:
        turn_ms: processor time for a turn, in milliseconds, on one core.
        peak_mb: peak memory of the process, in MiB.
        turns: number of turns that were timed.
    """

    turn_ms: float
    peak_mb: float
    turns: int


def footprint(bundle: str, store: str, utterances: str, dialogues: int) -> Footprint:
    """Measure a bundle.

    Args:
        bundle: its location.
        store: the store of the dataset's reference.
        utterances: digest of the :class:`UtteranceSet`.
        dialogues: number of test dialogues.

    Raises:
        MistereError: the process failed; the message says why.
    """
    request = json.dumps({"bundle": bundle, "store": store, "utterances": utterances, "dialogues": dialogues})
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, request],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MistereError(f"the time and memory of {bundle} could not be measured in {_SECONDS} s.") from error
    try:
        return Footprint(**load_json(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as error:
        reason = _reason(done.returncode, done.stderr)
        raise MistereError(f"the time and memory of {bundle} could not be measured ({reason}).") from error


def _reason(code: int, output: str) -> str:
    """Why a process failed, as a clause: its last words, unless it was killed."""
    if code < 0:
        return f"signal {-code} ended its process, as where memory is short"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return redact(lines[-1])[:300].rstrip(".") if lines else f"its process ended with code {code}"


def measure(predict: Predictor, dialogues: Sequence[Sequence[Any]], budget: float = _BUDGET) -> Footprint:
    """Time the prediction of dialogues, the best of three rounds each, in this process.

    Args:
        predict: the model.
        dialogues: raw dialogues, which the endpoint would get one at a time.
        budget: seconds after which no further prediction is begun, so that a slow model has fewer rounds or dialogues.
    """
    end = time.monotonic() + budget
    first = _seconds(
        predict, dialogues[0]
    )  # includes one-time costs, so it counts only if it leaves no time for another one
    seconds, turns = 0.0, 0
    for dialogue in dialogues:
        rounds = [_seconds(predict, dialogue) for _ in range(_ROUNDS) if time.monotonic() < end]
        if rounds:
            seconds, turns = seconds + min(rounds), turns + len(dialogue)
    if not turns:
        seconds, turns = first, len(dialogues[0])
    return Footprint(round(1000 * seconds / turns, 3), round(_peak_mb(), 1), turns)


def timed_dialogues(store: str, utterances: str, dialogues: int) -> list[list[Utterance]]:
    """The first dialogues of a dataset's test split, their speech as WAV at 16 kHz.

    Args:
        store: the store of the dataset's reference.
        utterances: digest of the :class:`UtteranceSet`.
        dialogues: their number.
    """
    from mistere.data.utterances import UtteranceReader

    place = open_store(store)
    reference = open_artifact(place, UtteranceSet, utterances).manifest
    chosen = islice(UtteranceReader(reference, ("test",), store=place).dialogues("test"), dialogues)
    return [[_as_wav(turn) for turn in dialogue] for dialogue in chosen]


def _as_wav(turn: Utterance) -> Utterance:
    """The turn with its speech as WAV; speech that does not decode stays as it is, for the model to leave out."""
    if not turn.audio:
        return turn
    try:
        wave, rate = decode(turn.audio)
    except AudioError:
        return turn
    return replace(turn, audio=encoded(resample(wave, rate, RATE), RATE, "PCM_16"))


def use_one_core() -> None:
    """Bind this process to one core; libraries that are loaded later start one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _seconds(predict: Predictor, dialogue: Sequence[Any]) -> float:
    began = time.process_time()
    predict([dialogue])
    return time.process_time() - began


def _peak_mb() -> float:
    """Peak resident memory of this process; 0 where the kernel does not say it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def main() -> None:
    """Measure what the argument says and print it."""
    request = load_json(sys.argv[1])
    use_one_core()
    dialogues = timed_dialogues(request["store"], request["utterances"], request["dialogues"])

    from mistere.model.inference import load_bundle
    from mistere.model.readable_dialogues import readable

    model = load_bundle(request["bundle"], device="cpu")
    dialogues = [readable(model, dialogue)[0] for dialogue in dialogues]
    print(json.dumps(asdict(measure(model.predict, dialogues))))


if __name__ == "__main__":
    main()
