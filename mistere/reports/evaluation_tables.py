"""Tables and sentences about an evaluation: dialogues turn by turn, slices, running costs, the speaker probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.common.counting import counted
from mistere.evaluation.gate_timeline import GateTimeline
from mistere.metrics.slices import SlicePoint, slices_from_metrics
from mistere.reports.evaluated_model import COVERAGE, Evaluated, bounds_text, estimate_text
from mistere.reports.plots import expert_color, spoken
from mistere.runs.outcome import Estimate

_LEGIBLE_PERCENT = 14
_LEAST_UTTERANCES = 30
_OPEN_ROWS = 6
_KINDS = {
    "modalities": ("Modalities of the utterance", ""),
    "dialogue_turns": ("Turns of the dialogue", " turns"),
    "words": ("Words of the utterance", " words"),
    "seconds": ("Seconds of speech", " s"),
}
_COSTS = (
    ("runtime.dialogue_ms.p50", "per dialogue, median", "{:,.0f} ms"),
    ("runtime.dialogue_ms.p95", "per dialogue, 95th percentile", "{:,.0f} ms"),
    ("runtime.unloaded_ms.p95", "per dialogue, 95th percentile, without the time other processes took", "{:,.0f} ms"),
    ("runtime.utterance_ms", "per utterance, mean", "{:,.0f} ms"),
    ("runtime.memory_mb", "memory of the loaded model", "{:,.0f} MiB"),
    ("runtime.size_mb", "size of the bundle", "{:,.1f} MiB"),
    ("runtime.size_with_base_mb", "size with the encoders' base weights", "{:,.1f} MiB"),
)


@dataclass(frozen=True)
class Share:
    """An expert's gate weight in a turn."""

    name: str
    color: str
    percent: float

    @property
    def legible(self) -> bool:
        """Whether its bar is wide enough for its number."""
        return self.percent >= _LEGIBLE_PERCENT


@dataclass(frozen=True)
class TurnRow:
    """A turn of a dialogue; ``lacking`` names its missing modalities."""

    number: int
    text: str
    true: str
    predicted: str
    lacking: list[str]
    shares: list[Share]

    @property
    def spoken_shares(self) -> str:
        """The bar as text, for screen readers."""
        return ", ".join(f"{share.name} {share.percent:.0f} %" for share in self.shares)


@dataclass(frozen=True)
class ShownDialogue:
    """A dialogue turn by turn."""

    name: str
    turns: list[TurnRow]

    @property
    def has_texts(self) -> bool:
        """Whether any of its turns has a transcript."""
        return any(turn.text for turn in self.turns)


@dataclass(frozen=True)
class SliceRow:
    """A slice of the test split, with an estimate per model; None for a model that lacks the slice."""

    name: str
    utterances: int
    estimates: list[Estimate | None]

    @property
    def marks(self) -> list[dict[str, str] | None]:
        """Positions of the estimates and their intervals on a track from 0 to 1."""
        return [None if estimate is None else interval_mark(estimate) for estimate in self.estimates]


@dataclass(frozen=True)
class SliceTable:
    """The slices of one kind."""

    title: str
    rows: list[SliceRow]

    @property
    def open(self) -> bool:
        """Whether the table is short enough to be shown unfolded."""
        return len(self.rows) <= _OPEN_ROWS


def shown_dialogue(timeline: GateTimeline, experts: Sequence[str]) -> ShownDialogue:
    """A timeline as rows.

    Args:
        timeline: the dialogue.
        experts: names in the order of the weights; the cross-modal expert is the last.
    """
    texts = timeline.texts or [""] * len(timeline.turns)
    turns = []
    for turn, text, true, predicted, modalities, weights in zip(
        timeline.turns,
        texts,
        timeline.true,
        timeline.predicted,
        timeline.modalities,
        timeline.weights.tolist(),
        strict=True,
    ):
        present = modalities.split("+")
        turns.append(
            TurnRow(
                number=turn + 1,
                text=_visible(text),
                true=true,
                predicted=predicted,
                lacking=[spoken(name) for name in experts[:-1] if name not in present],
                shares=[
                    Share(spoken(name), expert_color(name, position), 100 * weight)
                    for position, (name, weight) in enumerate(zip(experts, weights, strict=True))
                    if weight > 0
                ],
            )
        )
    return ShownDialogue(_visible(timeline.name), turns)


