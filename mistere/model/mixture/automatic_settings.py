"""The settings of the mixture that are ``auto`` (the default of several), from the size of train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from mistere.common.counting import counted
from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.mixture import MixtureOfExperts, projections

_RATE: Final = 5e-4
_COLUMNS: Final = 384
_HIDDEN: Final = 128
"""Columns and hidden width up to which that learning rate holds."""
_FASTEST: Final = 3.0
_STEPS: Final = 3000
_FEWEST_EPOCHS: Final = 15
_MOST_EPOCHS: Final = 60
_WIDE: Final = 1024
_PROJECTED: Final = 128
_FEW_ROWS: Final = 15
_INPUT_DROPOUT: Final = ((_FEW_ROWS, 0.4), (60, 0.1))
"""Rows per column of the widest modality, and the dropout up to there and from there on."""
_MANY_PARAMETERS: Final = 20_000_000


@dataclass(frozen=True)
class TrainSize:
    """The size of train: its dialogues, its utterances that have a label, and the columns of each modality."""

    dialogues: int
    utterances: int
    columns: Mapping[str, int]

    @classmethod
    def of(cls, data: EmbeddedDialogues) -> TrainSize:
        """The size of the train split of ``data``."""
        train = data.split("train")
        return cls(len(train), sum(int(one.labelled.sum()) for one in train), dict(data.dimensions))

    def __str__(self) -> str:
        columns = ", ".join(f"{name} {width}" for name, width in self.columns.items())
        return f"{counted(self.utterances, 'utterance')} in {counted(self.dialogues, 'dialogue')}; columns: {columns}"


def automatic_values(config: MixtureConfig, size: TrainSize) -> dict[str, Any]:
    """The value of each setting that is ``auto``, by rules of thumb; the others are not among them.

    - ``learning_rate``: 5e-4, less by the square root for a widest modality of more than 384 columns, and in proportion for a hidden
      width of more than 128. A step of Adam moves each weight by the rate, so the output of a layer moves with its number of inputs.
    - ``expert_rates``: for the same reason the expert of a narrow modality learns slowly, and the training ends before it has learnt,
      because it ends by the mixture's score. Its rate is multiplied by the square root of the widest modality's columns per
      own column, up to 3.
    - ``input_dropout`` and ``skip_dropout``: the convolutions and the skip read the raw columns and fit each train utterance if there are few
      rows per column; from 0.4 up to 15 rows per column to 0.1 from 60 on.
    - ``context_dropout``, ``fusion_dropout`` and ``weight_decay``: 0.5, 0.5 and 1e-4, as usual for corpora of conversations.
    - ``epochs`` and ``patience``: about 3,000 steps, but 15 to 60 epochs, and a quarter of them without improvement.
    - ``projection``: to 128 columns where a modality has 1,024 or more, but fewer than 15 rows per column. The rules of the rates then
      count 128.

    docs/guides/mixture.md has the measurements.

    Args:
        config: the settings.
        size: of train.
    """
    projection = config.projection
    if projection == "auto":
        projection = {
            name: _PROJECTED
            for name, width in size.columns.items()
            if width >= _WIDE and size.utterances < _FEW_ROWS * width
        }
    columns = dict(size.columns) | projections(config.model_copy(update={"projection": projection}), size.columns)
    widest = max(columns.values())
    rate = _RATE * min(1.0, math.sqrt(_COLUMNS / widest)) * min(1.0, _HIDDEN / config.hidden)
    steps = max(1, math.ceil(size.dialogues / config.batch_dialogues))
    usual = min(max(round(_STEPS / steps), _FEWEST_EPOCHS), _MOST_EPOCHS)
    epochs = usual if config.epochs == "auto" else config.epochs
    dropout = _input_dropout(size.utterances / max(size.columns.values()))
    values: dict[str, Any] = {
        "learning_rate": float(f"{rate:.2g}"),
        "expert_rates": {
            name: round(min(_FASTEST, math.sqrt(widest / width)), 2)
            for name, width in columns.items()
            if width < widest
        },
        "weight_decay": 1e-4,
        "epochs": epochs,
        "patience": max(4, epochs // 4),
        "projection": projection,
        "input_dropout": dropout,
        "skip_dropout": dropout,
        "context_dropout": 0.5,
        "fusion_dropout": 0.5,
    }
    return {name: value for name, value in values.items() if getattr(config, name) == "auto"}


def _input_dropout(rows_per_column: float) -> float:
    """Dropout of the embeddings: less the more rows there are per column, by the logarithm."""
    (few, most), (many, least) = _INPUT_DROPOUT
    share = math.log(max(rows_per_column, few) / few) / math.log(many / few)
    return round(most - (most - least) * min(1.0, share), 2)


def resolve(config: MixtureConfig, size: TrainSize) -> MixtureConfig:
    """The settings with a value for each that was ``auto``."""
    return config.model_copy(update=automatic_values(config, size))


def describe(values: Mapping[str, Any], size: TrainSize) -> str:
    """One line that says which values were chosen and for what size of train; empty if there are none."""
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
    return f"{size}: {shown}" if values else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {number:g}" for name, number in value.items()) + "}"
    return f"{value:g}"


def parameter_groups(config: MixtureConfig, model: MixtureOfExperts) -> list[dict[str, Any]]:
    """The model's parameters for the optimiser, those of experts with a learning rate of their own in groups of their own.

    The ``factor`` of a group multiplies the learning rate.
    """
    if config.expert_rates == "auto":
        raise ValueError("mixture.expert_rates is still 'auto'; resolve the settings for the data first")
    groups: dict[float, list[Any]] = {}
    for name, parameter in model.named_parameters():
        part, _, rest = name.partition(".")
        own = part in {"unimodal", "projections"}
        groups.setdefault(config.expert_rates.get(rest.partition(".")[0], 1.0) if own else 1.0, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def uses_bf16(config: MixtureConfig, device: torch.device, parameters: int) -> bool:
    """Whether training uses bf16 products.

    On a GPU that supports it ``auto`` uses bf16 from 20 million parameters on. The number is from a CPU with bf16 products: with 2
    million parameters bf16 trains at 0.9 times the speed of fp32, because casting costs more than the products save, with 90
    million at 1.6 times. It was not measured on a GPU.

    Args:
        config: the settings.
        device: of the training.
        parameters: the model's number of parameters.
    """
    if device.type == "cuda":
        wanted = config.precision == "bf16" or (config.precision == "auto" and parameters >= _MANY_PARAMETERS)
        return wanted and torch.cuda.is_bf16_supported()
    return config.precision == "bf16" and torch.cpu._is_avx512_bf16_supported()
