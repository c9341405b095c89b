"""Render the page's views as HTML: values are computed here, the templates only lay them out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.common.counting import counted
from pipelines.cli.demo.conversation import Conversation, ConversationTurn, LabelChange

if TYPE_CHECKING:
    import jinja2

    from mistere.serving.client import EndpointPrediction

EXPERT_COLORS = {"speech": "#c06a14", "text": "#3f76cf", "cross_modal": "#22876a"}
_OTHER_COLOR = "#8a94a3"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Part:
    """A segment of a bar: its name, its share of the bar in 0..1, and its colour."""

    name: str
    share: float
    color: str = ""

    @property
    def size(self) -> str:
        """The share as a CSS length."""
        return f"{100 * self.share:.2f}%"

    @property
    def percent(self) -> str:
        """The share as text."""
        return percent(self.share)


@dataclass(frozen=True)
class Cell:
    """The probability of an emotion in a turn.

    Attributes:
        words: the probability as text.
        share: the same as a number for the style sheet.
        chosen: whether it is the predicted emotion.
        earlier: where it was the predicted emotion until a later turn changed it: until which turn, in words.
    """

    words: str
    share: str
    chosen: bool
    earlier: str


@dataclass(frozen=True)
class Reason:
    """A part of the probability of an emotion, as a bar to the right of zero, or in another colour if it is negative.

    Attributes:
        name: what it comes from.
        size: its size as a CSS length.
        words: the same as text.
        against: whether it is negative.
    """

    name: str
    size: str
    words: str
    against: bool

    @classmethod
    def of(cls, name: str, share: float) -> Reason:
        """A part of this size; the response is not trusted."""
        value = min(1.0, max(-1.0, share)) if share == share else 0.0
        words = f"{'−' if value < 0 else ''}{percent(abs(value))}"
        return cls(name, f"{100 * abs(value):.2f}%", words, value < 0)


def percent(share: float) -> str:
    """Format a share, for example ``62 %``; a share above 0 is never shown as 0."""
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def show_conversation(conversation: Conversation) -> str:
    """Render the turns: text, modalities used, and predicted emotion."""
    answer = conversation.answer
    if answer is None:
        return _render("conversation.html", turns=[])
    shares, weights = _shares(answer.probabilities), expert_weights(answer)
    turns = []
    for index, turn in enumerate(conversation.turns):
        most = max(weights[index], key=lambda part: part.share, default=None)
        change = conversation.last_change(index)
        row = {
            "text": turn.text,
            "seconds": f"{turn.seconds:.1f} s" if turn.audio else "",
            "images": ", ".join(_shown_cell(name, cell) for name, cell in turn.others.items()),
            "heard": heard_by(turn, answer.modalities[index]),
            "leader": f"{most.name} {most.percent}" if most and answer.predicted[index] else "",
            "label": answer.predicted[index] or "context",
            "percent": percent(float(shares[index].max())) if answer.predicted[index] else "",
            "changed": f"was {change.before} until turn {change.by + 1}" if change else "",
        }
        turns.append(row)
    return _render("conversation.html", turns=turns)


def show_last(conversation: Conversation) -> str:
    """Render the probabilities of the last turn as bars, highest first."""
    answer = conversation.answer
    if answer is None:
        return _render("last.html", bars=[], number=0, reasons=[], turns="")
    bars = [Part(*each) for each in zip(answer.labels, _shares(answer.probabilities)[-1], strict=True)]
    return _render(
        "last.html",
        bars=sorted(bars, key=lambda bar: -bar.share),
        number=len(conversation.turns),
        reasons=_reasons(answer) if answer.predicted[-1] else [],
        turns=_influential(answer),
    )


def _reasons(answer: EndpointPrediction) -> list[Reason]:
    """What the probability of the last turn's emotion consists of; none if the answer does not say."""
    explanation = answer.explanation
    if explanation is None:
        return []
    parts = [("the other turns alone", float(explanation.baselines[-1]))]
    parts += [
        (f"its {name}", float(share))
        for name, share in zip(explanation.modalities, explanation.contributions[-1], strict=True)
    ]
    return [Reason.of(*part) for part in parts]