def _visible(text: str) -> str:
    """Replace control characters by spaces."""
    return "".join(" " if ord(letter) < 32 or 127 <= ord(letter) < 160 else letter for letter in text)


def slice_tables(models: Sequence[Evaluated]) -> list[SliceTable]:
    """The slices of each kind; a slice that one model lacks is shown for the other one."""
    slices = [slices_from_metrics(model.evaluation.metrics) for model in models]
    by_kind: dict[str, dict[str, list[SlicePoint | None]]] = {}
    for number, points in enumerate(slices):
        for point in points:
            row = by_kind.setdefault(point.kind, {}).setdefault(point.value, [None] * len(models))
            row[number] = point
    return [_slice_table(kind, rows) for kind, rows in by_kind.items() if len(rows) > 1]


def _slice_table(kind: str, rows: Mapping[str, Sequence[SlicePoint | None]]) -> SliceTable:
    title, _ = _KINDS.get(kind, (f"Column {kind}", ""))
    return SliceTable(
        title,
        [
            SliceRow(
                _value(kind, value),
                max(point.utterances for point in points if point),
                [_estimate(point) if point else None for point in points],
            )
            for value, points in rows.items()
        ],
    )


def _estimate(point: SlicePoint) -> Estimate:
    f1 = point.weighted_f1
    return Estimate(value=f1.value, low=f1.low, high=f1.high)


def _value(kind: str, value: str) -> str:
    if kind == "modalities":
        return value.replace("+", " and ")
    if kind not in _KINDS:
        return value
    low, dash, high = value.partition("-")
    if not dash:
        return value.replace("+", " and more")
    return low if low == high else f"{low} to {high}"


def weakest_parts(model: Evaluated, models: Sequence[Evaluated] = ()) -> str:
    """A sentence on the slices whose interval lies below the split's weighted F1; empty without slices.

    Args:
        model: the model that the sentence is about.
        models: all models of the page. A slice is judged only if all of them have it, so that two models with the same predictions
            get the same sentence; :func:`unshared_parts` names the others.
    """
    whole = model.estimate("test.weighted_f1")
    names = [_slice_names(other) for other in models if other is not model]
    points = [
        point
        for point in slices_from_metrics(model.evaluation.metrics)
        if point.utterances >= _LEAST_UTTERANCES and all((point.kind, point.value) in other for other in names)
    ]
    return "" if whole is None or not points else _weakest(points, whole.value)


def unshared_parts(models: Sequence[Evaluated]) -> str:
    """Sentences on the slices that a model lacks, so that no model is judged by them; empty if there are none."""
    names = [_slice_names(model) for model in models]
    every = dict.fromkeys(name for own in names for name in own)
    sentences = []
    for model, own in zip(models, names, strict=True):
        kinds = dict.fromkeys(kind for kind, value in every if (kind, value) not in own)
        if kinds:
            words = ", ".join(_KINDS[kind][0].lower() if kind in _KINDS else f"column {kind}" for kind in kinds)
            sentences.append(
                f"{model.title} was not measured on every part by {words}; such a part is judged for neither model."
            )
    return " ".join(sentences)


def _slice_names(model: Evaluated) -> dict[tuple[str, str], None]:
    """Kind and value of each slice, in the order of the tables."""
    return {(point.kind, point.value): None for point in slices_from_metrics(model.evaluation.metrics)}


