"""Batch scoring beside the endpoint: utterances per second, ten times the data, and the memory at both sizes.

usage: mistere bench score [--bundle BUNDLE] [--output DIR] [--dialogues 60] [--rounds 3]

The dialogues are variants of the bundle's example with other words and another gain, so that nothing is embedded twice. Arms, each in
a process of its own and without its start:

- endpoint: a predictor, asked one dialogue at a time by each of 16 clients;
- score: ``mistere score`` with its cache off, on the same dialogues, with encoders in float32, as the endpoint's, and in 8-bit integers
  (``--int8``); the same with the bundle exported as ONNX graphs, in both arithmetics;
- ten times the dialogues, with the process's peak memory at both sizes.

Arms alternate; every figure is a ratio of one run. The ratio of CPU seconds is beside that of utterances per second: on a machine that
does other work too, it is the more reliable one.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mistere.common.errors import MistereError
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset
from tests.bench.serving_speed import CLIENTS
from tests.bench.shared.requests import v1_body, versions
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import predictor

SCORE = """
import json, resource, sys, time
from pathlib import Path
import mistere.model.inference, mistere.scoring.scorer, mistere.scoring.tables
from mistere.scoring.archive import open_archive
from mistere.scoring.call_columns import ArchiveColumns
from mistere.scoring.scorer import Scorer
from mistere.scoring.scoring import load_model, score_shards
from mistere.scoring.tables import TableForm
from mistere.artifacts.object_store import LocalStore

data, bundle, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
model = load_model(bundle, int8=bool(int(sys.argv[4])))
archive = open_archive(data)
scorer = Scorer(model, LocalStore(folder / "store"), "off")
form = TableForm(model.labels, model.experts, ArchiveColumns(), "", model.bundle.digest)
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
start, before = time.perf_counter(), used()
tables = lambda kind: lambda name: folder / kind / name
turns = sum(one.turns for one in score_shards(scorer, archive, archive.shards, form, tables("turns"), tables("calls")))
seconds = time.perf_counter() - start
cpu = used() - before
print(json.dumps({"turns": turns, "seconds": seconds, "cpu": cpu, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def write(folder: Path, dialogues: Sequence[Sequence[Utterance]]) -> Path:
    """The dialogues as a dataset, in shards of a few megabytes."""
    info = DatasetInfo(
        name="bench", description="", labels=["a", "b"], language="en", licence="", splits="", speaker_disjoint=False
    )
    rows = (
        ("test", replace(turn, dialogue_id=f"d{number}", turn=index, label=None))
        for number, dialogue in enumerate(dialogues)
        for index, turn in enumerate(dialogue)
    )
    write_dataset(folder, info, rows, max_shard_bytes=8 << 20)  # type: ignore[arg-type]
    return folder


def scored(data: Path, bundle: str, int8: bool = False) -> dict[str, float]:
    """One process that scores."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SCORE, str(data), bundle, folder, str(int(int8))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MistereError(f"mistere score failed: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def exported(bundle: str, folder: Path, *options: str) -> str:
    """The bundle as ONNX graphs."""
    command = [sys.executable, "-m", "mistere", "export", str(folder), "--model", bundle, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MistereError(f"mistere export failed: {done.stderr.strip().splitlines()[-1]}")
    return str(folder)


def asked(bundle: str, bodies: Sequence[bytes]) -> tuple[float, float]:
    """Seconds in which 16 clients get the answers to all requests of a fresh predictor, and its CPU seconds."""
    with predictor(bundle, "--vector-store-mib", "0") as server:

        def ask(body: bytes) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
            connection.request("POST", "/v1/models/mistere:predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise SystemExit(content[:300].decode())
            connection.close()

        start, before = time.perf_counter(), server.cpu_seconds()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, bodies))
        return time.perf_counter() - start, server.cpu_seconds() - before


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--dialogues", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bundle, example = bundle_and_example(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        many = versions(example, 10 * options.dialogues)
        few = many[: options.dialogues]
        small, large = write(folder / "small", few), write(folder / "large", many)
        bodies = [v1_body(dialogue) for dialogue in few]
        ratios, cpu_ratios = [], []
        others = {
            "with --int8": (bundle, True),
            "exported": (exported(bundle, folder / "float32"), False),
            "exported with --int8": (exported(bundle, folder / "int8", "--int8"), False),
        }
        other_ratios: dict[str, list[float]] = {name: [] for name in others}
        turns = sum(map(len, few))
        for number in range(options.rounds):
            endpoint, endpoint_cpu = asked(bundle, bodies)
            one = scored(small, bundle)
            ratios.append(endpoint / one["seconds"])
            cpu_ratios.append(endpoint_cpu / one["cpu"])
            print(
                f"round {number + 1}: endpoint {turns / endpoint:.1f}, score {one['turns'] / one['seconds']:.1f} utterances/s: "
                f"{ratios[-1]:.2f} times as many; CPU {endpoint_cpu:.1f} and {one['cpu']:.1f} s: {cpu_ratios[-1]:.2f} times as much",
                flush=True,
            )
            for name, (location, int8) in others.items():
                other = scored(small, location, int8)
                other_ratios[name].append(endpoint / other["seconds"])
                print(
                    f"  {name}: {other['turns'] / other['seconds']:.1f} utterances/s, {other_ratios[name][-1]:.2f} times as many; "
                    f"CPU {other['cpu']:.1f} s; peak memory {other['memory']:.0f} MB",
                    flush=True,
                )
            if number == 0:
                ten = scored(large, bundle)
                print(
                    f"ten times the dialogues: {ten['seconds'] / one['seconds']:.1f} times as long, {ten['cpu'] / one['cpu']:.1f} times "
                    f"the CPU; peak memory {one['memory']:.0f} and {ten['memory']:.0f} MB",
                    flush=True,
                )
        print(
            f"median: {statistics.median(ratios):.2f} times the utterances per second of the endpoint, which takes "
            f"{statistics.median(cpu_ratios):.2f} times the CPU; "
            + ", ".join(f"{name} {statistics.median(values):.2f} times" for name, values in other_ratios.items())
        )


if __name__ == "__main__":
    main()
