"""A bundle as ONNX graphs beside PyTorch: size, milliseconds a turn on one core, peak memory, start, weighted F1.

usage: mistere bench onnx_export [OUTPUT] [--model MODEL] [--data DATA] [--dialogues N]     (default: output, data, 20 dialogues)

Exports a bundle in float32 and in 8-bit integers, each compared with it on the test split, and predicts the first dialogues of the split
one at a time, from raw texts and recordings, in processes that are bound to one core. Each kind has two processes, in turns; the better
one counts. Times are processor times, so that other work on the machine hardly changes them; their ratios are what the benchmark is for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import BaseEncoder, ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.processes.child_environment import child_environment

_CHILD: Final = "--child"
_ROUNDS: Final = 2


def measured(kind: str, location: str, data: str, dialogues: int) -> dict[str, float]:
    """The figures of a model in a process of its own."""
    command = [sys.executable, __file__, _CHILD, kind, location, data, str(dialogues)]
    done = subprocess.run(command, env=child_environment(), stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def child(kind: str, location: str, data: str, dialogues: int) -> None:
    """Load a model, predict, and print the figures."""
    from mistere.evaluation.footprint import measure, use_one_core

    use_one_core()
    from pipelines.cli.commands.score import open_data
    from pipelines.cli.split_dialogues import SplitDialogues

    read = list(SplitDialogues(open_data(data), "test", dialogues)())
    began = time.process_time()
    model: Any
    if kind == "torch":
        from mistere.model.inference import load_bundle

        model = load_bundle(location, device="cpu")
    else:
        from mistere.model.onnx.loading import load_onnx

        model = load_onnx(Path(location), 1)
    start = time.process_time() - began
    cost = measure(model.predict, read)
    print(json.dumps({"turn_ms": cost.turn_ms, "peak_mb": cost.peak_mb, "start_s": start, "turns": cost.turns}))


def bundle_bytes(location: str) -> int:
    """Size of a bundle with the base weights that it refers to."""
    root, digest = split_bundle_location(location)
    store = open_store(root)
    bundle = open_artifact(store, ModelBundle, digest).manifest
    bases = {encoder.base_digest for encoder in bundle.encoders.values()}
    manifests = [bundle, *(open_artifact(store, BaseEncoder, base).manifest for base in sorted(bases))]
    return sum(file.size for manifest in manifests for file in manifest.files.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [_CHILD]:
        child(given[1], given[2], given[3], int(given[4]))
        return
    parser = argparse.ArgumentParser(prog="mistere bench onnx_export")
    parser.add_argument("output", nargs="?", type=Path, default=Path("output"))
    parser.add_argument("--model", default=None)
    parser.add_argument("--data", default="data.dvc")
    parser.add_argument("--dialogues", type=int, default=20)
    options = parser.parse_args(given)
    from pipelines.cli.commands.export import export
    from pipelines.cli.commands.score import choose_model

    location = choose_model(options.model, options.output, None, None).location
    with tempfile.TemporaryDirectory() as folder:
        places = {"torch": location}
        sizes = {"torch": bundle_bytes(location)}
        scores: dict[str, str] = {}
        for kind in ("float32", "int8"):
            target = Path(folder) / kind
            if export(target, location, options.output, int8=kind == "int8", data=options.data, split="test"):
                raise SystemExit(1)
            manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
            sizes[kind] = sum(file["size"] for file in manifest["files"].values())
            figures = manifest["figures"]
            scores["torch"] = f"{figures['bundle.weighted_f1']:.3f}"
            low, high = (figures[f"difference.weighted_f1.{end}"] for end in ("low", "high"))
            scores[kind] = f"{figures['exported.weighted_f1']:.3f} (difference {low:+.3f} to {high:+.3f})"
            places[kind] = str(target)
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in places}
        for _ in range(_ROUNDS):
            for kind, place in places.items():
                runs[kind].append(measured(kind, place, options.data, options.dialogues))
    best = {kind: {name: min(run[name] for run in every) for name in every[0]} for kind, every in runs.items()}
    print(f"{'':<8} {'MB':>6} {'ms a turn':>10} {'ratio':>6} {'peak MiB':>9} {'start s':>8}  weighted F1")
    for kind, one in best.items():
        ratio = best["torch"]["turn_ms"] / one["turn_ms"]
        print(
            f"{kind:<8} {sizes[kind] / 1e6:>6.1f} {one['turn_ms']:>10.1f} {ratio:>6.2f} {one['peak_mb']:>9.0f} {one['start_s']:>8.1f}  "
            f"{scores[kind]}"
        )


if __name__ == "__main__":
    main()
