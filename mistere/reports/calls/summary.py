"""What the effects of real calls cost, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mistere.common.counting import counted
from mistere.evaluation.call_report import CallReport, Figure, LevelReport


def number(value: float) -> str:
    """A figure: ``0.714``."""
    return f"{value:.3f}"


def bounds(figure: Figure) -> str:
    """Its interval: ``[0.690, 0.738]``."""
    return f"[{number(figure.low)}, {number(figure.high)}]"


def signed(figure: Figure) -> str:
    """A difference with its interval, in points: ``−1.2 [−2.0, −0.4]``."""
    value, low, high = (f"{100 * one:+z.1f}".replace("-", "−") for one in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def model_name(report: CallReport, *, beside: bool = False) -> str:
    """A model as the page calls it."""
    model = report.beside if beside else report.model
    if model is None:
        return ""
    return f"version {model.version}" if model.version else f"bundle {model.bundle_digest[:12]}"


def worst(levels: Iterable[LevelReport]) -> LevelReport | None:
    """The level that costs the model most."""
    lossy = [level for level in levels if level.model.loss is not None]
    return max(lossy, key=lambda level: level.model.loss.value if level.model.loss else 0.0, default=None)


def lead(clean: LevelReport, levels: Iterable[LevelReport]) -> str:
    """The first sentence: what is lost most."""
    unchanged = clean.model.weighted_f1
    start = f"Without an effect, weighted F1 is {number(unchanged.value)} {bounds(unchanged)}"
    level = worst(levels)
    if level is None or level.model.loss is None:
        return f"{start}."
    score = level.model.weighted_f1.value
    return f"{start}; with {level.words} it is {number(score)}, {signed(_negated(level.model.loss))} points, the largest loss."


def comparison(levels: Sequence[LevelReport], name: str) -> str:
    """The sentence about the model beside, which is called ``name``; empty without a name."""
    if not name:
        return ""
    compared = [level for level in levels if level.difference is not None]
    worse = [level for level in compared if level.difference is not None and level.difference.high < 0]
    better = [level for level in compared if level.difference is not None and level.difference.low > 0]
    parts = [f"of {counted(len(compared), 'level')}, the model is shown to be worse than {name} at {len(worse)}"]
    parts.append(f"and better at {len(better)}")
    sentence = f"{' '.join(parts)}."
    if alone := len(levels) - len(compared):
        sentence += f" {counted(alone, 'level')} cannot be compared, because {name} lacks the modality."
    return sentence[:1].upper() + sentence[1:]


def summary_lines(report: CallReport) -> list[str]:
    """The summary of a command: what was measured, and a line for each effect."""
    lines = [
        f"{counted(report.turns, 'turn')} in {counted(report.dialogues, 'dialogue')} of {report.dataset}, split {report.split}, with "
        f"{model_name(report)}",
        lead(report.clean, report.levels()),
    ]
    if report.beside is not None:
        lines.append(comparison(list(report.levels()), model_name(report, beside=True)))
    width = max((len(effect.title) for effect in report.effects), default=0)
    for effect in report.effects:
        values = ", ".join(f"{one.label} {number(one.model.weighted_f1.value)}" for one in effect.levels)
        lines.append(f"{effect.title:<{width}}  {values}")
    return lines


def _negated(figure: Figure) -> Figure:
    return Figure(value=-figure.value, low=-figure.high, high=-figure.low)