def _influential(answer: EndpointPrediction) -> str:
    """The turns that mattered most for the last one, in words; empty if the answer names none."""
    explanation = answer.explanation
    if explanation is None:
        return ""
    return ", ".join(
        f"turn {turn + 1} ({'for' if influence > 0 else 'against'} it, {percent(abs(influence))})"
        for turn, influence in zip(explanation.turns[-1].tolist(), explanation.influences[-1].tolist(), strict=True)
        if 0 <= turn < len(answer.predicted) - 1
    )


def show_timeline(conversation: Conversation) -> str:
    """Render the emotion probabilities per turn, and the experts' weights below each turn."""
    answer = conversation.answer
    if answer is None:
        return _render("timeline.html", emotions=[], weights=[], last=[], version="", changed=False)
    shares = _shares(answer.probabilities)
    weights = expert_weights(answer)
    changes = [conversation.last_change(turn) for turn in range(len(conversation.turns))]
    emotions = [
        (
            label,
            [
                Cell(percent(share), f"{share:.3f}", label == answer.predicted[turn], _earlier(changes[turn], label))
                for turn, share in enumerate(row)
            ],
        )
        for label, row in zip(answer.labels, shares.T, strict=True)
    ]
    return _render(
        "timeline.html",
        emotions=emotions,
        weights=weights,
        last=weights[-1],
        version=answer.parameters.get("model_version", ""),
        changed=any(changes),
    )


def _earlier(change: LabelChange | None, label: str) -> str:
    return f"predicted until turn {change.by + 1}" if change is not None and change.before == label else ""


def show_live(destination: str, has_interim: bool) -> str:
    """Render the microphone's button; ``live.js`` fills in the turns.

    Args:
        destination: where the sound is sent, in words.
        has_interim: whether open turns are answered, too.
    """
    return _render("live.html", destination=destination, interim=str(has_interim).lower())


def show_trouble(conversation: Conversation) -> str:
    """Render the last error; empty if there is none."""
    return _render("trouble.html", sentence=conversation.trouble)


def expert_weights(answer: EndpointPrediction) -> list[list[Part]]:
    """The experts' weights per turn as segments of one bar; an expert with weight 0 in all turns is omitted."""
    weights = _shares(answer.expert_weights)
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    present = [index for index in range(weights.shape[1]) if weights[:, index].any()]
    names = answer.experts
    return [
        [
            Part(names[index].replace("_", "-"), float(row[index]), EXPERT_COLORS.get(names[index], _OTHER_COLOR))
            for index in present
        ]
        for row in weights
    ]


def heard_by(turn: ConversationTurn, modalities: str) -> str:
    """Describe which modalities a turn was predicted from, and which were missing or not used.

    Args:
        turn: the turn that was sent.
        modalities: the modalities that the endpoint used: names joined by ``+``, or ``none``.
    """
    used = [name for name in modalities.split("+") if name not in ("", "none")]
    unused = [
        f"{what} not used" if given else f"no {what}"
        for name, what, given in (("speech", "audio", turn.audio), ("text", "text", turn.text))
        if name not in used
    ]
    unused += [f"{name} not used" for name in turn.others if name not in used]
    heard = f"heard by {' and '.join(used)}" if used else "heard by nothing: judged by the turns around it"
    return f"{heard} ({', '.join(unused)})" if unused else heard


def _shown_cell(name: str, cell: Any) -> str:
    """What a turn has of a further modality, in words."""
    return f"{name}: {counted(len(cell), 'image')}" if isinstance(cell, tuple) else name


def _shares(values: np.ndarray) -> np.ndarray:
    """Clip values to 0..1 and replace NaN by 0, since the response is not trusted."""
    return np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0.0, 1.0)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> str:
    """The page's CSS, for its head."""
    return (_TEMPLATES / "style.html").read_text(encoding="utf-8")


def heading(destination: str) -> str:
    """Render the heading: what the page does, and where its input is sent."""
    return _render("heading.html", destination=destination)
