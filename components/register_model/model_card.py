"""The model card in the form of the Hugging Face hub. It does not vary between runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistere.artifacts.manifests import EvaluationReport, ModelBundle, UtteranceSet
from mistere.data.calls.catalogue import LEVELS
from mistere.data.conditions import condition_named, usual_conditions
from mistere.metrics.classification import Interval
from mistere.metrics.missing_curve import curve_from_metrics
from mistere.metrics.robustness import calls_from_metrics, robustness_from_metrics
from mistere.runs.outcome import Estimate
from mistere.serving.protocol import embedding_name

TEMPLATE = "model_card.md"
_KNOWN_LICENCES = re.compile(
    r"(apache-2\.0|mit|bsd-[23]-clause|gpl-[23]\.0|lgpl-[23](\.[01])?|agpl-3\.0|openrail|cc0-1\.0|cc-by(-nc|-sa|-nd|-nc-sa|-nc-nd)?-[234]\.0)"
)
"""Licence identifiers of the hub; any other licence is ``other`` with its name."""


@dataclass(frozen=True)
class TrainingData:
    """What the card says of the data; what is unknown is empty.

    Attributes:
        name: of the dataset, or of the folder of embeddings.
        dvc_digest: version of the dataset.
        embeddings: fingerprint of the embeddings, if the model was trained on those alone.
        rows: utterances by split.
        dialogues: dialogues by split.
        speaker_disjoint: whether no speaker is in two splits; None if unknown.
        predict_roles: the roles whose turns are predicted; empty for all turns.
    """

    name: str
    dvc_digest: str = ""
    embeddings: str = ""
    description: str = ""
    language: str = ""
    licence: str = ""
    synthetic: bool = False
    speaker_disjoint: bool | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    dialogues: Mapping[str, int] = field(default_factory=dict)
    predict_roles: Sequence[str] = ()

    @classmethod
    def of(cls, data: UtteranceSet, embeddings: str = "") -> TrainingData:
        """Of a dataset, and of the fingerprint of embeddings if the model was trained on those alone."""
        names = (
            "name",
            "dvc_digest",
            "description",
            "language",
            "licence",
            "synthetic",
            "speaker_disjoint",
            "rows",
            "dialogues",
            "predict_roles",
        )
        return cls(embeddings=embeddings, **{name: getattr(data, name) for name in names})


def model_card(
    bundle: ModelBundle,
    data: TrainingData,
    report: EvaluationReport,
    widths: Mapping[str, int] | None = None,
    *,
    example: bool = True,
) -> str:
    """The card as Markdown with YAML in front.

    Args:
        bundle: the manifest, without its files.
        data: the training data.
        report: the evaluation.
        widths: for a model that takes vectors, the numbers of each modality's.
        example: whether the bundle has an example dialogue.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (Markdown, whose texts the filter `md` escapes)
    )
    environment.filters |= {"yaml": _yaml_text, "md": _markdown_text}
    licence = data.licence.strip().lower()
    return environment.get_template(TEMPLATE).render(
        name=bundle.name,
        data=data,
        licence=licence if _KNOWN_LICENCES.fullmatch(licence) else "other",
        bases=sorted({base for encoder in bundle.encoders.values() if (base := _hub_name(encoder.identity.source))}),
        modalities=list(bundle.encoders or bundle.vectors),
        vectors=[(embedding_name(name), width, bundle.vectors[name].digest) for name, width in (widths or {}).items()],
        experts=[name.replace("_", "-") for name in bundle.experts],
        labels=[_markdown_text(label) for label in bundle.labels],
        headline=_named(report.metrics, _HEADLINE),
        figures=[*_named(report.metrics, _FIGURES), *_experts(report), *_degraded(report.metrics)],
        classes=[
            (label, estimate, report.metrics.get(f"test.support.{label}", 0.0))
            for label in report.labels
            if (estimate := Estimate.of(report.metrics, f"test.f1.{label}"))
        ],
        calls=_calls(report.metrics),
        limits=_limits(report.metrics),
        report_utterances=report.utterances,
        context=report.context,
        digests=bundle.digests,
        teacher=bundle.teacher.bundle_digest if bundle.teacher else "",
        example=example,
    )


_HEADLINE = {"Weighted F1": "test.weighted_f1", "Macro F1": "test.macro_f1", "Accuracy": "test.accuracy"}
_FIGURES = {"Expected calibration error": "test.ece", "Brier score": "test.brier"}


def _named(metrics: dict[str, float], names: Mapping[str, str]) -> list[tuple[str, Estimate]]:
    return [(title, estimate) for title, name in names.items() if (estimate := Estimate.of(metrics, name))]


def _experts(report: EvaluationReport) -> list[tuple[str, Estimate]]:
    return [
        (f"Weighted F1 of the {expert.replace('_', '-')} expert alone", estimate)
        for expert in report.experts
        if (estimate := Estimate.of(report.metrics, f"test.expert.{expert}.weighted_f1"))
    ]


def _degraded(metrics: dict[str, float]) -> list[tuple[str, Estimate]]:
    rows = []
    for point in curve_from_metrics(metrics):
        if point.share in (0.5, 1.0):
            title = f"Weighted F1 with {100 * point.share:.0f} % of {point.modality} missing"
            rows.append((title, Estimate(**vars(point.weighted_f1))))
    for degraded in robustness_from_metrics(metrics, list(usual_conditions())):
        condition = condition_named(degraded.condition)
        title = f"Weighted F1 with {condition.words if condition else degraded.condition}"
        rows.append((title, Estimate(**vars(degraded.weighted_f1))))
    return rows


def _calls(metrics: dict[str, float]) -> list[tuple[str, Interval, Interval]]:
    """Words, weighted F1 and calibration error of each measured level of the effects of real calls; none if they were not measured."""
    figures = calls_from_metrics(metrics)
    if figures is None:
        return []
    named = [("without an effect", figures.clean)]
    named += [(level.words, figures.levels[name]) for name, level in LEVELS.items() if name in figures.levels]
    return [(words, level.model.weighted_f1, level.model.ece) for words, level in named]


def _limits(metrics: dict[str, float]) -> list[str]:
    """Limits that the metrics show."""
    limits = []
    beyond = Estimate.of(metrics, "test.speaker_probe.beyond_chance")
    if beyond is not None and beyond.low is not None and beyond.low > 0:
        limits.append(
            f"A linear probe identifies speakers from its representation {100 * beyond.value:.0f} points better than chance: the "
            "representation of an utterance is not anonymous."
        )
    return limits


def _hub_name(source: str) -> str:
    """Id on the Hugging Face hub, if the base weights come from there; otherwise empty."""
    return source.removeprefix("hub:").partition("@")[0] if source.startswith("hub:") else ""


def _yaml_text(value: Any) -> str:
    """A quoted string that YAML reads back unchanged."""
    return json.dumps(str(value), ensure_ascii=False)


def _markdown_text(value: Any) -> str:
    """Text with Markdown syntax escaped."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\\\`*_\[\]<>|#])", r"\\\1", text)
