"""``mistere export``: a bundle as ONNX graphs, for small devices and for serving without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.counting import counted, plural
from mistere.common.errors import ExitCode, UsageError
from mistere.common.paths import check_folder
from mistere.common.splits import SPLITS
from mistere.common.suggestions import did_you_mean
from mistere.data.dataset import Utterance
from mistere.serving.example_dialogue import read_example
from mistere.serving.made_up_dialogue import made_up_dialogue
from pipelines.cli.commands.score import choose_model, open_data
from pipelines.cli.output.console import print_text
from pipelines.cli.output.task_progress import task_progress
from pipelines.cli.split_dialogues import SplitDialogues

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.onnx.export import Exported

_LOG_LEVEL: Final = "TORCH_CPP_LOG_LEVEL"
"""PyTorch's variable for the messages of its C++ code, which it reads when it is imported: while it records a recurrence it warns of shapes
that it cannot infer; none of them is used."""


def export(
    target: Path,
    model: str | None,
    output: Path,
    store: str | None = None,
    tracking: str | None = None,
    *,
    int8: bool = False,
    unchecked: bool = False,
    data: str = "",
    split: str = "dev",
    dialogues: int = 200,
    margin: float = 0.02,
) -> int:
    """Export a bundle, and print what was written.

    Args:
        target: the new folder.
        model: a version of the registry, or a bundle's location; None for the champion.
        output: the output directory of ``mistere run``.
        store: the store; None for that of the output directory.
        tracking: the tracking server that belongs to the store.
        int8: quantise the graphs to 8-bit integers, which needs ``data``.
        unchecked: quantise them without.
        data: a dataset to compare weighted F1 on; empty for none.
        split: of the dataset; on test, weighted F1 is reported and decides nothing.
        dialogues: the first of the split, at most as many.
        margin: weighted F1 that the exported model may lose.

    Returns:
        0, or 3 if it may lose more than the margin; nothing is written then.

    Raises:
        UsageError: there is no such model or dataset, the folder exists, or 8-bit integers are wanted without a dataset.
        DataError: the dataset is damaged or has no labels.
        MistereError: an encoder cannot be exported, or the exported model differs from the bundle.
    """
    if split not in SPLITS:
        raise UsageError(f"--split: there is no split {split!r}{did_you_mean(split, SPLITS)}")
    if int8 and not data and not unchecked:
        raise UsageError(
            "--int8 changes the model's answers: name a labelled dataset with --data, which measures by how much, or write the model "
            "unmeasured with --unchecked."
        )
    if unchecked and (data or not int8):
        raise UsageError("--unchecked is for --int8 without --data: leave it out.")
    from mistere.model.onnx.session import check_packages

    check_packages()
    check_folder(target.resolve(), "the folder of the export")
    if target.exists():
        raise UsageError(f"{target} exists already: name a new folder, or delete it.")
    location = choose_model(model, output, store, tracking).location
    root, digest = split_bundle_location(location)
    opened = open_artifact(open_store(root), ModelBundle, digest)
    measured = SplitDialogues(open_data(data), split, dialogues) if data else None

    os.environ.setdefault(_LOG_LEVEL, "ERROR")
    from mistere.model.inference import load_bundle
    from mistere.model.onnx.export import QualityError, export_model

    with task_progress(f"loading {location}"):
        loaded = load_bundle(location, device="cpu")
    shown = examples(opened.path, loaded)
    try:
        exported = export_model(
            loaded,
            opened,
            target,
            shown,
            int8=int8,
            dialogues=measured,
            margin=deciding_margin(split, margin),
            progress=print,
        )
    except QualityError as error:
        print_text(f"not exported: {error}")
        return int(ExitCode.NOT_PROMOTED)
    _show(exported, target)
    return int(ExitCode.DEPLOYED)


def deciding_margin(split: str, margin: float) -> float | None:
    """The margin that decides on a split; None on test, which is for reports and never chooses a model."""
    return None if split == "test" else margin


def examples(bundle: Path, model: EmotionModel) -> list[list[Utterance]]:
    """The example dialogue of a bundle's folder, or one that is made up; none for a model of vectors."""
    if not model.embedders:
        return []
    example = read_example(bundle)
    if example is not None and isinstance(example.dialogue, list):
        return [example.dialogue]
    widths = {name: model.input_width(name) for name in model.embedders}
    return [made_up_dialogue({name: one.kind.name for name, one in model.embedders.items()}, widths)]


def _show(exported: Exported, target: Path) -> None:
    manifest = exported.manifest
    print_text(
        f"{target}: {exported.size / 1e6:.1f} MB in {manifest.precision}, from bundle {manifest.bundle_digest[:12]}"
    )
    print_text(f"probabilities in float32 differ by up to {manifest.difference:.1e} from the bundle's")
    if manifest.int8_difference is not None:
        print_text(f"probabilities in int8 differ by up to {manifest.int8_difference:.2g} from the bundle's")
    if exported.quality is not None:
        one = exported.quality
        gap = one.difference
        bounds = "" if gap.exactly_zero else f"{gap.low:+z.3f} to {gap.high:+z.3f}, "
        change = "no difference" if gap.exactly_zero else f"{gap.value:+z.3f}"
        print_text(
            f"weighted F1 {one.exported.value:.3f}, the bundle's {one.bundle.value:.3f}: {change} "
            f"({bounds}{counted(one.turns, 'turn')})"
        )
        if one.undecodable:
            count = len(one.undecodable)
            print_text(
                f"{counted(count, 'value')} {plural(count, 'does', 'do')} not decode and {plural(count, 'is', 'are')} left out, "
                f"first: {one.undecodable[0]}"
            )
    elif manifest.precision == "int8":
        print_text(
            "WARNING: nothing shows that this model in int8 is as good as the bundle: weighted F1 was not compared; export again with --data"
        )
    print_text(f"serve it with `mistere serve --onnx {target}`")
