"""The settings that ``mistere tune`` searches, for data of a given size and given modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistere.config.mixture import MixtureConfig
from mistere.metrics.modality_choice import subsets_of
from mistere.model.embeddings import EmbeddedDialogues

if TYPE_CHECKING:
    import optuna

_ENOUGH_FOR_LARGE = 3000
_SEVERAL_MODALITIES = ("fusion", "modality_dropout")
_PROJECTED_WIDTHS = (64, 128, 256)


@dataclass(frozen=True)
class Dimension:
    """One setting of the search space: a range (linear or ``log``), or choices; both contain the initial value.

    Attributes:
        name: the setting; ``SETTING.MODALITY`` is the value of a modality in a setting by modality.
        initial: its value in the initial settings; a subset of modalities is their names joined by ``+``.
        low: lower end of the range.
        high: upper end of the range.
        log: whether the range is logarithmic.
        choices: the values, instead of a range.
    """

    name: str
    initial: Any
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial) -> Any:
        """Suggest a value for the trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        return self.value(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def value(self, suggested: Any) -> Any:
        """The value that a suggestion stands for: 3 significant digits, so that what is printed is what was trained."""
        return suggested if self.choices or suggested == self.initial else float(f"{suggested:.3g}")


def space(data: EmbeddedDialogues, config: MixtureConfig) -> list[Dimension]:
    """The search space for data of this size and these modalities.

    The learning rate matters most and interacts with all other settings. Hidden sizes are limited to what trains fast on a
    laptop and suits a small corpus. Dropouts, weight decay, projections and standardisation decide whether small data is
    overfitted, and every subset of the modalities is tried, because one that adds only noise costs more than it brings. With
    more than three modalities, the subsets are limited to all, all but one, and one. The dropout of the embeddings, their
    projection and the rate of their expert are searched by modality, because modalities differ in width and noise. Depth,
    kernels and the gate's width are fixed, because they have little effect.

    Args:
        data: embeddings; only the train split and the widths are read.
        config: the initial settings, which the space contains; those that are ``auto`` by the values for this data.
    """
    from mistere.model.mixture.automatic_settings import TrainSize, resolve

    config = resolve(config, TrainSize.of(data))
    train = data.split("train")
    large = (256,) if sum(len(dialogue) for dialogue in train) >= _ENOUGH_FOR_LARGE else ()
    batches = tuple(size for size in (4, 8, 16, 32) if 2 * size <= len(train))

    def between(name: str, low: float, high: float, *, log: bool = False) -> Dimension:
        initial = getattr(config, name)
        return Dimension(name, initial, min(low, initial), max(high, initial), log=log)

    def among(name: str, *choices: Any) -> Dimension:
        initial = getattr(config, name)
        return Dimension(name, initial, choices=choices if initial in choices else (*choices, initial))

    names = list(data.dimensions)
    subsets = tuple("+".join(subset) for subset in subsets_of(names))
    dimensions = [Dimension("modalities", subsets[0], choices=subsets)] if len(names) > 1 else []
    dimensions += [
        between("learning_rate", 1e-4, 3e-3, log=True),
        among("weight_decay", 0.0, 1e-6, 1e-5, 1e-4, 1e-3),
        among("batch_dialogues", *batches),
        among("hidden", 32, 64, 128, *large),
        among("standardise", False, True),
        between("skip_dropout", 0.0, 0.5),
        between("context_dropout", 0.0, 0.5),
        between("fusion_dropout", 0.1, 0.6),
        among("focal_gamma", 0.0, 1.0, 2.0, 3.0),
        among("contrastive_weight", 0.0, 0.2, 0.5, 1.0, 2.0),
        among("schedule", "constant", "cosine"),
    ]
    dimensions += _by_modality(config, data.dimensions)
    if len(names) > 1:
        dimensions += [
            among("gate", "learned", "fitted", "mean"),
            among("gate_temperature", 1.0, 2.0, 4.0),
            among("fusion", "co_attention", "feed_forward"),
            between("modality_dropout", 0.0, 0.3),
        ]
    return dimensions


def _by_modality(config: MixtureConfig, widths: Mapping[str, int]) -> list[Dimension]:
    """The settings that each modality has of its own."""
    from mistere.model.mixture.mixture import input_dropouts, projections

    dropouts, projected = input_dropouts(config, widths), projections(config, widths)
    rates = config.expert_rates if isinstance(config.expert_rates, Mapping) else {}
    dimensions = []
    for name, width in widths.items():
        dropout, projection, rate = dropouts[name], projected.get(name, 0), rates.get(name, 1.0)
        dimensions.append(Dimension(f"input_dropout.{name}", dropout, min(0.0, dropout), max(0.5, dropout)))
        choices = sorted({0, projection, *(narrow for narrow in _PROJECTED_WIDTHS if narrow < width)})
        if len(choices) > 1:
            dimensions.append(Dimension(f"projection.{name}", projection, choices=tuple(choices)))
        if len(widths) > 1:
            dimensions.append(Dimension(f"expert_rates.{name}", rate, min(1.0, rate), max(4.0, rate), log=True))
    return dimensions


def subsets_in(dimensions: Sequence[Dimension]) -> list[tuple[str, ...]]:
    """The subsets of the modalities in a search space, the largest first; an empty one alone if it does not vary them."""
    choices = next((dimension.choices for dimension in dimensions if dimension.name == "modalities"), ("",))
    return [tuple(choice.split("+")) for choice in choices]


def initial_parameters(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The initial settings as the parameters of a trial."""
    return {dimension.name: dimension.initial for dimension in dimensions}


def suggest(trial: optuna.Trial, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """Suggest a value for every setting that has an effect beside the values before it."""
    values: dict[str, Any] = {}
    for dimension in dimensions:
        if _has_effect(dimension.name, values):
            values[dimension.name] = dimension.suggest(trial)
    return values


def _has_effect(name: str, values: Mapping[str, Any]) -> bool:
    _, _, modality = name.partition(".")
    if modality and "modalities" in values:
        return modality in values["modalities"].split("+")
    if name in _SEVERAL_MODALITIES:
        return "+" in values["modalities"]
    return name != "gate_temperature" or values["gate"] == "learned"


def as_settings(
    parameters: Mapping[str, Any], dimensions: Sequence[Dimension], config: MixtureConfig
) -> dict[str, Any]:
    """The parameters of a trial as settings of the mixture.

    The fusion's width is twice the hidden size, as published; with the initial hidden size it is the initial one.
    """
    settings: dict[str, Any] = {}
    for dimension in dimensions:
        setting, _, modality = dimension.name.partition(".")
        by_modality = settings.setdefault(setting, {}) if modality else {}
        if dimension.name not in parameters:
            continue
        value = dimension.value(parameters[dimension.name])
        if not modality:
            settings[setting] = value
        elif value or setting != "projection":
            by_modality[modality] = value
    if "modalities" in settings:
        settings["modalities"] = settings["modalities"].split("+")
    hidden = int(settings["hidden"])
    return settings | {"fusion_width": config.fusion_width if hidden == config.hidden else 2 * hidden}
