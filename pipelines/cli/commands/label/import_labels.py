"""``mistere label import``: adds labelled dialogues to a copy of a dataset."""

from __future__ import annotations

from pathlib import Path

from mistere.common.counting import counted
from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS
from mistere.labelling import labelled_dataset
from mistere.labelling.labelled_dataset import SET_ASIDE, SUMMARY, LabelledReport
from pipelines.cli.output.console import print_text


def import_labels(
    export: Path, answers: Path, directory: Path, base: Path, annotators: int, split: str, report: Path
) -> None:
    """Import, write the report, and print it.

    Args:
        export: folder of the export.
        answers: Label Studio's JSON.
        directory: of the new dataset.
        base: the dataset to copy.
        annotators: that a turn needs.
        split: of the new dialogues.
        report: folder of the summary and of what was set aside.
    """
    chosen = next((name for name in SPLITS if name == split), None)
    if chosen is None:
        raise UsageError(f"--split {split[:80]}: choose {', '.join(SPLITS)}.")
    result = labelled_dataset.import_labels(export, answers, directory, base, least=annotators, split=chosen)
    labelled_dataset.write_report(result, report)
    _show(result, directory, report)


def _show(result: LabelledReport, directory: Path, report: Path) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in result.imported.counts.items())
    print_text(f"{directory}: {counts} utterances")
    turns = sum(result.labels.values())
    labels = ", ".join(f"{label} {count}" for label, count in result.labels.items() if count)
    print_text(f"  {counted(turns, 'turn')} of {counted(result.dialogues, 'dialogue')} labelled: {labels}")
    agreement = result.consensus.agreement
    annotators = counted(len(result.answers.annotators), "annotator")
    if agreement.alpha is None:
        print_text(
            f"  {annotators}; no agreement to measure: no two of them answered the same turns, or all gave one label"
        )
    else:
        print_text(f"  {annotators}, Krippendorff's alpha {agreement.alpha:.3f} on {counted(agreement.units, 'turn')}")
    conflicts, problems = len(result.consensus.conflicts), len(result.answers.problems)
    if conflicts or problems:
        listed = f"{counted(conflicts, 'conflict')} and {counted(problems, 'misfit')}"
        print_text(f"  {listed} set aside in {report / SET_ASIDE}; those turns get no label from the answers")
    if result.kept:
        print_text(
            f"  {counted(result.kept, 'label')} of the base kept at turns of these dialogues that got no new one"
        )
    if result.dropped:
        print_text(
            f"  {counted(result.dropped, 'label')} of the base dropped: the turns have another text or recording now, or are gone"
        )
    for note in result.imported.notes:
        print_text(f"  {note}")
    print_text(f"  summary {report / SUMMARY}")
