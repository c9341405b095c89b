"""``mistere tune``: search settings for given embeddings, without the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistere.common.counting import counted
from mistere.common.processes.command_line import command_line
from pipelines.cli.output.console import OutputConsole

if TYPE_CHECKING:
    from pipelines.cli.experiments.tuning import Tuned


def tune(
    embeddings: Path,
    profile: str,
    settings: Sequence[str],
    trials: int,
    seeds: int,
    folds: int,
    timeout: float | None,
    output: Path,
) -> None:
    """Search, print the best settings and the command that uses them, write ``best.yaml`` and ``tune.json``."""
    import yaml

    from mistere.model.mixture.modality_subsets import selected
    from pipelines.cli.experiments.source import open_source
    from pipelines.cli.experiments.tuning import score_name
    from pipelines.cli.experiments.tuning import tune as search
    from pipelines.cli.output.modality_table import modality_table
    from pipelines.cli.output.task_progress import task_progress
    from pipelines.profiles import load_profile

    config = load_profile(profile, settings, sections=("seed", "mixture")).mixture
    with task_progress(f"reading {embeddings}"):
        data = selected(config, open_source(embeddings))
    console = OutputConsole(highlight=False, soft_wrap=True, markup=False)
    with task_progress("searching"):
        result = search(
            config,
            data,
            output,
            trials=trials,
            seeds=seeds,
            folds=folds,
            timeout_minutes=timeout,
            on_trial=lambda text: console.print(text),
        )
    _write(output / "best.yaml", yaml.safe_dump({"mixture": result.settings}, sort_keys=False))
    _write(output / "tune.json", json.dumps(_as_json(result, folds), indent=1))
    console.print(
        f"\n{score_name(folds)} {result.weighted_f1:.3f}, {result.start:.3f} at the start; {counted(result.trials, 'trial')}, "
        f"{result.pruned} of them ended early"
    )
    for name, value in result.settings.items():
        parts = [weight for key, weight in result.importance.items() if key.partition(".")[0] == name]
        weight = f"   (importance {sum(parts):.2f})" if parts else ""
        console.print(f"  mixture.{name:<20} {_typed(value)}{weight}")
    if result.subsets:
        scores = result.subsets.scores
        console.print()
        console.print(modality_table(scores, scores[0], "best trial with"))
        console.print(result.subsets.sentence())
    console.print(f"\n{result.finding}")
    found = result.settings if result.gain else {}  # the initial settings need no options
    chosen = [f"mixture.{name}={_typed(value)}" for name, value in found.items()]
    options = [word for setting in [*settings, *chosen] for word in ("--set", setting)]
    base = ["--profile", profile] if profile != "sample" else []
    which = "the best" if result.gain else "the initial"
    console.print(
        f"\ntrain with {which} settings:\n{command_line('mistere', 'train', '--embeddings', embeddings, *base, *options)}"
    )


def _as_json(result: Tuned, folds: int) -> dict[str, Any]:
    """The content of ``tune.json``."""
    from pipelines.cli.experiments.modality_comparison import as_rows

    name = "cross_validation.weighted_f1" if folds else "dev.weighted_f1"
    content: dict[str, Any] = {name: result.weighted_f1, f"{name}.start": result.start}
    if result.gain:
        gain = result.gain.corrected
        content |= {
            "gain.apparent": round(result.gain.apparent, 6),
            "gain": round(gain.value, 6),
            "gain.low": round(gain.low, 6),
            "gain.high": round(gain.high, 6),
        }
    if result.subsets:
        rows = as_rows(result.subsets.scores, name)
        content["modalities"] = {"finding": result.subsets.sentence(), "subsets": rows}
    return content | {
        "finding": result.finding,
        "trials": result.trials,
        "pruned": result.pruned,
        "settings": result.settings,
        "importance": result.importance,
    }


def _typed(value: Any) -> str:
    """A value as ``--set`` reads it back exactly."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _write(path: Path, content: str) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)