def _weakest(points: Sequence[SlicePoint], whole: float) -> str:
    weak = sorted((p for p in points if p.weighted_f1.high < whole), key=lambda p: p.weighted_f1.value)
    if not weak:
        return (
            f"No part with at least {_LEAST_UTTERANCES} utterances is clearly weaker than the whole test split "
            f"({whole:.3f})."
        )
    parts = "; ".join(
        f"{_described(p)} with {p.weighted_f1.value:.3f} ({counted(p.utterances, 'utterance')})" for p in weak[:3]
    )
    return f"Clearly weaker than the whole test split ({whole:.3f}): {parts}."


def _described(point: SlicePoint) -> str:
    _, unit = _KINDS.get(point.kind, ("", ""))
    value = _value(point.kind, point.value)
    if point.kind == "modalities":
        return f"utterances with {value}" if value != "none" else "utterances with no modality"
    return f"{value}{unit}" if point.kind in _KINDS else f"{point.kind} {value}"


def cost_rows(models: Sequence[Evaluated]) -> list[tuple[str, list[str]]]:
    """Running costs of the models, a row per cost; costs that were not measured are left out."""
    rows = []
    for key, title, form in _COSTS:
        values = [model.evaluation.runtime.get(key) for model in models]
        if any(value is not None for value in values):
            rows.append((title, ["not measured" if value is None else form.format(value) for value in values]))
    losses = [model.estimate("test.int8.loss") for model in models]
    if any(loss is not None for loss in losses):
        cells = [
            "not measured" if one is None else f"{one.value:+z.3f} ({bounds_text(one, signed=True)})" for one in losses
        ]
        rows.append(("loss of weighted F1 with int8 encoders", cells))
    return rows


def calibration_text(model: Evaluated) -> str:
    """Expected calibration error and Brier score in words; empty if neither was measured."""
    named = (("Expected calibration error", "test.ece"), ("Brier score", "test.brier"))
    return ", ".join(
        f"{words} {estimate_text(estimate)}" for words, name in named if (estimate := model.estimate(name)) is not None
    )


def probe_sentence(model: Evaluated) -> str:
    """How well the model's internal representation identifies speakers, in words; empty if it was not measured."""
    metrics = model.evaluation.metrics
    accuracy, beyond = model.estimate("test.speaker_probe.accuracy"), model.estimate("test.speaker_probe.beyond_chance")
    chance, speakers = metrics.get("test.speaker_probe.chance"), metrics.get("test.speaker_probe.speakers")
    if accuracy is None or chance is None:
        return ""
    among = f", one of {speakers:.0f}," if speakers else ""
    text = (
        f"A linear probe on the mixture's internal representation identifies the speaker{among} of {_percent(accuracy)} of the test "
        f"utterances; always naming the most frequent speaker of the emotion identifies {100 * chance:.0f} %."
    )
    if beyond is not None and beyond.low is not None and beyond.high is not None:
        text += (
            f" That is {100 * beyond.value:+z.0f} points above chance ({COVERAGE} interval {100 * beyond.low:+z.0f} to "
            f"{100 * beyond.high:+z.0f})"
            + (
                ": the representation identifies speakers."
                if beyond.low > 0
                else ", which does not show that the representation identifies speakers."
            )
        )
    return f"{text} This is only an indicator: the model may not use what a probe can read."


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.0f} %"
    return f"{100 * estimate.value:.0f} % ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def interval_mark(estimate: Estimate) -> dict[str, str]:
    """The position of an estimate and its interval on a track from 0 to 1, as CSS lengths."""
    low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
    low, high, value = (min(max(end, 0.0), 1.0) for end in (low, high, estimate.value))
    return {
        "left": f"{100 * low:.1f}%",
        "width": f"{100 * (high - low):.1f}%",
        "at": f"{100 * value:.1f}%",
        "value": f"{estimate.value:.3f}",
        "bounds": bounds_text(estimate),
    }
