"""``mistere tune``: searches settings for given embeddings, on dev only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console


def tune(
    embeddings: Path,
    profile: str,
    settings: Sequence[str],
    trials: int,
    seeds: int,
    timeout: float | None,
    output: Path,
) -> None:
    """Search, print the best settings and the command that uses them, write ``best.yaml`` and ``tune.json``."""
    import yaml

    from pipelines.cli.experiments.source import open_source
    from pipelines.cli.experiments.tuning import tune as search
    from pipelines.profiles import load_profile

    config = load_profile(profile, settings).mixture
    data = open_source(embeddings).only(config.modalities)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    result = search(
        config,
        data,
        output,
        trials=trials,
        seeds=seeds,
        timeout_minutes=timeout,
        on_trial=lambda text: console.print(text),
    )
    _write(output / "best.yaml", yaml.safe_dump({"mixture": result.settings}, sort_keys=False))
    _write(
        output / "tune.json",
        json.dumps(
            {
                "dev.weighted_f1": result.dev_weighted_f1,
                "dev.weighted_f1.start": result.start,
                "trials": result.trials,
                "pruned": result.pruned,
                "settings": result.settings,
                "importance": result.importance,
            },
            indent=1,
        ),
    )
    console.print(
        f"\ndev weighted F1 {result.dev_weighted_f1:.3f}, {result.start:.3f} at the start; {result.trials} trials, "
        f"{result.pruned} of them ended early"
    )
    for name, value in result.settings.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        weight = f"   (importance {result.importance[name]:.2f})" if name in result.importance else ""
        console.print(f"  mixture.{name:<20} {shown}{weight}")
    chosen = " ".join(f"--set mixture.{name}={_typed(value)}" for name, value in result.settings.items())
    options = " ".join(f"--set {setting}" for setting in settings)
    base = f" --profile {profile}" if profile != "sample" else ""
    console.print(
        f"\nuse them:\nmistere train --embeddings {embeddings}{base} {options + ' ' if options else ''}{chosen}"
    )


def _typed(value: Any) -> str:
    """A value as ``--set`` reads it back exactly."""
    return json.dumps(value) if not isinstance(value, str) else value


def _write(path: Path, content: str) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)
