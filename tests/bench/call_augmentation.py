"""Training the speech encoder on real calls: weighted F1 on dev under each effect, with and without it.

usage: mistere bench call_augmentation [OUTPUT] [--share SHARE] [--dialogues N] [--set SECTION.KEY=VALUE …]

Runs the pipeline with the profile ``sample`` in OUTPUT/plain, and with `speech.augmentation.share=SHARE` (0.5) in OUTPUT/augmented, a copy of
it, so that only what differs is computed (an existing run is found again; OUTPUT is output/call_augmentation). Compares both models on
the first dev dialogues (40) with `mistere robustness`: weighted F1 at each level, the difference with its paired 95 % interval, and the
CPU seconds of the fine-tunings. The test split is not read for the comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from mistere.artifacts.object_store import LocalStore
from mistere.evaluation.call_report import CallReport
from mistere.registry.release.champion import read_champion
from mistere.reports.calls.summary import number, signed


def run_pipeline(output: Path, settings: list[str]) -> str:
    """Run the profile ``sample``; returns the location of the bundle that it deployed."""
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "mistere", "run", "--profile", "sample", "--data", "data.dvc"]
    subprocess.run([*command, "--output", str(output), *options], check=False)
    store = LocalStore(output / "store")
    champion = read_champion(store).champion
    if champion is None:
        raise SystemExit(f"the run in {output} deployed no model")
    return store.location(f"artifacts/ModelBundle/{champion.bundle_digest}")


def fine_tuning_seconds(output: Path) -> float:
    """CPU seconds of the speech encoder's last fine-tuning."""
    folder = output / "store" / "runs"
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/stages/finetune_encoder-speech.json")
    ]
    last = max((one for one in records if one["status"] == "done"), key=lambda one: one["started"])
    return float(last["usage"]["cpu_seconds"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path("output/call_augmentation"))
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--dialogues", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    plain = run_pipeline(arguments.output / "plain", arguments.settings)
    if not (arguments.output / "augmented").exists():
        shutil.copytree(arguments.output / "plain", arguments.output / "augmented")
    share = f"speech.augmentation.share={arguments.share}"
    lenient = ["gate.champion_margin=1.0", "gate.max_slice_loss=off"]  # both models are wanted, whichever is better
    augmented = run_pipeline(arguments.output / "augmented", [*arguments.settings, *lenient, share])
    if augmented.endswith(plain.rpartition("/")[2]):
        raise SystemExit(f"the run in {arguments.output / 'augmented'} deployed no model of its own")
    to = arguments.output / "robustness"
    command = [sys.executable, "-m", "mistere", "robustness", "data.dvc", "--model", augmented, "--beside", plain]
    options = ["--split", "dev", "--dialogues", str(arguments.dialogues), "--to", str(to)]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    report = CallReport.model_validate_json((to / "robustness.json").read_text(encoding="utf-8"))
    print(f"{report.turns} dev turns in {report.dialogues} dialogues: trained on calls, plainly, difference in points")
    for level in (report.clean, *report.levels()):
        assert level.beside is not None and level.difference is not None
        scores = f"{number(level.model.weighted_f1.value)}  {number(level.beside.weighted_f1.value)}"
        print(f"{level.name:<22} {scores}  {signed(level.difference)}")
    heard = [level for effect in report.effects if effect.affects == "speech" for level in effect.levels]
    ours = sum(level.model.weighted_f1.value for level in heard) / len(heard)
    theirs = sum(level.beside.weighted_f1.value for level in heard if level.beside) / len(heard)
    print(f"{'effects on speech, mean':<22} {number(ours)}  {number(theirs)}")
    for name in ("plain", "augmented"):
        seconds = fine_tuning_seconds(arguments.output / name)
        print(f"fine-tuning of the speech encoder, {name}: {seconds:.0f} s of CPU")


if __name__ == "__main__":
    main()
